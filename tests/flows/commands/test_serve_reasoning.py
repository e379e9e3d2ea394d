"""`lifespan serve --reasoning auto`: a controller that `lifespan evaluate` tuned, behind a real server's chat API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import save_model
from flows.commands.cli import app

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
WORDS = ["serve", "--reasoning", "auto", "--budget"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tokenizer = Tokenizer.train(["3+4=7; the answer is 12, and 5 of 6."] * 3, 290)
    tokenizer.save(folder)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=512), 1)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    save_model(folder, model)
    return folder


@pytest.fixture(scope="module")
def home(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a controller of the model."""
    home = tmp_path_factory.mktemp("home")
    rows = [{"question": f"{n} + 1 = ?", "answer": n + 1} for n in range(15)]
    (home / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [str(folder), "--task", str(home / "sums.jsonl"), "--strategy", "auto@3", "--budget", "2000tokens"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFESPAN_HOME", str(home))
        patch.setenv("LIFESPAN_EVALUATE_MLFLOW", "0")
        done = CliRunner().invoke(app, ["evaluate", *words, "--tune-items", "10", "--max-tokens", "8"])
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture(scope="module")
def url(folder: Path, home: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *WORDS, "1500tokens", str(folder), "--port", "0"],
        env={**os.environ, "LIFESPAN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving tiny at "), line + process.stderr.read()
        yield line.split()[3]
    finally:
        process.kill()
        process.communicate()


def ask(url: str, **body: Any) -> Any:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 = ?"}], **body}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return answer.read().decode()


def test_a_question_is_thought_about_and_the_trace_shows_how(url: str) -> None:
    said = json.loads(ask(url, trace=True, seed=1))
    steps = said["reasoning"]["steps"]
    assert [step["effort"] for step in steps] == ["direct", "worked", "sample"][: len(steps)] or (
        [step["effort"] for step in steps] == ["worked", "sample"][: len(steps)]
    )
    assert all(0 <= step["p_right"] <= 1 for step in steps)
    assert said["usage"]["completion_tokens"] == sum(step["tokens"] for step in steps)
    assert said["usage"]["prompt_tokens"] > 10 * len(steps)  # every request's, wording and all
    (choice,) = said["choices"]
    assert choice["message"]["role"] == "assistant"
    assert json.loads(ask(url, seed=1)) | {"id": "", "created": 0} == {
        name: value for name, value in said.items() if name != "reasoning"
    } | {"id": "", "created": 0}


def test_streams_limits_and_reasoning_off(url: str) -> None:
    whole = json.loads(ask(url, trace=True, seed=1))
    lines = [line.removeprefix("data: ") for line in ask(url, trace=True, seed=1, stream=True).split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line) for line in lines[:-1]]
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    assert pieces[-1]["reasoning"] == whole["reasoning"]
    short = json.loads(ask(url, trace=True, max_tokens=2))
    assert all(step["tokens"] <= 2 * step["completions"] for step in short["reasoning"]["steps"])
    plain = json.loads(ask(url, reasoning="off", max_tokens=3, temperature=0))
    assert plain["usage"]["completion_tokens"] <= 3 and "reasoning" not in plain


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 2}, "n is 2"),
        ({"reasoning": "hard"}, "reasoning is 'hard'"),
        ({"trace": 1}, "trace is 1"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message"),
        ({"penalty": 1}, "penalty"),
    ],
)
def test_what_cannot_be_reasoned_about_is_refused_by_name(url: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(url, **body)
    assert refused.value.code == 400
    assert field in json.loads(refused.value.read())["error"]["message"]


def test_without_a_controller_or_in_another_unit_it_says_what_to_do(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path))
    done = CliRunner().invoke(app, [*WORDS, "500tokens", str(folder)])
    assert done.exit_code and "no controller was tuned for tiny: `lifespan evaluate tiny --task FILE" in done.output
    monkeypatch.setenv("LIFESPAN_HOME", str(home))
    done = CliRunner().invoke(app, [*WORDS, "2s", str(folder)])
    assert done.exit_code and "the controller was tuned in tokens" in done.output
