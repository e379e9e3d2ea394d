"""`lifespan evaluate MODEL|URL --task …` as its user sees it: a server on this machine, and a model in a folder."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from storage.home import Home
from storage.queries import query


class Arithmetic(BaseHTTPRequestHandler):
    """Adds two numbers, wrongly where the first is 13; asks for patience once, and breaks down over 99."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "adder"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).seen.append(body)
        text = body["messages"][-1]["content"]
        a, b = map(int, re.findall(r"(\d+) \+ (\d+)", text)[-1])
        if len(type(self).seen) == 1:
            self._send(429, {"error": {"message": "slower"}}, {"Retry-After": "0"})
        elif a == 99:
            self._send(400, {"error": {"message": "I know no 99"}})
        else:
            said = f"The answer is {a + b if a != 13 else 0}."
            choices = [{"message": {"content": said}, "finish_reason": "stop"}] * body.get("n", 1)
            usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(choices)}
            self._send(200, {"choices": choices, "usage": usage})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Arithmetic.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Arithmetic)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIFESPAN_EVALUATE_MLFLOW", "0")
    return Home(tmp_path / "home")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"question": f"{n} + 1 = ?", "answer": n + 1} for n in (10, 11, 12, 13, 99)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "sums.jsonl"


def evaluate(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    return done.exit_code, done.output


def test_an_endpoint_is_evaluated_judged_and_kept(url: str, home: Home, task: Path, tmp_path: Path) -> None:
    prices = ("--price-in", 1.0, "--price-out", 2.0)
    out = tmp_path / "answers.jsonl"
    words = (url, "--task", task, "--strategy", "direct,sc@4", *prices, "--output", out)
    code, shown = evaluate(*words)
    assert code == 0, shown
    assert "task sums: format plain; scorer number" in shown
    assert "60.0% [23.1, 88.2]  75.0% [30.1, 95.4]  75.0% [30.1, 95.4]" in shown
    assert "sc@4 minus direct: 0.0%" in shown
    assert "front, accuracy against dollars: direct" in shown
    rows = query(home, "SELECT strategy, item_id, correct, details_json FROM evals").to_pylist()
    assert len(rows) == 10
    assert sum(row["correct"] for row in rows) == 6
    assert len(out.read_text().splitlines()) == 10
    (total,) = query(home, "SELECT sum(tokens) AS t, sum(prompt_tokens) AS p, count(*) AS n FROM samples").to_pylist()
    assert (total["t"], total["p"], total["n"]) == (4 * 5 + 4 * 20, 80, 25)
    assert "25 of 8 requests, 80 prompt tokens as billed, 100 generated, 5 failed" in shown
    (run,) = query(home, "SELECT status, ran FROM latest_runs").to_pylist()
    assert (run["status"], run["ran"]) == ("completed", 1)


def test_nothing_is_asked_twice_and_rows_are_not_doubled(url: str, home: Home, task: Path) -> None:
    evaluate("run", url, "--task", task, "--strategy", "sc@4", "--limit", 4)
    first = len(Arithmetic.seen)
    code, shown = evaluate("run", url, "--task", task, "--strategy", "sc@4", "--limit", 4)
    assert code == 0, shown
    assert "0 samples drawn now, 16 were there" in shown
    assert len(Arithmetic.seen) == first == 5
    assert query(home, "SELECT count(*) AS n FROM evals").to_pylist() == [{"n": 4}]
    _, shown = evaluate(url, "--task", task, "--strategy", "sc@8", "--limit", 4)
    assert "16 samples drawn now, 16 were there" in shown


def test_examples_and_wordings(url: str, home: Home, task: Path) -> None:
    code, shown = evaluate(url, "--task", task, "--strategy", "cot", "--limit", 3, "--shots", 2, "--sensitivity")
    assert code == 0, shown
    assert re.search(r"cot over \d wordings and orders: mean 100.0%", shown)
    bodies = [body["messages"] for body in Arithmetic.seen]
    assert {len(messages) for messages in bodies} == {5}
    assert len({json.dumps(messages) for messages in bodies}) > 3 * 5
    assert all(messages[-1]["content"] not in [m["content"] for m in messages[:-1]] for messages in bodies)


def test_a_search_decides_on_items_that_it_does_not_report(url: str, home: Home, task: Path) -> None:
    code, shown = evaluate(url, "--task", task, "--strategy", "cot", "--search", 1, "--search-items", 2)
    assert code == 0, shown
    assert "search, round 0: 100.0% of 2 items with" in shown
    assert "3 items; " in shown
    rows = query(home, "SELECT prompt FROM evals ORDER BY prompt").column(0).to_pylist()
    assert rows == ["12 + 1 = ?", "13 + 1 = ?", "99 + 1 = ?"]


def test_an_adaptive_controller_is_tuned_on_items_that_it_does_not_report(url: str, home: Home, tmp_path: Path) -> None:
    rows = [{"question": f"{n if n % 3 else 13} + {n} = ?", "answer": (n if n % 3 else 13) + n} for n in range(10, 50)]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (url, "--task", tmp_path / "many.jsonl", "--budget", "60 tokens", "--tune-items", 20)
    code, shown = evaluate(*words, "--strategy", "auto@3")
    assert code == 0, shown
    assert "20 items; " in shown
    assert "controller: tuned on the first 20 items, which are left out above, for 60 tokens a question" in shown
    # Nothing repairs what the adder always gets wrong: thinking longer buys nothing, and it says so.
    assert "greedy: direct, " in shown and "difference 0.0%" in shown and "is not shown to be better" in shown
    asked = query(home, "SELECT strategy, count(*) AS n FROM evals GROUP BY ALL ORDER BY 1").to_pylist()
    assert [(row["strategy"], row["n"]) for row in asked] == [("auto", 20), ("cot", 20), ("direct", 20), ("sc@3", 20)]
    (kept,) = (home.local / "controllers").glob("*.json")
    assert json.loads(kept.read_text())["scorer"] == "number"
    for wrong, said in (("60", "as 600tokens, 2s or 0.001usd"), ("1usd", "no price is known"), ("", "belong together")):
        code, shown = evaluate(url, "--task", tmp_path / "many.jsonl", "--strategy", "auto", "--budget", wrong)
        assert code and said in shown


def test_a_model_of_ours_is_evaluated_by_its_path(home: Home, task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    words = Tokenizer.train(["3+4=7; the king and the bell."] * 3, 280)
    words.save(folder)
    torch.manual_seed(0)
    save_model(folder, Transformer(ModelConfig(words.vocab_size, d_model=16, num_layers=1, num_heads=1), 1))
    words_of = (folder, "--task", task, "--strategy", "sc@2", "--max-tokens", 4)
    code, shown = evaluate(*words_of)
    assert code == 0, shown
    assert "10 samples drawn now" in shown
    assert "s of processor for" in shown
    _, again = evaluate(*words_of)
    assert "0 samples drawn now, 10 were there" in again
    rows = query(home, "SELECT completion FROM samples ORDER BY prompt, sample").column(0).to_pylist()
    (tmp_path / "home" / "samples" / "samples.db").unlink()
    evaluate(*words_of)
    assert query(home, "SELECT completion FROM samples ORDER BY prompt, sample").column(0).to_pylist() == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--strategy", "sc"), "--strategy: there is no strategy 'sc': take one of direct"),
        (("--strategy", "cot,cot"), "--strategy names one of them twice"),
        (("--task", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--format", "gsm"), "there is no format 'gsm'"),
        (("--template", "none"), "there is no template 'none' of the style cot"),
        (("--shots", "9"), "--shots 9:"),
        (("--shots", "1", "--shots-by", "luck"), "--shots-by luck: takes random, similar or diverse"),
        (("--price-in", "1"), "--price-in and --price-out belong together"),
        (("--search", "1", "--shots", "1"), "--search looks for one wording without examples"),
        (("--api", "rest"), "--api rest: takes chat or completions"),
        (("--task", "gym:rubiks_cube"), "its verifier gives its own answer 0"),
    ],
)
def test_a_mistake_is_one_line(home: Home, task: Path, words: tuple[str, ...], message: str) -> None:
    given = dict(zip(words[::2], words[1::2], strict=True))
    options = [part for pair in {"--task": str(task), **given}.items() for part in pair]
    code, shown = evaluate("http://127.0.0.1:9/v1", *options)
    assert code == 2, shown
    assert message in shown
    assert "Traceback" not in shown
    assert not (home.local / "running").is_dir() or not list((home.local / "running").iterdir())


def test_a_server_that_is_not_there_is_one_line(home: Home, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.reasoning.endpoints.client.back_off", lambda *_: 0.0)
    code, shown = evaluate("http://127.0.0.1:9/v1", "--task", task)
    assert code == 2
    assert "is the server running?" in shown
