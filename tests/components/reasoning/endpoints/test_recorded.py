"""Samples kept on disk: nothing is asked twice, a killed evaluation goes on, its tokens are the sum of its samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.endpoints.backend import Arrived, Ask
from components.reasoning.endpoints.recorded import Meter, Recorded
from components.reasoning.endpoints.store import SampleStore


class Scripted:
    """Answers with the prompt and the sample's number, one token each; stops after `patience` samples."""

    identity = "scripted"

    def __init__(self, patience: int = 10**9, broken: str = "") -> None:
        self.asked: list[tuple[str, int]] = []
        self.patience, self.broken = patience, broken

    def complete(self, asks: Sequence[Ask]) -> Iterator[list[Arrived]]:
        for place, ask in enumerate(asks):
            for sample in ask.samples:
                if len(self.asked) == self.patience:
                    raise KeyboardInterrupt
                self.asked.append((ask.prompt.user, sample))
                problem = "failed" if ask.prompt.user == self.broken else ""
                text = "" if problem else f"{ask.prompt.user}{sample}"
                billed = 5 if sample == ask.first else 0
                done = TextCompletion(text, 1, 0.0, True, 5, problem=problem, billed_prompt_tokens=billed)  # type: ignore[arg-type]
                yield [Arrived(place, sample, done)]


def prompts(*texts: str) -> list[TextPrompt]:
    return [TextPrompt(text) for text in texts]


def drawn(count: int, seed: int = 0) -> SamplingParams:
    return SamplingParams(num_samples=count, seed=seed)


def texts(groups: Sequence[Sequence[TextCompletion]]) -> list[list[str]]:
    return [[done.text for done in group] for group in groups]


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "samples.db"
    first, second = Scripted(patience=5), Scripted()
    with SampleStore(file) as store, pytest.raises(KeyboardInterrupt):
        Recorded(first, store, "run")(prompts("a", "b"), drawn(4))
    with SampleStore(file) as store:
        again = Recorded(second, store, "run")
        assert texts(again(prompts("a", "b"), drawn(4))) == [["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]]
        assert second.asked == [("b", 1), ("b", 2), ("b", 3)]
        assert (again.found, again.asked) == (5, 3)
        ledger = store.ledger("run")
    # The prompt of b was paid for twice: once before the kill, once after it.
    assert (ledger.samples, ledger.completion_tokens, ledger.prompt_tokens, ledger.calls) == (8, 8, 15, 3)


def test_more_samples_of_a_prompt_are_asked_for_alone(tmp_path: Path) -> None:
    backend = Scripted()
    with SampleStore(tmp_path / "s.db") as store:
        generate = Recorded(backend, store, "run")
        generate(prompts("a"), drawn(2))
        assert texts(generate(prompts("a"), drawn(4))) == [["a0", "a1", "a2", "a3"]]
        assert texts(generate(prompts("a"), drawn(1))) == [["a0"]]
    assert backend.asked == [("a", n) for n in range(4)]


@pytest.mark.parametrize(
    "other",
    [
        SamplingParams(num_samples=1, seed=1),
        SamplingParams(num_samples=1, temperature=0.5),
        SamplingParams(num_samples=1, max_tokens=3),
        SamplingParams(num_samples=1, top_p=0.5),
    ],
    ids=["seed", "temperature", "max_tokens", "top_p"],
)
def test_whatever_shapes_a_sample_is_in_its_key(tmp_path: Path, other: SamplingParams) -> None:
    backend = Scripted()
    with SampleStore(tmp_path / "s.db") as store:
        generate = Recorded(backend, store, "run")
        generate(prompts("a"), drawn(1))
        generate(prompts("a"), other)
        generate([TextPrompt("a", shots=(("x", "y"),))], drawn(1))
    assert len(backend.asked) == 3


def test_a_greedy_answer_has_no_seed_and_a_question_that_stands_twice_is_asked_once(tmp_path: Path) -> None:
    backend = Scripted()
    with SampleStore(tmp_path / "s.db") as store:
        generate = Recorded(backend, store, "run")
        for seed in (1, 2):
            generate(prompts("a", "a"), SamplingParams(temperature=0.0, seed=seed))
        assert store.ledger("run").samples == 1
    assert backend.asked == [("a", 0)]


def test_what_failed_is_asked_again_and_what_was_had_stays(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    with SampleStore(file) as store:
        (good,), (bad,) = Recorded(Scripted(broken="b"), store, "run")(prompts("a", "b"), drawn(1))
        assert (good.problem, bad.problem, store.ledger("run").failed) == ("", "failed", 1)
    with SampleStore(file) as store:
        mended = Scripted()
        assert texts(Recorded(mended, store, "run")(prompts("a", "b"), drawn(1))) == [["a0"], ["b0"]]
        assert mended.asked == [("b", 0)]
        assert store.ledger("run").failed == 0


def test_rows_tell_what_was_asked_and_said(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "s.db") as store:
        Recorded(Scripted(), store, "run")(prompts("a"), drawn(2, seed=7))
        Recorded(Scripted(), store, "other")(prompts("b"), drawn(1))
        rows = list(store.rows("run"))
    assert [(row["text"], row["sample"], row["model"]) for row in rows] == [
        ("a0", 0, "scripted"),
        ("a1", 1, "scripted"),
    ]
    assert '"seed": 7' in rows[0]["params"]


def test_a_meter_counts_what_passes_as_it_is_billed(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "s.db") as store:
        meter = Meter(Recorded(Scripted(), store, "run"))
        meter(prompts("a", "b"), drawn(3))
    assert (meter.calls, meter.prompt_tokens, meter.completion_tokens) == (2, 10, 6)
