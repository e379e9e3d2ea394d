"""The chapters of `docs/your-own.md`, followed as they stand there: their files are written, and their runs are run."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from smoke_life import SmokeLife
from typer.testing import CliRunner

from components.data.conversations import read_conversations
from components.rlhf.preferences import read_preferences
from flows.commands.cli import app
from flows.config import load_config
from flows.lifecycle import run_lifecycle
from flows.stages.files import CONVERSATIONS, PREFERENCES
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
