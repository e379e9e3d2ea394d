"""`lifespan serve` and `lifespan chat` as a user types them, on a saved model in a folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from components.data.tokenizer import Tokenizer
from components.inference.conversation import Conversation
from components.inference.engine import Engine
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer
from components.training.checkpoints import load_model, save_model
from flows.commands.chat import talk
from flows.commands.cli import app
from flows.runs.models import OpenedModel, open_model
from flows.services.model_server import ServeOptions
from flows.settings import ConfigError
from storage.home import Home

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tokenizer = Tokenizer.train(["3+4=7; the king and the bell."] * 3, 280)
    tokenizer.save(folder)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=64), 1)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    save_model(folder, model)
    return folder


@contextmanager
def serving(
    folder: Path, home: Path, *arguments: str, program: str = PROGRAM, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(folder), "--port", "0", *arguments],
        env={**os.environ, "LIFESPAN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving tiny at http://127.0.0.1:"), line + process.stderr.read()
        yield line.split()[3].removesuffix("/v1"), process
    finally:
        process.kill()
        process.communicate()


def send(url: str, body: dict[str, Any] | None = None, key: str = "a-key-of-mine") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(body).encode() if body else None, headers), timeout=60
    )


def post(url: str, body: dict[str, Any], key: str = "a-key-of-mine") -> Any:
    return send(f"{url}/v1/completions", body, key)


def metric(url: str, name: str) -> float:
    with send(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_a_served_model_answers_who_has_the_key_frees_what_is_left_and_ends_when_told_to(
    folder: Path, tmp_path: Path
) -> None:
    with serving(folder, tmp_path, "--slots", "2", LIFESPAN_API_KEY="a-key-of-mine") as (url, process):
        body = {"model": "tiny", "prompt": "3+4=", "max_tokens": 8, "seed": 1}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(url, body, key="another")
        with post(url, body) as first, post(url, body) as again:
            told = json.load(first)
            assert told["choices"] == json.load(again)["choices"] and told["usage"]["prompt_tokens"] == 4
        # A client that hangs up in the middle of a stream of endless answers gives its slots back.
        generated = metric(url, "lifespan_completion_tokens_total")
        stream = post(url, {"model": "tiny", "prompt": "3", "max_tokens": 60, "n": 200, "stream": True})
        assert stream.readline().startswith(b"data: ")
        stream.close()
        deadline = time.monotonic() + 20
        while metric(url, "lifespan_running_sequences") + metric(url, "lifespan_waiting_sequences") > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert metric(url, "lifespan_completion_tokens_total") - generated < 200 * 20
        process.send_signal(signal.SIGTERM)
        shown = "".join(process.communicate(timeout=20))
        assert process.returncode == 0, shown
        assert "a-key-of-mine" not in shown


def test_a_client_is_told_when_the_server_ends_before_its_answer(folder: Path, tmp_path: Path) -> None:
    hasty = f"import flows.services.model_server as server; server.SHUTDOWN_SECONDS = 0.3; {PROGRAM}"
    with serving(folder, tmp_path, "--slots", "1", "--queue", "20000", program=hasty) as (url, process):
        stream = post(url, {"model": "tiny", "prompt": "3", "max_tokens": 60, "n": 20_000, "stream": True})
        assert stream.readline().startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        lines = [line for line in stream.read().decode().split("\n\n") if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "stopping"
        shown = "".join(process.communicate(timeout=20))
        assert process.returncode == 0 and "Traceback" not in shown, shown


def test_other_machines_reach_it_with_a_key_alone() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(ConfigError, match="LIFESPAN_API_KEY"):
            ServeOptions(host=host)
        assert ServeOptions(host=host, api_key="k")


def test_a_page_that_rebinds_a_name_does_not_reach_a_local_server(folder: Path, tmp_path: Path) -> None:
    def status(url: str, host: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{url}/health", headers={"Host": host})) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    with serving(folder, tmp_path) as (url, _):
        assert status(url, "127.0.0.1:8000") == status(url, "localhost") == 200
        assert status(url, "evil.example") == 403
    with serving(folder, tmp_path, LIFESPAN_API_KEY="a-key-of-mine") as (url, _):
        assert status(url, "model.example") == 200  # the key protects it under every name


def test_an_unknown_model_is_told_with_what_there_is(folder: Path, home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run of this home has made a model yet"):
        open_model(home, "sft")
    with pytest.raises(ConfigError, match="no such folder or file"):
        open_model(home, "./sft")
    with pytest.raises(ConfigError, match=r"config\.json"):
        open_model(home, str(tmp_path))
    with pytest.raises(ConfigError, match="package:no-such-model: not installed"):
        open_model(home, "package:no-such-model")


def test_a_model_of_the_hub_is_opened_by_its_name(
    folder: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own client, on the layout of its cache: a repository with a branch and a commit."""
    from huggingface_hub import constants

    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--tiny-1.5"
    files, model = repository / "snapshots" / commit, load_model(folder)
    files.mkdir(parents=True)
    export_folder(files, model.cfg, model.state_dict(), Tokenizer.load(folder))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("someone/tiny-1.5", f"someone/tiny-1.5@{commit}"):
        opened = open_model(home, name)
        assert opened.name == "tiny-1.5"
        ours = model.state_dict()
        assert all(torch.equal(value, ours[key]) for key, value in opened.model.state_dict().items())
    with pytest.raises(ConfigError, match="hub model 'someone/other' at 'main': it is not in the local cache"):
        open_model(home, "someone/other")


