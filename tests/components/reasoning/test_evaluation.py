"""Evaluations in chunks: statuses, intervals, estimates over all samples, differences on pairs, and the front."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.evaluate import tree_rows
from components.reasoning.evaluation import EvaluationSettings, evaluate, rows_of
from components.reasoning.items import Item
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.strategies.named import strategy_named
from components.reasoning.tally import Tally, difference, over_wordings, paired_bootstrap, pareto_front
from components.reasoning.task_files.asking import as_item
from components.reasoning.task_files.reading import TaskItem
from components.statistics import clustered_share_interval, paired_difference, wilson

DIRECT, WORKED = template("direct", "direct"), template("cot", "cot")


def put(one: TaskItem) -> Item:
    return as_item(one, DIRECT, WORKED)


def tasks(count: int, clusters: int = 0) -> Iterator[TaskItem]:
    for n in range(count):
        group = f"c{n % clusters}" if clusters else f"q{n}"
        yield TaskItem(f"q{n}", f"question {n}?", str(n), "", group, "suite", SCORERS["number"], "file", n)


def model(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
    """Question n is answered rightly if n is even; every fifth is cut, every seventh fails. Samples of an even one are
    right but for the second."""
    groups = []
    for prompt in prompts:
        n = int(prompt.user.split("question ")[1].split("?")[0])
        said = [f"The answer is {n if n % 2 == 0 and sample != 1 else -1}.\n" for sample in range(params.num_samples)]
        problem = "failed" if n % 7 == 6 else ""
        texts = ["" if problem else "It may be" if n % 5 == 4 else text for text in said]
        groups.append(
            [
                TextCompletion(text, 2, 0.0, n % 5 != 4, 3, problem=problem, billed_prompt_tokens=0 if k else 3)  # type: ignore[arg-type]
                for k, text in enumerate(texts)
            ]
        )
    return groups


def tallies(names: Sequence[str], count: int, clusters: int = 0, chunk: int = 7) -> list[Tally]:
    strategies = [strategy_named(name) for name in names]
    found = {one.name: Tally(one) for one in strategies}
    for answers in evaluate(tasks(count, clusters), put, strategies, model, EvaluationSettings(), chunk):
        found[answers.strategy.name].add(answers)
    return list(found.values())


def test_accuracy_is_told_three_ways_over_all_chunks() -> None:
    (tally,) = tallies(["cot"], 70)
    one = tally.report(usd=7.0)
    right = [n for n in range(70) if n % 2 == 0 and n % 5 != 4 and n % 7 != 6]
    failed = [n for n in range(70) if n % 7 == 6]
    cut = [n for n in range(70) if n % 5 == 4 and n % 7 != 6]
    assert one.of_all == wilson(len(right), 70)
    assert one.of_parsed == wilson(len(right), 70 - len(failed) - len(cut))
    assert one.without_failures == wilson(len(right), 70 - len(failed))
    assert one.statuses == {"answered": 48, "unparsed": 0, "truncated": len(cut), "refused": 0, "failed": len(failed)}
    assert one.many_without_answer
    assert (one.calls, one.prompt_tokens, one.completion_tokens, one.usd) == (1.0, 3.0, 2.0, 0.1)


def test_items_of_a_cluster_widen_the_interval() -> None:
    (tally,) = tallies(["cot"], 60, clusters=4)
    labels = [f"c{n % 4}" for n in range(60)]
    assert tally.report().of_all == clustered_share_interval([bool(x) for x in tally.right], labels)


def test_votes_of_every_size_are_means_over_all_subsets() -> None:
    (tally,) = tallies(["sc@4"], 6)
    at = tally.report().at_k
    # Of an even item three of four samples are right: pass@2 is sure, and of the six pairs three hold the wrong one.
    pairs = list(combinations([True, False, True, True], 2))
    majority = np.mean([np.mean(pair) for pair in pairs])
    even = [n for n in range(6) if n % 2 == 0 and n % 5 != 4]
    assert at[2][0].value == pytest.approx(majority * len(even) / 6)
    assert at[2][1].value == pytest.approx(len(even) / 6)
    assert at[4][0].value == pytest.approx(len(even) / 6)


def test_differences_are_paired_and_only_between_answers_of_both() -> None:
    first, second = tallies(["cot", "sc@4"], 30)
    second.right[0] = 0  # an item that only the first got right
    found = difference(first, second)
    assert found.exact == paired_difference(list(first.right), list(second.right))
    assert (found.exact.only_a, found.exact.only_b) == (1, 0)
    answered = sum(n % 5 != 4 and n % 7 != 6 for n in range(30))
    assert found.answered is not None and found.answered.n == answered
    assert not found.unlike


def test_the_bootstrap_draws_whole_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 5)
    effects = np.repeat(rng.normal(0.1, 1.0, 40), 5)
    found = paired_bootstrap(effects, clusters, seed=1)
    # With clusters of equal size it is the bootstrap of their means, whose width is that of the normal one.
    half = 1.96 * effects[::5].std() / np.sqrt(40)
    assert found.value == pytest.approx(effects.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.n == 40


def test_the_front_holds_what_nothing_beats() -> None:
    (tally,) = tallies(["cot"], 10)
    base = tally.report(1.0)

    def at(name: str, accuracy: float, usd: float | None) -> object:
        return replace(
            base, strategy=replace(base.strategy, name=name), of_all=replace(base.of_all, value=accuracy), usd=usd
        )

    reports = [at("dear", 0.9, 4.0), at("beaten", 0.4, 2.0), at("cheap", 0.5, 1.0), at("mid", 0.7, 2.0)]
    assert [one.strategy.name for one in pareto_front(reports)] == ["cheap", "mid", "dear"]  # type: ignore[arg-type]


def test_wordings_are_averaged_by_item() -> None:
    first, second = tallies(["cot", "sc@4"], 20)
    second.right = type(second.right)("b", [0] * 20)
    mean, low, high = over_wordings([first, second])
    assert (low, high) == (0.0, sum(first.right) / 20)
    assert mean.value == pytest.approx(high / 2)


def test_rows_hold_the_answer_its_status_and_its_cluster() -> None:
    (answers,) = evaluate(tasks(5, 2), put, [strategy_named("cot")], model, EvaluationSettings())
    rows = rows_of(answers, "m")
    details = [json.loads(row["details_json"]) for row in rows]
    assert [(row["item_id"], row["target"], row["correct"]) for row in rows[:2]] == [
        ("q0", "0", True),
        ("q1", "1", False),
    ]
    assert [one["status"] for one in details] == ["answered"] * 4 + ["truncated"]
    assert details[3]["cluster"] == "c1"


def test_the_steps_of_several_requests_are_rows_with_their_depth() -> None:
    (answers,) = evaluate(tasks(1), put, [strategy_named("kojima")], _chains, EvaluationSettings())
    rows = tree_rows(answers.strategy, answers.items, answers.outcomes)
    assert [(row["node"], row["parent"], row["depth"], row["kind"]) for row in rows] == [
        (0, None, 0, "chain"),
        (1, 0, 1, "answer"),
    ]


def _chains(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
    return [[TextCompletion("0", 1, 0.0, True, 3)] for _ in prompts]


def test_memory_stays_flat_over_any_number_of_items() -> None:
    """What is kept of an item is some bytes, not its texts: a large question must not be reachable after its chunk."""
    import tracemalloc

    def large(count: int) -> Iterator[TaskItem]:
        for one in tasks(count):
            yield replace(one, text=one.text + " " * 20_000)

    tally = Tally(strategy_named("cot"))
    tracemalloc.start()
    for answers in evaluate(large(600), put, [tally.strategy], model, EvaluationSettings(), chunk=20):
        tally.add(answers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tally.right) == 600
    assert peak < 600 * 20_000 / 2  # the questions alone are 12 MB
