"""No stage that makes training text hands out a question or a solution of the evaluation set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data.conversations import read_conversations
from components.data.instruction import ConversationSource, InstructionConfig, generate_conversations
from components.data.pipeline import DataConfig, prepare, read_corpus
from components.data.results import CorpusResult
from components.data.sources import SourceConfig
from components.data.tokenizer import Tokenizer
from components.reasoning.question_files import Question, write_questions
from components.reasoning.tasks import HeldOutProblems, Problem, SuiteConfig, chain_problem
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages.data import make_conversations, prepare_corpus
from flows.stages.files import CONVERSATIONS, CORPUS, EVALUATIONS
from storage.artifacts import Artifact, Record, Store

SUITE = SuiteConfig(difficulties=(2, 4), per_difficulty=120)


def solutions(texts: list[str]) -> set[str]:
    """Those of the suite that stand in the texts, as a whole or as the end of a longer one."""
    written = {
        "=".join(parts[first:])
        for text in texts
        for word in text.split()
        if (parts := word.split("="))
        for first in range(len(parts))
    }
    return {problem.steps for problem in SUITE.problems()} & written


def work_in(folder: Path) -> Work:
    (folder / "out").mkdir()
    return Work(folder / "out", folder / "state", ComputeConfig())


@pytest.fixture(scope="module")
def problems() -> SourceConfig:
    return SourceConfig("problems", "problems", max_bytes=1_000_000)


def test_pretraining_text_holds_no_solution(tmp_path: Path, problems: SourceConfig) -> None:
    work = work_in(tmp_path)
    result = prepare_corpus.fn(work, config=DataConfig((problems,)), suite=SUITE, raw={}, evaluations=[])
    texts = [document.text for document in read_corpus(work.out / CORPUS)]
    assert sum(map(len, texts)) > 900_000
    assert solutions(texts) == set()
    # Nothing had to be taken out again: they are not drawn. Without the suite they stand there.
    assert isinstance(result, CorpusResult) and result.num_contaminated == 0
    assert len(solutions([d.text for d in prepare(DataConfig((problems,))).documents])) > 20


def test_text_from_elsewhere_with_a_solution_goes_with_its_reason(problems: SourceConfig) -> None:
    held_out = SUITE.held_out()
    prepared = prepare(DataConfig((problems,)), sorted(held_out.questions), sorted(held_out.solutions))
    (row,) = (row for row in prepared.funnel if row.step == "decontaminate")
    assert row.removed["holds an evaluation solution"] > 20
    assert solutions([document.text for document in prepared.documents]) == set()
    assert {overlap.item for overlap in prepared.overlaps} <= held_out.questions | held_out.solutions


def test_conversations_hold_no_solution(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    config = InstructionConfig(6000, (ConversationSource("sums", "sums", max_difficulty=4),))
    make_conversations.fn(
        work, config=config, suite=SUITE, seed=0, raw={}, context_length=0, tokenizer=[], evaluations=[]
    )
    made = [c.messages[-1].content for c in read_conversations(work.out / CONVERSATIONS)]
    assert len(made) == 6000 and solutions(made) == set()


def test_conversations_hold_no_question_of_the_users_sets(tmp_path: Path) -> None:
    """Neither those that are read, which are told by line, nor those that are generated."""
    store = Store(tmp_path / "artifacts")

    def sealed(kind: str, write: Callable[[Path], object]) -> Artifact:
        key = hashlib.sha256(kind.encode()).hexdigest()
        with store.writing(key) as out:
            write(out)
            return store.seal(out, Record(Artifact(kind, key, {}), kind, {}, {}, {}, "toy"))

    config = InstructionConfig(50, (ConversationSource("sums", "sums"),))
    plain = list(generate_conversations(config, 0, SUITE.held_out()))
    taken = plain[7].messages[0].content
    asked = [Question("mine", str(i), text, text, "4") for i, text in enumerate((taken, "Which river is the longest?"))]
    evaluations = sealed("evaluations", lambda out: write_questions(out / EVALUATIONS, asked))
    tokenizer = sealed("tokenizer", Tokenizer.train([taken] * 3, 300).save)
    said = ["Which lake is deep?", "Tell me: which river is the longest?", "Name a lake.", "Name a river.", "And one?"]
    lines = [json.dumps({"prompt": text, "completion": "I do not know."}) for text in said]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    chats = ConversationSource("chats", path=str(tmp_path / "chats.jsonl"), max_bad_share=0.5)
    (tmp_path / "out").mkdir()
    work = Work(tmp_path / "out", tmp_path / "state", ComputeConfig(), store=store)
    make_conversations.fn(
        work,
        config=dataclasses.replace(config, sources=(*config.sources, chats)),
        suite=SUITE,
        seed=0,
        raw={},
        context_length=200,
        tokenizer=[tokenizer],
        evaluations=[evaluations],
    )
    made = [c.messages[0].content for c in read_conversations(work.out / CONVERSATIONS)]
    assert [text for text in said if text not in made] == [said[1]]
    assert taken not in made and {c.messages[0].content for c in plain} - {taken} <= {*made}


def chain(question: str, steps: str) -> Problem:
    return Problem(question, steps, steps.rpartition("=")[2], steps.count("="), "symbolic")


def test_a_problem_is_held_out_in_other_words_and_within_a_longer_one() -> None:
    held_out = HeldOutProblems.of([chain("2+3-1=?", "2+3-1=5-1=4"), chain("7+1=?", "7+1=8")])
    assert held_out.forbids(chain("2+3-1=?", "2+3-1=5-1=4"))
    assert held_out.forbids(chain("Ann has 2 nuts. Ann gets 3. Ann drops 1. How many nuts?", "2+3-1=5-1=4"))
    assert held_out.forbids(chain("1+1+3-1=?", "1+1+3-1=2+3-1=5-1=4"))
    assert not held_out.forbids(chain("2+3-2=?", "2+3-2=5-2=3"))
    # A single operation is held out as a question alone: every longer chain ends with one.
    assert held_out.forbids(chain("7+1=?", "7+1=8"))
    assert not held_out.forbids(chain("5+2+1=?", "5+2+1=7+1=8"))


def test_little_is_drawn_anew() -> None:
    """The suite is a small part of what there is: the mixture of difficulties stays what it was."""
    rng, held_out = random.Random(0), SuiteConfig().held_out()
    drawn = [chain_problem(rng, rng.randint(1, 6)) for _ in range(4000)]
    assert sum(held_out.forbids(problem) for problem in drawn) / len(drawn) < 0.02
