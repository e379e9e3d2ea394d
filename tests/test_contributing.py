"""CONTRIBUTING.md names nothing that is not there: files, `make` targets, commands and modules."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from flows.commands.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOP = {path.name for path in ROOT.iterdir()}
# Inline code, and the lines of code blocks.
CODE = re.findall(r"`([^`\n]+)`", TEXT) + [
    line for block in re.findall(r"```\n(.*?)```", TEXT, re.S) for line in block.splitlines()
]


def paths() -> set[str]:
    """Code without blanks that is written like a path of this repository; `<name>` stands for any name."""
    written = {code for code in CODE if re.fullmatch(r"[\w./<>-]+", code)}
    return {code for code in written if "/" in code or code in TOP or re.search(r"\.(md|py|toml|sql|parquet)$", code)}


def commands(program: str) -> set[str]:
    return {match[1] for code in CODE if (match := re.match(rf"{program} ([\w.-]+)", code))}


def test_what_is_looked_for_is_found() -> None:
    assert {"components/data/pipeline.py", "flows/", "components/data/filters/<name>.py", "pyproject.toml"} <= paths()
    assert {"check", "test"} <= commands("make") and {"plan", "query"} <= commands("lifespan")


@pytest.mark.parametrize("path", sorted(paths()))
def test_every_path_exists(path: str) -> None:
    found = list(ROOT.glob(re.sub(r"<\w+>", "*", path).rstrip("/")))
    assert found, f"CONTRIBUTING.md names {path}, which is not there"
    assert not path.endswith("/") or found[0].is_dir()


@pytest.mark.parametrize("target", sorted(commands("make")))
def test_every_make_target_exists(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", sorted(code for code in CODE if code.startswith("lifespan ")))
def test_every_command_is_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in known, f"CONTRIBUTING.md names `lifespan {name}`; there are {', '.join(sorted(known))}"
    known[name].make_context(name, arguments)  # raises for options and arguments that it does not take


@pytest.mark.parametrize("module", sorted(commands("python -m")))
def test_every_module_exists(module: str) -> None:
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
