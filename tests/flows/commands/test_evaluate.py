"""`lifespan evaluate score` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.commands.cli import app

SAID = ["#### 5", "so 6", "no idea", "it is 5", "5 + 1 is", "5"]


def write(path: Path, said: list[str], **more: str) -> Path:
    rows = [
        {"id": n, "task": "sums" if n < 3 else "words", "target": "5", "output": text, **more}
        for n, text in enumerate(said)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def score(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["evaluate", "score", *map(str, words)])
    return done.exit_code, done.output


def test_fields_accuracies_groups_and_a_warning_are_shown(tmp_path: Path) -> None:
    code, shown = score(write(tmp_path / "a.jsonl", SAID), "--by", "task")
    assert code == 0, shown
    assert "6 items, 6 samples" in shown
    assert "text output; reference target; id id" in shown
    assert "number: marked-number/2, else last-number/2; equal as number/2" in shown
    assert "50.0% [18.8, 81.2]  60.0% [23.1, 88.2]" in shown
    assert "macro average over task: 50.0%" in shown
    assert "warning: 16.7% of the samples have no answer that was found (1 unparsed, 0 truncated)" in shown


def test_verdicts_are_written_and_two_files_are_compared(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", ["5"] * 6), write(tmp_path / "b.jsonl", ["6"] * 6)
    for name in ("v.jsonl", "v.parquet"):
        code, shown = score(first, "--against", second, "--output", tmp_path / name, "--cluster", "task")
        assert code == 0, shown
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert rows == pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert (rows[3]["item"], rows[3]["right"], rows[3]["task"], rows[3]["line"]) == ("3", True, "words", 4)
    _, shown = score(first, "--against", second)
    assert "on 6 items matched by id" in shown
    assert "McNemar: 6 against 0, p = 0.0312" in shown


def test_samples_of_an_item_get_votes(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"outputs": ["5", "5", "6"], "answer": 5}, {"outputs": ["1", "5", "2"], "answer": 5}]))
    code, shown = score(file, "--k", 1, "--k", 3)
    assert code == 0, shown
    assert "2 items, 6 samples" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert [line[1] for line in lines if line and line[0] in ("1", "3")] == ["50.0%", "66.7%"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "outptu"], "--text outptu: no record has it; there is id, task, target, output"),
        (["--scorer", "numbers"], "there is no scorer 'numbers': take one of number, "),
        (["--by", "subject"], "--by subject: no record has it"),
        (["--only", "task=none"], "--only task=none: no record has that; there is sums, words"),
        (["--only", "task"], "--only task: write field=value"),
        (["--output", "x.xls"], "--output x.xls: take a name that ends in .jsonl or .parquet"),
        (["--answers", "nowhere.jsonl"], "no such file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    code, shown = score(write(tmp_path / "a.jsonl", SAID), *words)
    assert code == 2
    assert message in shown
    assert shown.startswith("error: ")


def test_where_nothing_can_be_judged_the_command_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"output": "5", "target": "five"}')
    code, shown = score(file, "--scorer", "number")
    assert code == 1
    assert "nothing could be judged: the reference answer 'five' holds no number" in shown
    file.write_text('{"output": "5"}')
    assert "no field holds the right answers: give --reference or --answers" in score(file)[1]
