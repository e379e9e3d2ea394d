"""What one run of a home measured, as advice needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from components.cost.advice import CoreSpeeds, SweepReach, strategy_costs
from components.cost.answering import StrategyCost
from components.scaling.chinchilla_fit import ChinchillaFit
from flows.settings import ConfigError
from storage.home import Home
from storage.named import answer, find_run


@dataclass(frozen=True)
class MeasuredRun:
    """strategies: every measured strategy of answering with its cost. speeds: of one core. fit, sweep: the fitted law
    and what lies behind it; None where the run fitted none."""

    run_id: str
    strategies: tuple[StrategyCost, ...]
    speeds: CoreSpeeds
    fit: ChinchillaFit | None
    sweep: SweepReach | None


def measured_run(home: Home, run: str, suite: str | None = None) -> MeasuredRun:
    """What a run measured. `run`: its id, the beginning of it, or `newest`. `suite`: the evaluation set that its
    strategies answered; by default its first, or our chains.

    Raises ConfigError when the run has not measured the costs of its strategies, or not on that set.
    """
    run_id = find_run(home, run)
    asked = {"suite": suite} if suite else {}
    strategies = strategy_costs(answer(home, "strategy_costs", run=run_id, **asked))
    if suite and not strategies:
        there = {row["suite"] for row in answer(home, "accuracy", run=run_id)}
        raise ConfigError(
            f"--suite {suite}: run {run_id} has not answered it; it has {', '.join(sorted(there)) or 'none'}"
        )
    if not strategies:
        raise ConfigError(
            f"run {run_id} has not measured what its strategies of answering cost: `lifespan run --only account_costs`"
        )
    (speeds,) = answer(home, "core_speeds", run=run_id)
    fit = _fit(home, run_id)
    reach = answer(home, "sweep_reach", run=run_id) if fit else []
    return MeasuredRun(run_id, strategies, CoreSpeeds(**speeds), fit, SweepReach(**reach[0]) if reach else None)


def measured_law(home: Home, run: str) -> tuple[ChinchillaFit, SweepReach, str]:
    """A run's fitted law, what lies behind it, and the run's id. Raises ConfigError for a run that fitted none."""
    run_id = find_run(home, run)
    fit = _fit(home, run_id)
    reach = answer(home, "sweep_reach", run=run_id) if fit else []
    if fit is None or not reach:
        raise ConfigError(f"run {run_id} has fitted no scaling law: `lifespan run --only fit_scaling_law`")
    return fit, SweepReach(**reach[0]), run_id


def _fit(home: Home, run_id: str) -> ChinchillaFit | None:
    stages = answer(home, "facts", run=run_id, stage="fit_scaling_law")
    artifact = home.store.find(stages[0]["key"]) if stages else None
    if artifact is None:
        return None
    saved = (home.store.path(artifact) / "chinchilla.json").read_text(encoding="utf-8")
    try:
        return ChinchillaFit.from_json(json.loads(saved))
    except KeyError as error:
        raise ConfigError(
            f"run {run_id}: its fitted law has no {error}, so another version made it: `lifespan run` fits it anew"
        ) from None
