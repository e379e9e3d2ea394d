"""The controller for questions in words: what it predicts, when it stops, what it is charged, what it is held to."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import minimize

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.controller import (
    Controller,
    Predictor,
    Rates,
    as_json,
    climb,
    fit_predictor,
    from_json,
    replay,
    rungs_to,
    tune,
)
from components.reasoning.controller_report import Spent, controller_report, oracle
from components.reasoning.evaluation import EvaluationSettings, evaluate
from components.reasoning.items import Item
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.strategies.adaptive import Drawn
from components.reasoning.strategies.auto import auto
from components.reasoning.strategies.named import strategy_named
from components.reasoning.tally import Tally
from components.reasoning.task_files.reading import TaskItem

TOKENS = Rates("tokens", 1.0, 1.0, 0.0)


def question(name: str) -> Item:
    """What is asked at once begins with "now", what is asked in steps with "think"; right is 1."""
    return Item(name, name, "1", 0, f"now {name}", f"think {name}", str.strip, lambda text: text.strip() == "1")


def said(text: str, tokens: int) -> TextCompletion:
    return TextCompletion(text, tokens, 0.0, True, 10)


def drawn(name: str, direct: str, worked: str, samples: Sequence[str]) -> Drawn:
    return Drawn(question(name), said(direct, 1), said(worked, 50), tuple(said(text, 50) for text in samples))


def suite(count: int, seed: int) -> list[Drawn]:
    """Half are short and right at once; of the others, long ones, one answer in three is wrong, and votes repair it."""
    rng = random.Random(seed)
    ones = []
    for n in range(count):
        if n % 2:
            ones.append(drawn(f"{n}", "1", "1", ["1"] * 9))
        else:
            answers = [rng.choice("112") if rng.random() < 0.9 else "3" for _ in range(10)]
            ones.append(drawn(f"{n}" + " and so on" * 9, rng.choice("123456"), answers[0], answers[1:]))
    return ones


def test_a_predictor_is_the_penalised_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) * [1.0, 5.0, 0.2] + [0.0, 2.0, 1.0]
    y = (x[:, 0] + 0.3 * x[:, 1] + rng.normal(size=60) > 0.5).astype(float)
    found = fit_predictor(x, y)
    scaled = np.hstack([(x - x.mean(0)) / x.std(0), np.ones((60, 1))])

    def loss(w: np.ndarray) -> float:
        logits = scaled @ w
        return float(np.logaddexp(0, logits).sum() - y @ logits + 0.5 * (w[:3] ** 2).sum() + 0.005 * w[3] ** 2)

    assert found.weights == pytest.approx(
        minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x, abs=1e-4
    )
    assert found(x[0]) == pytest.approx(1 / (1 + np.exp(-scaled[0] @ found.weights)))
    assert 0.9 < fit_predictor(x, np.ones(60))(x[0]) < 1.0  # nothing but right ones leave it finite


def fixed(rungs: tuple[int, ...], outlooks: Sequence[Sequence[float]], price: float) -> Controller:
    """One whose predictions are constants: of rung t from rung s."""
    constant = [[float(np.log(p / (1 - p))) for p in row] for row in outlooks]
    nothing = (0.0,) * 9
    ones = (1.0,) * 9
    predictors = tuple(tuple(Predictor(nothing, ones, (*nothing, logit)) for logit in row) for row in constant)
    return Controller(rungs, predictors, (11.0, 60.0, 110.0), price)


@pytest.mark.parametrize(
    ("price", "rung", "tokens", "prompts"),
    [
        # 0.5 → 0.8 for 60, 0.9 for 170: worth it while 0.3 > 60 · price; the vote adds 0.1 for 110.
        (0.0051, 0, 1, 10),
        (0.0049, 1, 51, 20),
        (0.00095, 1, 51, 20),
        (0.00085, 2, 151, 30),
    ],
)
def test_it_climbs_while_accuracy_is_worth_its_price(price: float, rung: int, tokens: int, prompts: int) -> None:
    found = replay(drawn("q", "2", "2", "11"), fixed((0, 1, 3), [[0.5, 0.8, 0.9], [0.8, 0.9], [0.9]], price))
    assert found.rung == rung
    assert sum(done.num_tokens for group in found.requests for done in group) == tokens
    assert sum(group[0].prompt_tokens for group in found.requests) == prompts
    assert found.answer == ("1" if rung == 2 else "2")


def test_it_goes_on_over_a_rung_that_adds_nothing_to_one_that_does() -> None:
    climbing = fixed((0, 1, 3), [[0.5, 0.5, 0.9], [0.5, 0.9], [0.9]], 0.002)
    assert replay(drawn("q", "2", "2", "11"), climbing).rung == 2
    with pytest.raises(ValueError, match="a vote of 3; a worked answer and 1 samples are kept"):
        replay(drawn("q", "2", "2", "1"), climbing)


def test_rungs_double_and_end_at_the_most() -> None:
    assert [rungs_to(most) for most in (3, 9, 12)] == [(0, 1, 3), (0, 1, 3, 5, 9), (0, 1, 3, 5, 9, 12)]


def test_costs_are_of_requests_with_their_prompt_once() -> None:
    one = climb(drawn("q", "2", "1", "1131"), rungs_to(5), TOKENS)
    assert one.steps_S.tolist() == [11, 60, 110, 110]
    assert one.right_S.tolist() == [0, 1, 1, 1]
    slow = [TextCompletion("1", 5, 0.0, True, 10, seconds=s) for s in (1.0, 3.0)]
    assert Rates("seconds", 0.0, 0.0, 1.0).cost(slow) == 3.0
    assert Rates("usd", 0.1, 0.2, 0.0).cost(slow) == pytest.approx(1.0 + 2.0)


def test_tuned_it_spends_where_it_pays_and_keeps_its_budget() -> None:
    tuned = tune(suite(120, 0), 9, TOKENS)
    for budget in (15.0, 100.0, 200.0):
        controller, point = tuned.within(budget)
        assert point.cost <= budget
        fresh = [replay(one, controller) for one in suite(200, 1)]
        spent = np.mean([sum(map(TOKENS.cost, one.requests)) for one in fresh])
        assert spent <= 1.1 * budget
    efforts = [one.rung for one in fresh]
    assert np.mean(efforts[1::2]) == 0 and np.mean(efforts[::2]) > 1  # the short ones stop at once
    accuracy = np.mean([one.answer == "1" for one in fresh])
    alone = np.mean([one.item.accepts(one.worked) for one in suite(200, 1)])
    assert accuracy > alone + 0.05


def test_too_small_a_budget_takes_the_cheapest_and_too_few_items_are_refused() -> None:
    tuned = tune(suite(20, 0), 3, TOKENS)
    _, point = tuned.within(1.0)
    assert point.cost == min(one.cost for one in tuned.curve)
    with pytest.raises(ValueError, match="9 items to tune on: at least 10"):
        tune(suite(9, 0), 3, TOKENS)


def test_kept_as_json_it_is_the_same() -> None:
    tuned = tune(suite(20, 0), 5, TOKENS)
    assert from_json(json.loads(json.dumps(as_json(tuned)))) == tuned


def test_the_oracle_is_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        right = (rng.random((5, 3)) < 0.5).astype(float)
        steps = rng.integers(1, 9, (5, 3)).astype(float)
        cost = steps.copy()
        cost[:, 2] += steps[:, 1]
        spend = float(rng.uniform(cost.min(1).mean(), 9))
        best = max(
            sum(right[n, s] for n, s in enumerate(stops))
            for stops in itertools.product(range(3), repeat=5)
            if sum(cost[n, s] for n, s in enumerate(stops)) <= 5 * spend
        )
        assert oracle(right, steps, spend) == pytest.approx(best / 5)


def test_it_is_held_to_what_the_same_spend_buys() -> None:
    """The whole way through an evaluation: a coin between two fixed strategies is its rival, and it is charged what it
    asked for alone."""
    ones = {one.item.item_id: one for one in suite(200, 2)}

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        answers = []
        for prompt in prompts:
            how, _, name = prompt.user.partition(" ")
            if how == "now":
                answers.append([ones[name].direct])
            elif params.temperature == 0:
                answers.append([ones[name].worked])
            else:
                answers.append(list(ones[name].samples[: params.num_samples]))
        return answers

    tuned = tune(suite(120, 0), 5, TOKENS)
    controller, _ = tuned.within(120.0)
    strategies = [*map(strategy_named, ("direct", "cot", "sc@5")), auto(controller, TOKENS, 5)]
    asked = [TaskItem(name, name, "1", "", name, "s", SCORERS["text"]) for name in ones]
    tallies, spent = {one.name: Tally(one) for one in strategies}, Spent()
    settings = EvaluationSettings(max_tokens=64)
    for answers in evaluate(asked, lambda one: question(one.id), strategies, generate, settings, 50):
        tallies[answers.strategy.name].add(answers)
        if answers.strategy.name == "auto":
            spent.add(answers)
    *fixed_ones, mine = tallies.values()
    found = controller_report(mine, spent, fixed_ones, TOKENS)
    assert found.cost == pytest.approx((mine.prompt_tokens + mine.completion_tokens) / 200)
    assert found.cost < 5 * 50 and mine.calls < 3 * 200
    assert found.greedy is not None and found.greedy.name == "cot" and found.greedy.beaten
    assert found.fixed is not None and found.fixed.cost <= found.cost * 1.001
    assert found.fixed.accuracy >= found.greedy.accuracy
    assert found.oracle >= found.accuracy > found.fixed.accuracy
