"""The chapters of `docs/your-own.md`, followed as they stand there: their files are written, and their runs are run."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from smoke_life import SmokeLife
from typer.testing import CliRunner

from components.data.conversations import read_conversations
from components.rlhf.preferences import read_preferences
from dashboards.report_model import LifeReport
from dashboards.sections.evaluations import evaluation_section
from flows.commands.cli import app
from flows.config import load_config
from flows.lifecycle import run_lifecycle
from flows.runs.run import RunResult
from flows.stages.files import CONVERSATIONS, PREFERENCES
from storage.home import Home
from storage.named import answer
from storage.queries import query

CHAPTERS = (Path(__file__).parents[1] / "docs" / "your-own.md").read_text(encoding="utf-8").split("\n## ")
FILE = re.compile(r"```\w*\n# (\S+\.\w+)\n(.*?)```", re.DOTALL)


def written(chapter: str, folder: Path) -> list[str]:
    """Write the files that a chapter shows; its `lifespan run` lines."""
    [text] = [text for text in CHAPTERS if text.startswith(chapter)]
    for name, content in FILE.findall(text):
        (folder / name).write_text(content, encoding="utf-8")
    return re.findall(r"^(lifespan run .*?)(?:  +#.*)?$", text, re.MULTILINE)


def test_conversations_and_preferences(smoke: SmokeLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = written("Conversations and preferences", tmp_path)
    assert first == again
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFESPAN_HOME", smoke.home.root)
    profile, *options = first.split()[2:]
    only = [name for flag, name in zip(options[::2], options[1::2], strict=True) if flag == "--only"]
    cfg = load_config(profile, ["compute.workers=0"])

    def run() -> dict[str, str]:
        console = Console(file=StringIO(), width=160)
        done = run_lifecycle(cfg, home=smoke.home, console=console, only=only, prefect=False, mlflow=False)
        assert done.status == "completed", done.failures
        made.update({label: outcome.artifact for label, outcome in done.outcomes.items()})
        return {label: outcome.status for label, outcome in done.outcomes.items()}

    made = {}
    statuses = run()
    ran = {label for label, status in statuses.items() if status == "ran"}
    assert {"make_conversations", "finetune", "collect_preferences", "train_reward_model", "dpo"} <= ran
    assert statuses["pretrain"] == "cached"  # what lies before the conversations is the smoke life's
    store = smoke.home.store
    chats = [
        c for c in read_conversations(store.path(made["make_conversations"]) / CONVERSATIONS) if c.source == "chats"
    ]
    assert [len(c.messages) for c in chats] == [2, 2, 4, 3, 2, 2] and {c.copies for c in chats} == {2}
    pairs, _ = read_preferences(store.path(made["collect_preferences"]) / PREFERENCES)
    assert pairs[0].prompt == "Name a lake in Italy." and len(pairs) == 8
    assert [turn.content for turn in pairs[3].context] == ["Be brief."]
    [source] = made["make_conversations"].facts["read"]
    assert source["layouts"] == {"sharegpt (conversations)": 6} and not source["rejected"]
    assert set(run().values()) == {"cached"}

    plan = CliRunner().invoke(app, ["plan", *first.split()[2:]])
    assert plan.exit_code == 0 and "0 will run" in plan.output
    with (tmp_path / "chats.jsonl").open("a") as file:
        file.write('{"conversations": [{"from": "wizard", "value": "Hm."}]}\n')
    plan = CliRunner().invoke(app, ["plan", *first.split()[2:]])
    assert re.search(r"make_conversations +will run", plan.output) and re.search(r"pretrain +cached", plan.output)
    cfg = load_config(
        profile,
        ["compute.workers=0", 'instruction.sources=[{ name = "chats", path = "chats.jsonl", max_bad_share = 0.2 }]'],
    )
    only = ["make_conversations"]
    run()
    [row] = query(smoke.home, "SELECT source, file, line, reason FROM quarantine WHERE source = 'chats'").to_pylist()
    assert (Path(row["file"]).name, row["line"]) == ("chats.jsonl", 7) and "unknown role 'wizard'" in row["reason"]


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
    first = lived("rewards.toml", home)
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

    assert ran(lived("rewards.toml", home)) == set()
    source = tmp_path / "my_rewards.py"
    source.write_text("# a comment\n" + source.read_text())
    assert ran(lived("rewards.toml", home)) == set()
    (tmp_path / "my_words.py").write_text('POLITE = ("a", "e")\n')
    assert ran(lived("rewards.toml", home)) == {"grpo"}
    source.write_text(
        "def score(completion):\n    if 'e' in completion:\n        raise KeyError('an e')\n    return 1.0\n"
    )
    changed = lived("rewards.toml", home, "reward_limits.max_failed=1.0")
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
    assert done.outcomes["prepare_evaluations"].artifact.facts["num_items"] == {"riddles": 3, "riddles_task": 4}
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
    key = done.outcomes["evaluate_set[riddles_task,base]"].artifact.key
    rows = query(home, "SELECT * FROM evals WHERE key = $key AND strategy = 'greedy'", {"key": key}).to_pylist()
    assert [row["target"] for row in rows] == ["7", "1,000", "8", "That depends."]
    assert rows[0]["prompt"] == "Question: Ann has 3 hats and buys 4. How many hats?\nAnswer:"
    facts = done.report.facts["evaluations"]  # type: ignore[attr-defined]
    assert {score.suite for score in facts.scores} == {"riddles", "riddles_task"}
    assert evaluation_section(facts).tables and "evaluations" in done.report.figures  # type: ignore[attr-defined]
    forgot = query(home, "SELECT DISTINCT evaluation FROM forgetting WHERE unit = 'accuracy' AND key = $key",
                   {"key": done.outcomes["measure_forgetting"].artifact.key}).to_pylist()  # fmt: skip
    assert {row["evaluation"] for row in forgot} == {"riddles", "riddles_task"}
