"""The chapters of `docs/your-own.md` on rewards and evaluation sets, followed as they stand there."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from smoke_life import SmokeLife

from dashboards.report_model import LifeReport
from dashboards.sections.evaluations import evaluation_section
from flows.config import load_config
from flows.lifecycle import run_lifecycle
from flows.runs.run import RunResult
from storage.home import Home
from storage.named import answer
from storage.queries import query

CHAPTERS = (Path(__file__).parents[1] / "docs" / "your-own.md").read_text(encoding="utf-8").split("\n## ")
FILE = re.compile(r"```\w*\n# (\S+\.\w+)\n(.*?)```", re.DOTALL)


def written(chapter: str, folder: Path) -> None:
    """Write the files that a chapter shows."""
    [text] = [text for text in CHAPTERS if text.startswith(chapter)]
    for name, content in FILE.findall(text):
        (folder / name).write_text(content, encoding="utf-8")


def lived(profile: str, home: Home, *settings: str) -> RunResult:
    cfg = load_config(profile, ["compute.workers=0", *settings])
    done = run_lifecycle(cfg, home=home, console=Console(file=StringIO()), profile=profile, prefect=False, mlflow=False)
    assert done.status == "completed", done.failures
    return done


def ran(done: RunResult) -> set[str]:
    return {label for label, outcome in done.outcomes.items() if outcome.status == "ran"}


def test_a_reward_of_ones_own(smoke: SmokeLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written("Reinforcement learning", tmp_path)
    home = smoke.home
    first = lived("mine.toml", home)
    assert ran(first) == {"prepare_prompts", "grpo"}  # what lies before them is the smoke life's
    assert set(first.outcomes) == {
        *("prepare_corpus", "train_tokenizer", "tokenize", "pretrain", "make_conversations", "finetune"),
        *("prepare_prompts", "grpo"),
    }
    prompts, trained = (first.outcomes[name].artifact.facts for name in ("prepare_prompts", "grpo"))
    assert prompts["num_train"] + prompts["num_held_out"] == prompts["num_answers"] == 8
    assert prompts["num_held_out"] >= 1
    assert (trained["measure"], trained["gold_name"]) == ("reward", "none")
    assert set(trained["rewards"]) == {"score"} and trained["n"] == prompts["num_held_out"]
    [row] = query(home, "SELECT file, line, reason FROM quarantine WHERE source = 'sums'").to_pylist()
    assert row == {"file": str(tmp_path / "sums.jsonl"), "line": 9, "reason": row["reason"]}
    assert row["reason"] == "no column 'prompt'; the record has question"

    report = first.report
    assert isinstance(report, LifeReport)
    section = next(s for s in report.sections if s.slug == "grpo")
    assert "without gold nothing is known of what is truly wanted" in section.meaning
    absent = {s.slug: s.missing for s in report.sections if s.missing}
    assert {"rlhf", "scaling", "reasoning"} <= absent.keys()
    assert "evaluations" not in {s.slug for s in report.sections}

    assert ran(lived("mine.toml", home)) == set()
    source = tmp_path / "my_rewards.py"
    source.write_text("# a comment\n" + source.read_text())
    assert ran(lived("mine.toml", home)) == set()
    (tmp_path / "my_words.py").write_text('POLITE = ("a", "e")\n')
    assert ran(lived("mine.toml", home)) == {"grpo"}
    source.write_text(
        "def score(completion):\n    if 'e' in completion:\n        raise KeyError('an e')\n    return 1.0\n"
    )
    changed = lived("mine.toml", home, "reward_limits.max_failed=1.0")
    assert ran(changed) == {"grpo"}
    failed = answer(home, "failed_rewards", run=changed.run_id)
    assert failed and {row["reason"] for row in failed} == {"KeyError: 'an e' (my_rewards.py:3)"}
    assert {row["reward"] for row in failed} == {"score"}


def test_a_set_of_ones_own(smoke: SmokeLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written("Evaluate on your own set", tmp_path)
    home = smoke.home
    done = lived("evaluate.toml", home)
    assert {"prepare_evaluations", "evaluate_set[riddles,base]", "measure_forgetting"} <= ran(done)
    assert "finetune" not in done.outcomes
    assert done.outcomes["prepare_evaluations"].artifact.facts["num_items"] == {"riddles": 3}
    key = done.outcomes["evaluate_set[riddles,base]"].artifact.key
    rows = query(home, "SELECT * FROM evals WHERE key = $key", {"key": key}).to_pylist()
    greedy = [row for row in rows if row["strategy"] == "greedy"]
    assert [row["target"] for row in greedy] == ["7", "1,000", "8"]
    for row in greedy:
        details = json.loads(row["details_json"])
        assert details["status"] in ("answered", "unparsed", "truncated")
        assert (details["status"] == "answered") == bool(row["answer"])
    [bad] = query(home, "SELECT line, reason FROM quarantine WHERE source = 'riddles'").to_pylist()
    assert bad == {"line": 4, "reason": "the reference answer 'That depends.' holds no number"}
    facts = done.report.facts["evaluations"]  # type: ignore[attr-defined]
    assert {score.suite for score in facts.scores} == {"riddles"}
    assert evaluation_section(facts).tables and "evaluations" in done.report.figures  # type: ignore[attr-defined]
    forgot = query(home, "SELECT DISTINCT evaluation FROM forgetting WHERE unit = 'accuracy' AND key = $key",
                   {"key": done.outcomes["measure_forgetting"].artifact.key}).to_pylist()  # fmt: skip
    assert forgot == [{"evaluation": "riddles"}]
