from __future__ import annotations

import math

import numpy as np
import pytest

from components.cost.advice import (
    CPU,
    AdviceRequest,
    CoreSpeeds,
    SweepReach,
    advise_strategy,
    advise_training,
    deployment,
    strategy_costs,
)
from components.cost.hardware import find_hardware
from components.cost.prices import Price, price_catalogue
from components.cost.serving_model import training_share
from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint


def row(name: str, accuracy: float, usd_per_thousand: float) -> dict[str, object]:
    interval = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n": 200}
    tokens = {"prompt_tokens": 10.0, "tokens_per_item": 20.0, "needs_verifier": "best_of" in name}
    return {"name": name, "extra_training_usd": 0.0, "usd_per_thousand": usd_per_thousand, **interval, **tokens}


COSTS = strategy_costs([row("sft cot", 0.5, 1.0), row("sft vote@8", 0.7, 8.0), row("sft best_of@8", 0.9, 4.0)])


def test_a_verified_strategy_is_only_advised_where_there_is_a_verifier() -> None:
    plain = advise_strategy(COSTS, AdviceRequest(1000, accuracy=0.6))
    assert [one.name for one in plain.frontier] == ["sft cot", "sft vote@8"]
    assert plain.chosen is plain.reference is COSTS[1]
    verified = advise_strategy(COSTS, AdviceRequest(1000, accuracy=0.6, verifier=True))
    assert verified.chosen is COSTS[2]


