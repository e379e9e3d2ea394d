"""An S3 server on loopback (moto), which counts the requests that it was sent."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_REQUEST = re.compile(r'"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP/1\.1"')


@dataclass
class S3:
    """A running server with one empty bucket."""

    url: str  # s3://bucket
    endpoint: str
    log: Path
    process: subprocess.Popen[bytes]
    seen: int = 0

    def requests(self) -> Counter[str]:
        """The requests since the last call, by method."""
        lines = _REQUEST.findall(self.log.read_text(errors="replace"))
        new, self.seen = lines[self.seen :], len(lines)
        return Counter(method for method, _ in new)


@contextmanager
def s3_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Start the server and point the environment of this process, and of what it starts, at it."""
    pytest.importorskip("moto", reason="moto is not installed: pip install '.[dev]'")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a file system of an earlier test has an earlier server
    log = folder / "moto.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(300):
            try:
                opener.open(f"{endpoint}/moto-api/", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("lifespan")
        server = S3("s3://lifespan", endpoint, log, process)
        server.requests()
        yield server
    finally:
        process.kill()
        process.wait()
        s3fs.S3FileSystem.clear_instance_cache()
