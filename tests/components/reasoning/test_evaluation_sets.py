"""Evaluation sets of a user's own: questions, choices, what is rejected, and how an answer is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from public_files import DATA

from components.data.files import Quarantined, SourceError
from components.data.tokenizer import Tokenizer
from components.inference.text import TextCompletion
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.reasoning.evaluation_pairs import rank_pairs, read_pairs
from components.reasoning.evaluation_sets import EvaluationConfig, as_item, read_evaluation
from components.reasoning.question_files import Question, read_questions, write_questions
from components.rlhf.rewards.exact import ExactReward

GSM8K = DATA / "gsm8k/test.jsonl"
AQUA = DATA / "aqua/test.jsonl"


def read(config: EvaluationConfig) -> tuple[list[Question], list[Quarantined]]:
    found = list(read_evaluation(config))
    return [x for x in found if isinstance(x, Question)], [x for x in found if isinstance(x, Quarantined)]


def completion(text: str, finished: bool = True) -> TextCompletion:
    return TextCompletion(text, 5, -1.0, finished)


def write(file: Path, *rows: object) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_worked_reference_is_asked_and_judged_by_its_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"question": "Why?", "answer": "because"},
        {"question": "How many?", "answer": "#### 2"},
    )
    questions, (bad,) = read(EvaluationConfig(path, template="{question} Think."))
    assert (bad.line, bad.reason) == (2, "the reference answer 'because' holds no number")
    assert [q.id for q in questions] == [questions[0].id, questions[0].id + "#2"]
    item = as_item(questions[0], EvaluationConfig(path).verifier)
    assert (item.worked, item.target) == ("How many? Think.", "2")
    for text, finished, answer, right, status in [
        ("1 and 1 is 2", True, "2", True, "answered"),
        ("it is 3", True, "3", False, "answered"),
        ("no idea", True, "", False, "unparsed"),
        ("1 and 1 is 2", False, "", False, "truncated"),
        ("#### 2\nand", False, "2", True, "answered"),
    ]:
        done = completion(text, finished)
        assert (item.answer_of(done), item.accepts(done), item.status_of(done)) == (answer, right, status)
    write_questions(tmp_path / "q.parquet", questions)
    assert read_questions(tmp_path / "q.parquet") == questions


def test_the_right_option_is_a_letter_a_place_or_a_text(tmp_path: Path) -> None:
    options = ["Rhine", "Alps", "Rome"]
    path = write(
        tmp_path / "mine.jsonl",
        {"question": "A river?", "options": options, "answer": "A"},
        {"question": "Mountains?", "options": options, "answer": 1},
        {"question": "A city?", "options": options, "answer": "Rome"},
        {"question": "A lake?", "options": options, "answer": "Garda"},
        {"question": "A lake?", "options": options, "answer": 7},
        {"question": "A lake?", "options": "Garda", "answer": "A"},
        {"question": "Labelled?", "options": ["A)one", "B)two"], "answer": "B"},
    )
    questions, bad = read(EvaluationConfig(path, options="options"))
    assert [q.answer for q in questions] == ["A", "B", "C", "B"]
    assert questions[0].prompt == "A river?\nA) Rhine\nB) Alps\nC) Rome"
    assert questions[3].prompt == "Labelled?\nA)one\nB)two"
    assert [one.line for one in bad] == [4, 5, 6]
    assert bad[0].reason == "the answer 'Garda' is none of the 3 options"
    item = as_item(questions[0], EvaluationConfig(path, options="options").verifier)
    assert item.accepts(completion("It is (A).")) and not item.accepts(completion("(B)"))


def test_a_set_has_its_own_scorer_and_a_set_without_a_question_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "Capital?", "answer": "Rome"})
    (question,), _ = read(EvaluationConfig(path, scorer=ExactReward()))
    assert as_item(question, ExactReward()).accepts(completion("Rome."))
    with pytest.raises(
        SourceError, match=r"no usable question: .*mine.jsonl:1: the reference answer 'Rome' holds no number"
    ):
        read(EvaluationConfig(path))
    with pytest.raises(SourceError, match="no column 'stem'; the record has answer, question"):
        read(EvaluationConfig(path, question="stem"))


@pytest.mark.skipif(not GSM8K.exists(), reason="the published file is not here")
def test_published_files_are_read_whole() -> None:
    questions, bad = read(EvaluationConfig(str(GSM8K)))
    assert (len(questions), bad) == (1319, [])
    assert {as_item(q, EvaluationConfig(str(GSM8K)).verifier).accepts(completion(q.answer)) for q in questions} == {
        True
    }
    config = EvaluationConfig(str(AQUA), options="options", answer="correct")
    questions, bad = read(config)
    assert (len(questions), bad) == (254, [])
    assert sum(as_item(q, config.verifier).accepts(completion("A")) for q in questions) == 63  # 24.8%


def test_pairs_are_ranked_by_the_models_own_probability_per_token(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "Say a.", "chosen": "a a", "rejected": "b"},
        {"prompt": "Say b.", "chosen": "b", "rejected": "a a a a"},
        {"prompt": "Say c."},
        {"prompt": "Say a. " * 60, "chosen": "a", "rejected": "b"},
    )
    questions, (bad,) = read_pairs("mine", path)
    assert (bad.line, len(questions)) == (3, 3)
    words = Tokenizer.train(["Say a. a a b Say b. " * 20], 270)
    cfg = ModelConfig(vocab_size=words.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=64)
    model = Transformer(cfg, seed=1)
    ranked, too_long = rank_pairs(model, words, questions)
    assert [place for place, _ in too_long] == [2]

    def per_token(question: str, answer: str) -> float:
        """By hand, token by token."""
        prompt, _ = words.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
        ids = [*prompt, *words.encode(answer), words.end_id]
        log_probs = model.logits(model.hidden(torch.tensor([ids])).x_BTD).double().log_softmax(-1)[0]
        found = [float(log_probs[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]
        return sum(found) / len(found)

    with torch.no_grad():
        for one in ranked:
            q = one.question
            expected = per_token(q.question, q.answer) - per_token(q.question, q.metadata["rejected"])
            assert one.margin == pytest.approx(expected, abs=1e-5)
            assert one.correct == (expected > 0)