def test_without_a_choice_the_most_accurate_one_is_the_reference() -> None:
    unreachable = advise_strategy(COSTS, AdviceRequest(1000, accuracy=0.99))
    assert unreachable.chosen is None and unreachable.reference is unreachable.nearest is COSTS[1]
    assert advise_strategy(COSTS, AdviceRequest(1000)).chosen is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": 0.5}, "--questions is 0.5"),
        ({"questions": float("nan")}, "--questions is nan"),
        ({"questions": float("inf")}, "--questions is inf: takes a number from 1 to 1e\\+15"),
        ({"questions": 1e30}, r"--questions is 1e\+30"),
        ({"loss": float("inf")}, "--loss is inf"),
        ({"loss": float("nan")}, "--loss is nan"),
        ({"loss": -1.0}, "--loss is -1"),
        ({"batch": 0}, "--batch is 0"),
        ({"accuracy": 60}, "--accuracy is 60"),
        ({"accuracy": 0}, "--accuracy is 0"),
        ({"train_on": "h10"}, "--train-on: no hardware 'h10'"),
        ({"serve_on": "h10"}, "--serve-on: no hardware 'h10'"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdviceRequest(**{"questions": 1, **options})  # type: ignore[arg-type]


def test_a_core_is_taken_with_the_speeds_and_the_price_of_the_run() -> None:
    peak = find_hardware(CPU).peak_flops
    speeds = CoreSpeeds(
        0.07, num_params_non_embedding=1e6, prefill_tokens_per_second=9000, decode_tokens_per_second=300
    )
    made, training, serving = deployment(CPU, peak / 4, speeds, AdviceRequest(1))
    assert made.price.usd_per_hour == 0.07 and "at the speeds of this run" in training and training == serving
    assert made.train_mfu == pytest.approx(0.25)
    assert made.measured == pytest.approx((2e6 * 9000 / peak, 2e6 * 300 / peak))
    too_fast, _, _ = deployment(CPU, 2 * peak, speeds, AdviceRequest(1))
    assert too_fast.train_mfu == 1.0


def test_what_the_run_has_not_measured_is_of_public_runs_and_of_the_serving_model_and_says_so() -> None:
    for name, speeds in ((CPU, CoreSpeeds(0.07)), ("h100-sxm", CoreSpeeds(0.07, 1e6, 9000, 300))):
        made, training, serving = deployment(name, 1e9, speeds, AdviceRequest(1, batch=8))
        assert made.measured is None and made.batch == 8 and made.train_mfu == training_share(name).middle
        assert "of its peak by 6N (public runs:" in training and "by the serving model (mean error" in serving
        assert ("no CPU was among its points" in serving) == (name == CPU)


def test_a_price_is_chosen_by_provider_and_commitment_among_those_of_the_home() -> None:
    own = [Price("h100-sxm", 2.0, "Us", "2026-11-01", "contract", "reserved"), *price_catalogue()]
    made, basis, _ = deployment("h100-sxm", 1e9, CoreSpeeds(0.07), AdviceRequest(1, price="us/reserved"), own)
    assert made.price is own[0] and "2 $/h reserved (Us, 2026-11-01)" in basis
    newest, _, _ = deployment("h100-sxm", 1e9, CoreSpeeds(0.07), AdviceRequest(1), own)
    assert newest.price.commitment == "on demand"
    with pytest.raises(ValueError, match=r"no price .them. of h100-sxm: .*lifespan prices import"):
        deployment("h100-sxm", 1e9, CoreSpeeds(0.07), AdviceRequest(1, price="them"), own)


def test_a_loss_below_the_irreducible_one_is_an_error_and_without_one_the_sweeps_lowest_is_taken() -> None:
    law = ChinchillaLaw(E=1.5, A=50.0, B=80.0, alpha=0.35, beta=0.3)
    sizes, tokens = (1e4, 3e4, 1e5, 3e5), (1e6, 3e6, 1e7)
    points = [ScalingPoint(n, d, float(law.loss(n, d)), f"{n}/{d}") for n in sizes for d in tokens]
    fit = fit_chinchilla(points, ChinchillaFitConfig(method="none"))
    sweep = SweepReach(1e4, 3e5, 1e6, 1e7, min(p.loss for p in points), 1e9)
    speeds = CoreSpeeds(0.05, 1e5, 9000, 300)
    with pytest.raises(ValueError, match=r"--loss is 1 nats per token: .* only losses above 1\.[45]"):
        advise_training(fit, sweep, speeds, AdviceRequest(10, loss=1.0), COSTS[0])
    for easy in (50.0, 1e9):
        with pytest.raises(ValueError, match=r"--loss is .*is already at .*give a loss below that"):
            advise_training(fit, sweep, speeds, AdviceRequest(10, loss=easy), COSTS[0])
    advice = advise_training(fit, sweep, speeds, AdviceRequest(10), COSTS[0])
    assert advice.plan.target_loss == sweep.lowest_loss and advice.train_basis == advice.serve_basis
    assert advice.warnings == ("the fit has no intervals",)
    assert (advice.plan.traffic.total_input, advice.plan.traffic.total_output) == (100, 200)


def test_the_plan_carries_what_the_fit_says_against_itself_and_a_loss_that_may_be_out_of_reach() -> None:
    law = ChinchillaLaw(E=0.9, A=40.0, B=60.0, alpha=0.35, beta=0.35)
    rng = np.random.default_rng(0)
    points = [
        ScalingPoint(n, d, float(law.loss(n, d)) * math.exp(0.01 * rng.standard_normal()), f"{n}")
        for n in (1e4, 3e4, 1e5, 3e5)
        for d in (1e6, 3e6, 1e7)
    ]
    fit = fit_chinchilla(points, ChinchillaFitConfig(steps=600))
    sweep = SweepReach(1e4, 3e5, 1e6, 1e7, min(p.loss for p in points), 1e9)
    loss = fit.intervals["E"].high - 1e-6
    advice = advise_training(fit, sweep, CoreSpeeds(0.05), AdviceRequest(10, loss=loss), COSTS[0])
    assert fit.warnings and set(fit.warnings) < set(advice.warnings)
    assert any("may be out of reach" in warning for warning in advice.warnings)
    assert all(row.reach > 1 for row in advice.plan.rows if row.outside)
