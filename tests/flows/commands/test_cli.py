"""The command line as a user meets it: answers, one clear message for a mistake, the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_life
import typer
import typer.core
import typer.main
from rich.console import Console
from toy_run import run_assembly
from typer.testing import CliRunner

import flows.lifecycle
from flows.commands.cli import app
from flows.settings import ComputeConfig
from storage.home import Home


@pytest.fixture
def lived(home: Home, console: Console, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in which the toy life ran once, and is what the commands know as the life."""
    monkeypatch.setattr(flows.lifecycle, "lifecycle_graph", lambda cfg, run, outside: toy_life.toy_graph(cfg, run))
    cfg = toy_life.ToyConfig(compute=ComputeConfig(workers=0))
    run_assembly(toy_life.toy_graph, cfg, home=home, console=console, profile="smoke", prefect=False, mlflow=False)
    return home


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_plan_tells_cached_from_why(lived: Home) -> None:
    code, out, _ = call("plan")
    assert code == 0
    assert "4 cached, 0 will run" in out
    code, out, _ = call("plan", "--set", "seed=4")
    assert "config.upto: 3 -> 7" in out
    assert "input numbers: count runs again" in out
    assert "0 cached, 4 will run" in out
    code, out, _ = call("plan", "--set", "seed=4", "--only", "count")
    assert "0 cached, 1 will run" in out


def test_query_speaks_four_formats(lived: Home, tmp_path: Path) -> None:
    sql = "SELECT stage, count(*) AS n FROM stages GROUP BY ALL ORDER BY stage"
    code, out, _ = call("query", sql)
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith("scale")] == [["scale", "2"]]
    assert call("query", sql, "--format", "csv")[1] == "stage,n\ncount,1\nscale,2\ntotal,1\n"
    assert json.loads(call("query", sql, "--format", "json")[1])[1] == {"stage": "scale", "n": 2}
    file = tmp_path / "answer.parquet"
    assert call("query", sql, "--format", "parquet", "--output", str(file))[0] == 0
    assert file.read_bytes()[:4] == b"PAR1"
    inside = f"{lived.root}/tables/runs/mine.parquet"
    code, _, err = call("query", sql, "--output", inside)
    assert code == 2 and f"--output {inside}: lies inside" in " ".join(err.split())


def test_status_lists_the_run(lived: Home) -> None:
    code, out, _ = call("status")
    assert code == 0
    assert "completed" in out
    assert "smoke" in out


def test_status_of_an_empty_home_says_how_to_start(home: Home) -> None:
    assert "no runs yet" in call("status")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "laptpo"], "did you mean laptop?"),
        (["run", "--set", "compute.wokers=1"], "did you mean compute.workers?"),
        (["run", "--set", "seed=one"], 'takes whole number, found "one"'),
        (["plan", "missing.toml"], "missing.toml: no such file"),
        (["plan", "--only", "nothing"], "no stage 'nothing'"),
        (["query", "DROP TABLE runs"], "a query only reads"),
        (["query", "SELECT * FROM rums"], "runs"),
        (["query", "SELECT 1", "--format", "xml"], "takes table, lines, csv, json, parquet"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(home: Home, arguments: list[str], expected: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert expected in err
    assert "Traceback" not in err


def test_a_damaged_table_is_named(lived: Home) -> None:
    part = next(iter((Path(lived.root) / "tables" / "costs").glob("*.parquet")))
    part.write_bytes(b"nonsense")
    code, _, err = call("query", "SELECT * FROM costs")
    assert code == 2
    assert part.name in err


def test_a_home_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    environment = {**os.environ, "LIFESPAN_HOME": str(blocked / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.commands.cli", "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def commands(group: typer.core.TyperGroup, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command below a group, the group's own included."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, typer.core.TyperGroup)


@pytest.mark.parametrize("path", list(commands(ROOT)), ids=" ".join)
def test_every_command_has_a_help_text(path: tuple[str, ...]) -> None:
    code, out, _ = call(*path, "--help")
    assert code == 0
    usage, _, text = out.strip().partition("\n")
    assert " ".join(path) in usage and text.strip(" \n│╭╮─")


def test_every_command_has_a_module_of_its_own() -> None:
    """A long one has further modules, whose names begin with its own: scale_plot."""
    names = {"export": "export_model", "import": "import_model"}
    folder = Path(sys.modules["flows.commands.cli"].__file__ or "").parent
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__", "cli", "command", "sql_shell"}
    own = {names.get(name, name) for name in ROOT.commands}
    assert own <= modules
    assert {name for name in modules - own if name.split("_")[0] not in own} == set()


def test_the_command_line_is_light() -> None:
    heavy = ["prefect", "mlflow", "torch", "pyarrow", "duckdb", "pydantic"]
    script = f"import sys, flows.commands.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("home", [" ", "nosuch://bucket/x"])
def test_a_home_that_cannot_be_is_one_line(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFESPAN_HOME", home)
    for command in (["status"], ["query", "SELECT 1"], ["doctor"], ["down"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: LIFESPAN_HOME") and done.stderr.count("\n") == 1


def leaves(
    command: typer.core.TyperGroup | object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield (*path, name), inner
        yield from leaves(inner, (*path, name))


def test_every_help_says_what_the_command_says_brackets_and_all() -> None:
    for path, command in leaves(typer.main.get_command(app)):
        code, out, _ = call(*path, "--help")
        assert code == 0
        said = "".join(out.split())
        assert "".join((command.help or "").split()) in said, path  # type: ignore[attr-defined]
        for option in command.params:  # type: ignore[attr-defined]
            assert "".join((getattr(option, "help", None) or "").split()) in said, (path, option.name)
    assert '{"prompt", "answers": [text, or {"text", "model"}]}' in " ".join(
        call("annotate", "load", "--help")[1].split()
    )
