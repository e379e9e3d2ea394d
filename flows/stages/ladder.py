"""A sweep that climbs from size to size: every rung beyond the first three is forecast before it is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.model.config import count_params
from components.scaling.facts import FactsConfig
from components.scaling.results.ladder import LadderFit, RungForecast, RungResult
from components.scaling.sweep import FactsRunConfig
from components.stage_results import from_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.files import POINTS
from flows.stages.scaling import INTERVALS, swept, trained_on_facts
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.scaling.chinchilla_fit import ChinchillaFit

SWEEP = "ladder"


def _law(work: Work, steps: int, seed: int, runs: list[Artifact]) -> ChinchillaFit:
    from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla

    return fit_chinchilla(swept(work, runs), ChinchillaFitConfig(steps=steps, seed=seed))


@stage(produces="scaling_fit", group="scaling", seconds=5)
def forecast_rung(
    work: Work, *, config: FactsRunConfig, facts: FactsConfig, steps: int, seed: int, runs: list[Artifact]
) -> RungForecast:
    """What the smaller rungs say of one that is not trained yet, and what rivals without a law do; sealed with the
    time."""
    from components.scaling.forecast import make_forecast

    num_params = count_params(config.model(facts.vocab_size)).non_embedding
    tokens = config.training().num_steps * config.tokens_per_step
    law = _law(work, steps, seed, runs)
    made = make_forecast(law, swept(work, runs), num_params, tokens, datetime.now(UTC).isoformat(), seed)
    (work.out / "forecast.json").write_text(json.dumps(made.to_json()), encoding="utf-8")
    return RungForecast(num_params, tokens, made.predicted, made.low, made.high, made.extrapolation)


@stage(produces="scaling_run", group="scaling", seconds=60)
def train_rung(
    work: Work, *, config: FactsRunConfig, facts: FactsConfig, seed: int, forecast: list[Artifact]
) -> RungResult:
    """One training of one rung, read at every checkpoint. Its forecast, if it has one, is an input, so it was sealed
    before; it is scored here."""
    from components.scaling.forecast import Forecast, score_forecast

    run, points = trained_on_facts(work, config, facts, seed)
    (work.out / POINTS).write_text(json.dumps(points), encoding="utf-8")
    work.rows(
        "scaling_points",
        [
            {
                "sweep": SWEEP,
                "variant": f"d{config.d_model}",
                "seed": seed,
                "num_params": point["num_params"],
                "num_params_kind": "non_embedding",
                "tokens": point["tokens"],
                "flops": point["flops"],
                "loss": point["loss"],
                "details_json": json.dumps({"oracle_loss": run.oracle_loss}),
            }
            for point in points
        ],
    )
    last = points[-1]
    result = RungResult(last["num_params"], last["tokens"], last["loss"], run.oracle_loss, None, None)
    if not forecast:
        return result
    made = Forecast(**json.loads((work.open(forecast[0]) / "forecast.json").read_text(encoding="utf-8")))
    score = score_forecast(made, last["loss"])
    common = {
        "sweep": SWEEP,
        "target": f"loss of d{config.d_model}, seed {seed}",
        "num_params": last["num_params"],
        "tokens": last["tokens"],
        "extrapolation": made.extrapolation,
        "observed": score.observed,
        "made_at": datetime.fromisoformat(made.made_at),
        "scored_at": datetime.now(UTC),
    }
    law = {"method": "law", "predicted": made.predicted, "low": made.low, "high": made.high}
    rivals = [{"method": name, "predicted": said} for name, said in made.rivals.items()]
    work.rows("forecasts", [common | row for row in (law, *rivals)])
    return replace(result, forecast=made.predicted, inside=score.inside)


@stage(produces="scaling_fit", group="scaling", seconds=5)
def fit_ladder(work: Work, *, steps: int, seed: int, runs: list[Artifact]) -> LadderFit:
    """The law of all rungs."""
    fit = _law(work, steps, seed, runs)
    (work.out / "chinchilla.json").write_text(json.dumps(fit.to_json()), encoding="utf-8")
    exponent = fit.params_exponent()
    work.rows(
        "scaling_fits",
        [
            {
                "sweep": SWEEP,
                "law": "chinchilla",
                "parameter": name,
                "value": value.value,
                "low": value.low,
                "high": value.high,
                "n": len(fit.residuals),
                "method": INTERVALS[fit.config.method],
            }
            for name, value in {**fit.intervals, "params_exponent": exponent}.items()
        ],
    )
    results = [from_facts(RungResult, run.facts) for run in runs]
    scored = [one.inside for one in results if one.inside is not None]
    law = fit.law
    return LadderFit(
        E=law.E,
        A=law.A,
        B=law.B,
        alpha=law.alpha,
        beta=law.beta,
        E_low=fit.intervals["E"].low,
        E_high=fit.intervals["E"].high,
        params_exponent=exponent.value,
        params_exponent_low=exponent.low,
        params_exponent_high=exponent.high,
        true_E=results[0].oracle_loss,
        num_points=len(fit.residuals),
        num_runs=fit.num_runs,
        forecasts=len(scored),
        inside=sum(scored),
        warnings=fit.warnings,
    )
