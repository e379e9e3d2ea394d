"""`lifespan query` from files, by name, into files; `lifespan sql` from a pipe and at a terminal; completion."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.commands.sql_shell import is_complete, pieces, suggestions
from storage.home import Home
from storage.sql_text import is_blank, split_statements

COLUMNS = {"metrics": ["run_id", "step", "value"], "stages": ["stage", "group"], "leaderboard": ["suite", "accuracy"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("home"))
    event = {"run_id": "r1", "event": "started", "status": "running", "time": datetime(2026, 11, 22, tzinfo=UTC)}
    home.tables.write("runs", "r1", [event])
    at = {"run_id": "r1", "key": "k", "stage": "pretrain", "name": "loss"}
    home.tables.write("metrics", "k", [{**at, "step": step, "value": 1 / (1 + step)} for step in range(1000)])
    return Path(home.root)


def lifespan(home: Path, *arguments: str, given: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), input=given, env={"LIFESPAN_HOME": str(home)})
    return done.exit_code, done.stdout, done.stderr


def test_a_file_of_sql_with_typed_parameters(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.sql"
    file.write_text(
        "-- Points up to a step.\n-- @last int = 3\nSELECT count(*) AS n FROM metrics WHERE step <= $last;\n"
    )
    out = tmp_path / "q.parquet"
    assert lifespan(home, "query", "--file", str(file), "-p", "last=9", "--output", str(out)) == (0, "", "")
    assert pq.read_table(out).to_pylist() == [{"n": 10}]
    code, _, err = lifespan(home, "query", "--file", str(file), "-p", "last=x")
    assert code == 2 and "parameter last: got 'x', takes a whole number" in err


def test_several_statements_of_a_pipe_one_after_the_other(home: Path) -> None:
    code, out, _ = lifespan(home, "query", "--file", "-", given="SELECT ';' AS a; -- b;\nSELECT 2 AS b")
    assert code == 0 and out == "a\n─\n;\n(1 row)\n\nb\n─\n2\n(1 row)\n"
    code, _, err = lifespan(home, "query", "SELECT 1; SELECT 2", "--format", "json")
    assert code == 2 and "2 statements: only --format table and lines" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--named", "leaderbord"], "nearest: leaderboard"),
        ([], "give one of: SQL, --file FILE, --named NAME"),
        (["SELECT 1", "--named", "runs"], "give one of"),
        (["--file", "/nowhere.sql"], "/nowhere.sql: No such file"),
        (["SELECT $a", "-p", "b=1"], "unknown parameter b; the query has a"),
        (["SELECT $a", "-p", "a"], "-p a: write -p name=value"),
        (["SELECT $a", "-p", "a=1", "-p", "a=2"], "a is given twice"),
        (["SELECT interval 1 day AS x", "--format", "parquet", "--output", "/dev/null"], "no such type"),
        (["SELECT valu FROM metrics"], "line 1, column 8: unknown column 'valu'; nearest: metrics.value"),
        (["SELECT count(*) FROM range(1000000) a, range(10000000)", "--timeout", "0.2"], "stopped after 0.2 s"),
    ],
)
def test_mistakes_of_query_are_one_clear_error(home: Path, arguments: list[str], message: str) -> None:
    code, out, err = lifespan(home, "query", *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err and "Traceback" not in err


def test_the_list_and_a_reader_that_goes_away(home: Path) -> None:
    out = lifespan(home, "query", "--list")[1]
    assert "leaderboard\n    In which runs does a metric end best?" in out and "-p best=low     low|high" in out
    script = (
        f"{sys.executable} -m flows.commands.cli query 'FROM metrics' --format csv | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "LIFESPAN_HOME": str(home)},
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout == "run_id,key,stage,step,name,value,time\n0\n" and done.stderr == ""


def test_the_shell_reads_a_pipe_and_stops_at_the_first_mistake(home: Path) -> None:
    text = "SELECT 1 AS a;.mode json\n.named runs limit=1\nSELECT 2 AS b;\n.foo\nSELECT 3;"
    code, out, err = lifespan(home, "sql", given=text)
    first, rest = out.split("(1 row)\n")
    assert code == 2 and "unknown command .foo" in err
    assert first == "a\n─\n1\n"
    runs, b = (json.loads(part) for part in rest.replace("]\n[", "]\0[").split("\0"))
    assert runs[0]["run_id"] == "r1" and b == [{"b": 2}]


def test_at_a_terminal_lines_go_on_until_the_semicolon_and_a_query_can_be_stopped(home: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(Path(__file__).parents[3])
        environment = {**os.environ, "LIFESPAN_HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        os.execvpe(sys.executable, [sys.executable, "-m", "flows.commands.cli", "sql"], environment)
    seen = b""

    def expect(text: bytes, seconds: float = 60) -> None:
        nonlocal seen
        until = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < until, seen.decode(errors="replace")
            if select.select([terminal], [], [], 0.2)[0]:
                seen = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen + os.read(terminal, 65536))
        seen = seen.partition(text)[2]

    try:
        expect(b"lifespan>")
        os.write(terminal, b"SELECT count(*) AS points,\r")
        expect(b"...")
        os.write(terminal, b"41 + 1 AS answer FROM metrics;\r")
        expect(b"1000      42")
        expect(b"lifespan>")
        os.write(terminal, b"SELECT count(*) FROM range(100000000) a, range(100000000) b;\r")
        expect(b"range(100000000) b;")
        time.sleep(2)
        os.write(terminal, b"\x03")
        expect(b"stopped")
        os.write(terminal, b"SELECT valu FROM metrics;\r")
        expect(b"nearest: metrics.value")
        expect(b"lifespan>")
        os.write(terminal, b"\x04")
        assert os.waitpid(pid, 0)[1] == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        os.close(terminal)
    assert "+SELECT count(*) AS points,\n+41 + 1 AS answer FROM metrics;" in (home / "sql_history").read_text()


def test_where_statements_end() -> None:
    assert split_statements("a;b") == (["a"], "b")
    quoted = "SELECT ';', \"a;b\", $$;$$, $x$;$x$ -- ;\n/* ; */"
    assert split_statements(quoted + ";") == ([quoted], "")
    assert split_statements("SELECT 'it''s;") == ([], "SELECT 'it''s;")  # the quote is still open
    assert split_statements(";;  ; -- nothing\n;") == ([], "")
    assert is_blank(" -- x\n/* y */ \n") and not is_blank("-- x\n1")
    assert is_complete("SELECT 1;") and is_complete(".tables") and not is_complete("SELECT ';'") and is_complete("")
    assert list(pieces(".mode csv\nSELECT 1;\n.quit\n")) == [".mode csv", "SELECT 1", ".quit"]
    assert list(pieces("SELECT 1\n.5;")) == ["SELECT 1\n.5"]


def offered(text: str, after: str = "") -> list[str]:
    return [name for name, _ in suggestions(text, text + after, COLUMNS)]


def test_completion_knows_where_it_stands() -> None:
    assert offered("SELECT * FROM ") == list(COLUMNS) == offered("FROM runs JOIN me")
    assert offered("SELECT m.", " FROM metrics m") == COLUMNS["metrics"] == offered("SELECT metrics.va")
    assert offered("SELECT ", " FROM stages")[:3] == ["stage", '"group"', "SELECT"]
    assert offered(".schema ") == list(COLUMNS) and offered(".mode ") == ["table", "lines", "csv", "json"]
    assert ".tables" in offered(".t") and "leaderboard" in offered(".named le")
    assert offered(".named leaderboard ") == ["metric=", "best=", "stage=", "limit="]