def test_a_folder_of_ours_and_one_in_the_layout_of_hugging_face_are_the_same_model(
    folder: Path, home: Home, tmp_path: Path
) -> None:
    ours = open_model(home, str(folder))
    (tmp_path / "hf").mkdir()
    export_folder(tmp_path / "hf", ours.model.cfg, ours.model.state_dict(), ours.tokenizer)
    theirs = open_model(home, str(tmp_path / "hf"))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(ours.model(tokens), theirs.model(tokens))
    assert (ours.name, theirs.name) == ("tiny", "hf")
    assert theirs.tokenizer.encode("the king") == ours.tokenizer.encode("the king")


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", b"[]", "takes a JSON object, found a list"),
        ("config.json", DEEP, "not JSON"),
        ("config.json", {"num_layers": 10**9}, "num_layers = 1000000000"),
        ("config.json", {"context_length": 10**12}, "context_length is 1,000,000,000,000 tokens"),
        ("config.json", {"vocab_size": 10**15}, "such a configuration cannot be built"),
        ("config.json", {"d_model": 16.0}, r"d_model is 16\.0: takes a value like 64"),
        ("config.json", {"qk_norm": "no"}, "qk_norm is 'no': takes a value like True"),
        ("config.json", {"moe": {"router_z_coef": "2"}}, "router_z_coef is '2': takes a value like 0.001"),
        ("config.json", {"moe": [1]}, "stands where settings by name are taken"),
        ("model.safetensors", b"", r"model\.safetensors: not a safetensors file, or damaged"),
    ],
)
def test_a_damaged_folder_of_ours_is_told_in_one_line(
    file: str, content: bytes | dict[str, object], told: str, folder: Path, home: Home, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    if isinstance(content, dict):
        content = json.dumps(json.loads((copy / file).read_text()) | content).encode()
    (copy / file).write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        open_model(home, str(copy))


@pytest.fixture
def opened(folder: Path, home: Home) -> OpenedModel:
    return open_model(home, str(folder))


def test_a_conversation_remembers_forgets_and_drops_what_no_longer_fits(opened: OpenedModel) -> None:
    chat = Conversation(opened.tokenizer, Engine(opened.model, 1), temperature=0.0, max_tokens=6, seed=3)
    first = "".join(chat.answer("3+4"))
    assert chat.turns == [{"role": "user", "content": "3+4"}, {"role": "assistant", "content": first}]
    for _ in range(8):
        list(chat.answer("the king"))
    assert chat.dropped
    assert 2 <= len(chat.turns) < 18
    chat.reset()
    assert "".join(chat.answer("3+4")) == first
    with pytest.raises(ValueError, match="the model's context has 64"):
        list(chat.answer("3+4=7;" * 20))
    assert chat.turns == []
    list(chat.answer("3+4"))
    with pytest.raises(ValueError, match="surrogate"):
        list(chat.answer("\udcff"))  # what a byte that is no UTF-8 is read as
    assert len(chat.turns) == 2


def test_an_answer_that_is_broken_off_frees_the_engine(opened: OpenedModel) -> None:
    chat = Conversation(opened.tokenizer, Engine(opened.model, 1), temperature=2.0, seed=4)
    pieces = chat.answer("the bell")
    next(pieces)
    pieces.close()
    assert chat.engine.num_running == 0
    assert chat.turns[-1]["role"] == "assistant"


def test_chat_in_a_terminal_takes_its_commands(opened: OpenedModel) -> None:
    lines = iter(["3+4", "/nonsense", "/reset", "3+4", "", "/quit", "never read"])
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    chat = Conversation(opened.tokenizer, Engine(opened.model, 1), temperature=0.0, max_tokens=4)
    talk(chat, "tiny", console, lambda: next(lines, None))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "/nonsense: unknown command" in shown and "forgotten" in shown
    assert len(chat.turns) == 2
    assert next(lines) == "never read"


def test_chat_in_a_pipe_says_the_answers_alone(folder: Path, opened: OpenedModel) -> None:
    asked = ["chat", str(folder), "--temperature", "0", "--max-tokens", "5"]
    shown = CliRunner().invoke(app, asked, input="3+4\n/reset\n3+4\n")
    assert shown.exit_code == 0, shown.output
    chat = Conversation(opened.tokenizer, Engine(opened.model, 1), temperature=0.0, max_tokens=5)
    said = "".join(chat.answer("3+4"))
    assert shown.stdout == f"{said}\n{said}\n"
    assert CliRunner().invoke(app, ["chat", str(folder / "nothing")]).exit_code == 2


@pytest.mark.slow
def test_the_openai_client_works_against_it(folder: Path, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is a peer: pip install -e .[peers]")
    with serving(folder, tmp_path, LIFESPAN_API_KEY="k-1") as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k-1", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"]
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "3+4"}], "seed": 5, "max_tokens": 12}
        whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, n=2)
        said = [choice.message.content for choice in whole.choices]
        assert whole.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in whole.choices)
        pieces = ["", ""]
        for chunk in client.chat.completions.create(**asked, n=2, stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                pieces[choice.index] += choice.delta.content or ""
        assert pieces == said and chunk.usage == whole.usage
        plain = client.completions.create(model="tiny", prompt=[[1, 7, 8], [9]], max_tokens=3, echo=True, logprobs=1)
        assert [len(choice.logprobs.token_logprobs) for choice in plain.choices] == [6, 4]
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt="x", max_tokens=1000)
        assert refused.value.param == "max_tokens" and refused.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="gpt-4", prompt="x")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="no", max_retries=0).models.list()
        results: list[str] = []

        def ask(seed: int) -> None:
            answer = client.chat.completions.create(**{**asked, "seed": seed})
            results.append(f"{seed} {answer.choices[0].message.content}")

        threads = [threading.Thread(target=ask, args=(seed % 4,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 12 and len(set(results)) == 4
