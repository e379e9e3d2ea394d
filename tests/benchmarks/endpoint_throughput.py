"""What the endpoint client leaves of an endpoint's throughput, samples kept on disk included.

A process of its own plays the endpoint: it answers after 50 ms and has 64 slots, so that it gives at most 1,280 answers
a second. First the plainest client that can be, sockets without a parser, says what this machine lets that process
reach; then an evaluation's way is taken: `Recorded` over the HTTP client, into a fresh sample store. A quarter more
requests than slots are in flight, so that a slot that becomes free finds one. Client and endpoint take a core each: on
two cores that others use, both lose.

    python tests/benchmarks/endpoint_throughput.py [--requests 6000] [--slots 64] [--milliseconds 50] [--at-once 80]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from components.inference.sampling import SamplingParams
from components.inference.text import TextPrompt
from components.reasoning.endpoints.client import Endpoint, EndpointSettings
from components.reasoning.endpoints.recorded import Recorded
from components.reasoning.endpoints.store import SampleStore

SAID = {
    "choices": [{"message": {"content": "3 + 1 = 4. The answer is 4."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 11},
}
BODY = json.dumps(SAID).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
LENGTH = b"content-length:"


def play(slots: int, seconds: float, port: multiprocessing.Queue[int]) -> None:
    """The endpoint."""

    async def serve() -> None:
        free = asyncio.Semaphore(slots)

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await _head(reader):
                await reader.readexactly(int(head[head.index(LENGTH) + len(LENGTH) :].split(b"\r\n", 1)[0]))
                async with free:
                    await asyncio.sleep(seconds)
                writer.write(RESPONSE)
            writer.close()

        server = await asyncio.start_server(client, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).lower()
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def plain(port: int, requests: int, at_once: int) -> float:
    """Answers a second that bare sockets get."""
    asked = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    left = iter(range(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(asked)
            await reader.readexactly(len(RESPONSE))
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(at_once)))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    return requests / (time.perf_counter() - began)


def evaluated(port: int, requests: int, at_once: int) -> tuple[float, float]:
    """Answers a second that an evaluation gets, and processor seconds of an answer."""
    settings = EndpointSettings(f"http://127.0.0.1:{port}/v1", "fake", at_once=at_once)
    with tempfile.TemporaryDirectory() as folder, SampleStore(Path(folder) / "samples.db") as store:
        with Endpoint(settings) as endpoint:
            generate = Recorded(endpoint, store, "benchmark")
            began, used = time.perf_counter(), time.process_time()
            groups = generate([TextPrompt(f"{n} + 1 = ?") for n in range(requests)], SamplingParams(temperature=0.0))
            wall, used = time.perf_counter() - began, time.process_time() - used
        assert all(group[0].text for group in groups)
        assert store.ledger("benchmark").completion_tokens == 11 * requests
    return requests / wall, used / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    parser.add_argument("--at-once", type=int, default=80)
    wanted = parser.parse_args()
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    endpoint = multiprocessing.Process(target=play, args=(wanted.slots, wanted.milliseconds / 1000, port), daemon=True)
    endpoint.start()
    at = port.get()
    most = wanted.slots / wanted.milliseconds * 1000
    bare = plain(at, wanted.requests, wanted.at_once)
    ours, cpu = evaluated(at, wanted.requests, wanted.at_once)
    endpoint.terminate()
    print(f"the endpoint's own   {most:7.0f} answers/s")
    print(f"bare sockets         {bare:7.0f} answers/s  {bare / most:6.1%}")
    print(f"an evaluation        {ours:7.0f} answers/s  {ours / most:6.1%}  {cpu * 1000:.2f} ms of processor each")


if __name__ == "__main__":
    main()
