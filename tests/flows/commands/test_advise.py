"""That advice names how far it reaches beyond what was measured, and what speaks against the law behind it."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
from rich.console import Console

from components.cost.advice import (
    AdviceRequest,
    CoreSpeeds,
    SweepReach,
    advise_strategy,
    advise_training,
    strategy_costs,
)
from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint
from flows.commands.advise import print_advice
from flows.runs.measured import MeasuredRun

LAW = ChinchillaLaw(E=0.9, A=40.0, B=60.0, alpha=0.35, beta=0.35)
STRATEGY = {
    "name": "sft cot",
    "extra_training_usd": 0.0,
    "usd_per_thousand": 1.0,
    "accuracy": 0.5,
    "low": 0.45,
    "high": 0.55,
    "n": 200,
    "prompt_tokens": 10.0,
    "tokens_per_item": 20.0,
    "needs_verifier": False,
}


def advised(loss: float) -> str:
    """What the command prints for a sweep of four runs of 10k to 300k parameters and 1M to 10M tokens."""
    rng = np.random.default_rng(0)
    points = [
        ScalingPoint(n, d, float(LAW.loss(n, d)) * math.exp(0.01 * rng.standard_normal()), f"{n}")
        for n in (1e4, 3e4, 1e5, 3e5)
        for d in (1e6, 3e6, 1e7)
    ]
    fit = fit_chinchilla(points, ChinchillaFitConfig(steps=600))
    reach = SweepReach(1e4, 3e5, 1e6, 1e7, min(point.loss for point in points), 1e9)
    measured = MeasuredRun("run-1", strategy_costs([STRATEGY]), CoreSpeeds(0.04), fit, reach)
    request = AdviceRequest(1000, loss=loss)
    strategy = advise_strategy(measured.strategies, request)
    training = advise_training(fit, reach, measured.speeds, request, strategy.reference)
    out = StringIO()
    print_advice(measured, request, strategy, training, Console(file=out, width=400))
    assert training.warnings and all(f"warns: {warning}." in out.getvalue() for warning in training.warnings)
    return out.getvalue()


def test_every_recommendation_says_how_far_it_lies_from_what_was_measured() -> None:
    near = advised(float(LAW.loss(1e5, 3e6)))
    assert near.count("Within the sweep: ") + near.count("Extrapolated: for ") == 3
    assert "no basis for a decision" not in near
    assert "poorly identified" in near  # four runs tell little of the floor


def test_beyond_ten_times_it_says_so_loudly() -> None:
    far = advised(float(LAW.loss(1e7, 1e9)))
    assert far.count("more than 10 times outside of what was measured: no basis for a decision") == 3
    assert "times the largest fitted" in far and "may be out of reach" in far
