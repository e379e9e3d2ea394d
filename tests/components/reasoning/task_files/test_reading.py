"""Task files as others publish them: what is asked, what is right, what belongs together, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from public_files import DATA

from components.data.files import Quarantined, SourceError
from components.reasoning.task_files.formats import Columns
from components.reasoning.task_files.generated import BROKEN, open_generated
from components.reasoning.task_files.reading import Task, TaskItem, open_task


def lines(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(path)


def items(task: Task) -> list[TaskItem]:
    return [one for one in task.items() if isinstance(one, TaskItem)]


GSM = {"question": "How many?", "answer": "2 * 3 = <<2*3=6>>6\nand 1,000 times.\n#### 6,000"}
SVAMP = {
    "ID": "chal-1",
    "Body": "Ann has 3 apples",
    "Question": "How many?",
    "Equation": "",
    "Answer": 51.0,
    "Type": "",
}
AQUA = {"question": "Which?", "options": ["A)one", "B)5(√3 + 1)"], "rationale": "It is B.", "correct": "B"}
ARC = {"question": "Which?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"}
MMLU = {"question": "Which?", "choices": ["x", "y"], "answer": 1}


@pytest.mark.parametrize(
    ("row", "format", "asked", "answer", "scorer"),
    [
        (GSM, "gsm8k", "How many?", "6,000", "number"),
        (SVAMP, "svamp", "Ann has 3 apples. How many?", "51", "number"),
        (AQUA, "aqua", "Which?\n(A) one\n(B) 5(√3 + 1)", "B", "choice"),
        (ARC, "choice", "Which?\n(A) x\n(B) y\n(C) z", "C", "choice"),
        (MMLU, "choice", "Which?\n(A) x\n(B) y", "B", "choice"),
        ({"input": "2+2", "target": 4.0}, "mawps", "2+2", "4", "number"),
        (
            {"canary": "…", "examples": [{"input": "not ( True )", "target": "False"}]},
            "bbh",
            "not ( True )",
            "False",
            "yes-no",
        ),
        ({"problem": "½ + ½?", "solution": "so \\boxed{1}"}, "plain", "½ + ½?", "1", "number"),
        ({"question": "Capital?", "answer": "Paris"}, "plain", "Capital?", "Paris", "text"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_each_format_is_told_from_its_records(
    tmp_path: Path, row: Any, format: str, asked: str, answer: str, scorer: str
) -> None:
    task = open_task(lines(tmp_path / "task.jsonl", row))
    (one,) = items(task)
    assert (one.text, one.answer, one.scorer.name) == (asked, answer, scorer)
    assert f"format {format}" in task.described


def test_the_worked_solution_of_an_example_ends_in_its_answer(tmp_path: Path) -> None:
    (one,) = items(open_task(lines(tmp_path / "t.jsonl", GSM)))
    assert one.worked == "2 * 3 = 6\nand 1,000 times.\nThe answer is 6,000."


def test_game_of_24_is_right_by_its_own_rule(tmp_path: Path) -> None:
    (tmp_path / "24.csv").write_text("Rank,Puzzles\n1,1 4 5 10\n")
    (one,) = items(open_task(str(tmp_path / "24.csv")))
    assert one.scorer.judge("Answer: (10 - 4) * (5 - 1)", (one.answer,)).right
    assert not one.scorer.judge("Answer: 10 + 10 + 4", (one.answer,)).right


def test_bodies_files_and_named_columns_make_clusters(tmp_path: Path) -> None:
    same = open_task(lines(tmp_path / "s.jsonl", SVAMP, {**SVAMP, "ID": "chal-2"}))
    assert len({one.cluster for one in items(same)}) == 1
    lines(
        tmp_path / "bbh" / "a.json",
        {"canary": "", "examples": [{"input": "x", "target": "yes"}, {"input": "z", "target": "yes"}]},
    )
    lines(tmp_path / "bbh" / "b.json", {"canary": "", "examples": [{"input": "x", "target": "2"}]})
    several = items(open_task(str(tmp_path / "bbh")))
    assert [(one.suite, one.cluster, one.scorer.name) for one in several] == [
        ("a", "a", "yes-no"),
        ("a", "a", "yes-no"),
        ("b", "b", "number"),
    ]
    rows = [{"q": f"{n}?", "a": n, "doc": n // 2} for n in range(4)]
    named = open_task(lines(tmp_path / "d.jsonl", *rows), columns=Columns("q", "a", "doc"))
    assert [one.cluster for one in items(named)] == ["0", "0", "1", "1"]


def test_a_question_that_stands_twice_is_two_items(tmp_path: Path) -> None:
    names = [one.id for one in items(open_task(lines(tmp_path / "t.jsonl", GSM, GSM)))]
    assert names[1] == f"{names[0]}#2"


def test_what_is_no_item_is_told_with_its_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", GSM, {"question": "q", "answer": "no mark"}, "text")
    found = [one for one in open_task(path).items() if isinstance(one, Quarantined)]
    assert [(one.line, one.reason) for one in found] == [
        (2, "the answer has no line that begins with ####"),
        (3, "expected an object, found str"),
    ]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"x": 1}, {}, "no column with the question: tried question, problem"),
        ({"question": "q"}, {}, "no column with the right answer"),
        ({**MMLU, "answer": 7}, {}, "the answer '7' is none of the 2 options"),
        (GSM, {"format": "gsm"}, "there is no format 'gsm': take one of gsm8k, svamp"),
        (GSM, {"scorer": "numbers"}, "there is no scorer 'numbers'"),
        (GSM, {"columns": Columns(answer="gold")}, "the column 'gold' is empty"),
    ],
)
def test_a_task_without_an_item_is_refused_in_one_line(tmp_path: Path, row: Any, options: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        open_task(lines(tmp_path / "t.jsonl", row), **options)
    assert "\n" not in str(error.value)


def test_a_hub_data_set_by_name(tmp_path: Path) -> None:
    lines(tmp_path / "datasets" / "openai" / "gsm8k@main" / "main" / "test.jsonl", GSM)
    hub = DirFileSystem(path=str(tmp_path), fs=LocalFileSystem())
    task = open_task("hub:openai/gsm8k/main/test.jsonl", filesystem=hub)
    assert ([one.answer for one in items(task)], task.name) == (["6,000"], "test")
    with pytest.raises(SourceError, match="hub dataset 'openai/none'"):
        open_task("hub:openai/none", filesystem=hub)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_verifiers_are_refused_by_name(name: str) -> None:
    with pytest.raises(SourceError, match=BROKEN[name]):
        open_generated(f"gym:{name}", 0, 1)


def test_a_task_of_reasoning_gym_is_judged_by_its_verifier() -> None:
    pytest.importorskip("reasoning_gym")
    task = open_generated("gym:chain_sum:3", 1, 0)
    found = [one for one in task.items() if isinstance(one, TaskItem)]
    assert len(found) == 3
    for one in found:
        assert one.scorer.judge(one.answer, (one.answer,)).right
        assert not one.scorer.judge(f"{one.answer}1", (one.answer,)).right


@pytest.mark.slow
def test_every_task_of_reasoning_gym_but_the_broken_ones_tells_its_own_answer_from_junk() -> None:
    factory = pytest.importorskip("reasoning_gym.factory")
    wrong = []
    for name in sorted(set(factory.DATASETS) - set(BROKEN)):
        one = next(one for one in open_generated(f"gym:{name}:1", 1, 0).items() if isinstance(one, TaskItem))
        if not one.scorer.judge(one.answer, (one.answer,)).right or one.scorer.judge("junk xyz", (one.answer,)).right:
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("gsm8k/test.jsonl", 1319),
        ("svamp/SVAMP.json", 1000),
        ("aqua/test.jsonl", 254),
        ("game24/24.csv", 1362),
        ("bbh/[d-w]*.json", 6074),
    ],
)
def test_public_files_are_read_whole(path: str, count: int) -> None:
    if not (DATA / path).parent.is_dir():
        pytest.skip(f"{DATA / path} is not here")
    found = list(open_task(str(DATA / path)).items())
    assert [one for one in found if isinstance(one, Quarantined)] == []
    assert len(found) == count
