"""The documents name nothing that is not there: files, `make` targets, modules, settings; and their commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from smoke_life import SmokeLife
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.config import load_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/metrics.md",
    "docs/your-own.md",
    "docs/scaling.md",
    "docs/cost.md",
    "docs/published-numbers.md",
    "docs/evaluating.md",
    "docs/data.md",
    "docs/tables.md",
    "docs/cluster.md",
    "docs/scale.md",
)  # the log speaks of the past
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
TOP = {path.name for path in ROOT.iterdir()}
# Commands that only read a home, and end by themselves: these are run. All others are asked for their help.
RUN = ("advise", "compact", "costs", "doctor", "gc", "plan", "query", "status")
WITH_FILES = ("--file", "mine.toml")  # of the reader's own


def code(text: str) -> list[str]:
    """Inline code, and the lines of code blocks; lines that end in a backslash are joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return inline + [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def paths(text: str) -> set[str]:
    """Code without blanks that is written like a path of this repository; `<name>` stands for any name."""
    written = {piece for piece in code(text) if re.fullmatch(r"[\w./<>-]+", piece)}
    return {piece for piece in written if piece.split("/")[0] in TOP and ("/" in piece or piece in TOP)}


def commands(text: str, program: str) -> set[str]:
    return {match[1] for piece in code(text) if (match := re.match(rf"{program} ([\w.-]+)", piece))}


def lines() -> list[str]:
    """Every `lifespan …` of the documents, without what a comment or a pipe adds."""
    found = {piece for text in TEXTS.values() for piece in code(text) if piece.startswith("lifespan ")}
    shown = {" ".join(map(shlex.quote, _words(line))) for line in found}
    return sorted(line for line in shown if "…" not in line and "FILE" not in line and "ADDRESS" not in line)


def _words(line: str) -> list[str]:
    return shlex.split(line.split(" | ")[0], comments=True)


def test_what_is_looked_for_is_found() -> None:
    assert {"components/data/data_config.py", "flows/", "pyproject.toml"} <= paths(TEXTS["CONTRIBUTING.md"])
    assert {"check", "test"} <= commands(TEXTS["CONTRIBUTING.md"], "make")
    assert {"run", "test"} <= commands(TEXTS["README.md"], "make")
    assert len(lines()) > 40


@pytest.mark.parametrize("path", sorted(set().union(*(paths(TEXTS[name]) for name in DOCUMENTS[:5]))))
def test_every_path_exists(path: str) -> None:
    found = list(ROOT.glob(re.sub(r"<\w+>", "*", path).rstrip("/")))
    assert found, f"a document names {path}, which is not there"
    assert not path.endswith("/") or found[0].is_dir()


@pytest.mark.parametrize("target", sorted(set().union(*(commands(text, "make") for text in TEXTS.values()))))
def test_every_make_target_exists(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", sorted(set().union(*(commands(text, "python -m") for text in TEXTS.values()))))
def test_every_module_exists(module: str) -> None:
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words name, and its arguments."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", lines())
def test_every_command_is_understood_and_its_settings_are_there(line: str) -> None:
    words = shlex.split(line)[1:]
    if words == ["--help"]:
        return
    command, arguments = find(words)
    assert arguments != words, f"a document names `{line}`: there is no such command"
    if "--help" in arguments:
        arguments.remove("--help")
    context = command.make_context(line, list(arguments), resilient_parsing="list" in words or not arguments)
    if overrides := context.params.get("overrides"):
        load_config(context.params["profile"], [one for one in overrides if "mine" not in one and "mail" not in one])


@pytest.mark.parametrize("line", lines())
def test_every_command_runs(line: str, smoke: SmokeLife, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIFESPAN_HOME", smoke.home.root)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    reads = words[0] in RUN and not any(mark in words for mark in (*WITH_FILES, "--yes", "--mend"))
    if not reads:
        arguments = find(words)[1]
        words = [*words[: len(words) - len(arguments)], "--help"]
    done = CliRunner().invoke(app, words)
    # A smoke life's answers are too poor for some wishes: then it says so, in one line and with the code for it.
    refused = done.exit_code == 2 and reads and done.output.startswith("error: ") and done.output.count("\n") < 6
    assert done.exit_code == 0 or refused, done.output
