"""Wordings and examples: what is asked, and that an example never is the question itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from components.data.files import SourceError
from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.prompting.examples import Pool, choose_examples, likeness
from components.reasoning.prompting.search import SearchConfig, search_instruction
from components.reasoning.prompting.templates import Template, read_templates, template, wordings
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.task_files.asking import as_item
from components.reasoning.task_files.reading import TaskItem


def item(name: str, text: str, cluster: str = "", worked: str = "") -> TaskItem:
    return TaskItem(name, text, "4", worked, cluster or name, "suite", SCORERS["number"], "file", int(name))


POOL = [
    item("1", "red apples in a box"),
    item("2", "red apples in a bag", worked="2+2=4. The answer is 4."),
    item("3", "trains that leave a station"),
    item("4", "the age of a sister"),
]


def test_similar_examples_stand_next_to_the_question_in_the_order_of_their_likeness() -> None:
    pick = choose_examples(Pool.of(POOL), 2, "similar", 0)
    assert [one.id for one in pick(item("9", "red apples in a small box"))] == ["2", "1"]


@pytest.mark.parametrize("choice", ["random", "similar", "diverse"])
def test_an_example_never_is_the_question_its_text_or_of_its_cluster(choice: str) -> None:
    pool = Pool.of([*POOL, item("5", "red apples", cluster="1")])
    pick = choose_examples(pool, 5, choice, 0)  # type: ignore[arg-type]
    assert sorted(one.id for one in pick(POOL[0])) == ["2", "3", "4"]
    same_text = TaskItem("7", POOL[1].text, "4", "", "7", "s", SCORERS["number"], "elsewhere", 1)
    assert "2" not in {one.id for one in pick(same_text)}


def test_diverse_examples_are_unlike_each_other() -> None:
    pool = Pool.of(POOL)
    two = choose_examples(pool, 2, "diverse", 0)(item("9", "something else"))
    vectors = [pool.vectors[POOL.index(one)] for one in two]
    assert likeness(*vectors) < likeness(pool.vectors[0], pool.vectors[1])


def test_likeness_is_the_cosine_of_tf_idf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    matrix = TfidfVectorizer(token_pattern=r"\w+").fit_transform([one.text for one in POOL]).toarray()
    pool = Pool.of(POOL)
    for a in range(4):
        for b in range(4):
            assert likeness(pool.vectors[a], pool.vectors[b]) == pytest.approx(float(matrix[a] @ matrix[b]))


def test_a_search_keeps_what_the_development_items_answer_rightly_with() -> None:
    asked: list[str] = []

    def model(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        asked.extend(prompt.user for prompt in prompts)
        return [
            [TextCompletion(said(prompt.user, n), 1, 0.0, True) for n in range(params.num_samples)]
            for prompt in prompts
        ]

    def said(text: str, sample: int) -> str:
        if "<INS>" in text:
            return "<INS>Use {magic}.</INS>" if sample == 1 else "no marks"
        return "The answer is 4." if "Use (magic)." in text or "red" in text else "The answer is 5."

    rounds = list(search_instruction(model, POOL, SearchConfig(rounds=2, candidates=2), 16))
    assert [found[0].accuracy for found in rounds] == [0.5, 1.0, 1.0]
    assert rounds[-1][0].instruction == "Use {magic}."
    assert len(rounds[-1]) == 3  # said again, it is not asked again
    assert sum("<INS>" in text for text in asked) == 2
    second = [text for text in asked if "<INS>" in text][1]
    assert second.index("(50%)") < second.index("(100%)")
    assert rounds[-1][0].wording.fill(question="q", form="f").startswith("q\n\nUse (magic).")


def test_a_wording_is_filled_in_one_pass() -> None:
    assert Template("t", "cot", 1, "{question} {form} {other}").fill(question="{form}", form="x") == "{form} x {other}"


def test_the_hash_of_a_wording_is_that_of_its_text() -> None:
    one = template("cot", "cot")
    assert one.label.startswith("cot/1 ")
    assert one.digest != Template("cot", "cot", 1, one.text + " ").digest


def test_every_style_that_is_interchangeable_asks_the_question() -> None:
    assert len(wordings("direct")) >= 3
    assert len(wordings("cot")) >= 3
    assert all("{question}" in one.text for style in ("direct", "cot") for one in wordings(style))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"no \[\[templates\]\] in it"),
        ('[[templates]]\nname = "a"\nstyle = "cot"\nversion = "1"\ntext = "{question}"', "entry 1: version is '1'"),
        ('[[templates]]\nname = "a"\nstyle = "cot"\nversion = 1\ntext = "hi"', "no place for the {question}"),
    ],
)
def test_a_broken_file_of_wordings_is_told_by_entry_and_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_templates(file)


def test_examples_are_worded_like_the_question_and_show_their_work() -> None:
    worked, direct = Template("w", "cot", 1, "W {question}"), Template("d", "direct", 1, "D {question}")
    asked = as_item(POOL[0], direct, worked, lambda one: POOL[1:3])
    assert asked.worked_shots[0] == ("W red apples in a bag", "2+2=4. The answer is 4.")
    assert asked.worked_shots[1] == ("W trains that leave a station", "The answer is 4.")
    assert asked.direct_shots[0] == ("D red apples in a bag", "The answer is 4.")
    assert asked.worked_prompt.shots == asked.worked_shots
