"""Scaling laws, the forecast, mixture of experts against dense, and emergence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from components.model.config import count_params, training_flops_per_token
from components.scaling.emergence import EmergenceReport
from components.scaling.facts import FactsConfig, irreducible_loss
from components.scaling.results.emergence import ChainsResult, EmergenceDetails
from components.scaling.results.experts import ExpertsDetails, ExpertsResult
from components.scaling.results.sweep import FactsRunResult, ForecastResult, ForecastRunResult, ScalingFitResult
from components.scaling.sweep import EmergenceConfig, FactsRunConfig
from components.stage_results import from_facts, to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.files import POINTS
from flows.stages.training import follow, resume
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.scaling.points import ScalingPoint
    from components.scaling.runs import FactsRun


def trained_on_facts(work: Work, config: FactsRunConfig, facts: FactsConfig, seed: int) -> tuple[FactsRun, list[Any]]:
    """The run, trained, and its points: {num_params, active_params, tokens, flops, loss}, one a checkpoint."""
    from components.scaling.runs import FactsRun
    from components.training.state import load_state_tensors, state_tensors

    run = FactsRun(config, facts, seed)
    counts = count_params(run.model.cfg)
    flops = training_flops_per_token(run.model.cfg, config.context_length)
    start, points = 0, []
    if saved := work.load_state():
        start, tensors, meta = saved
        load_state_tensors(run.model, run.optimizer, tensors)
        run.load_average(tensors)
        run.guard.load_tensors(tensors)
        points = meta["points"]
    num_steps = config.training().num_steps
    for record, eval_loss in run.records(start):
        step, tokens_seen = record.step, record.step * config.tokens_per_step
        work.usage(tokens=record.tokens, flops=record.tokens * flops, flops_6nd=6.0 * counts.active * record.tokens)
        work.progress(step, num_steps, loss=record.loss, tokens=tokens_seen)
        work.log(step, record.incidents)
        if step % 20 == 0:
            work.log(step, {"loss": record.loss, "tokens_per_second": record.tokens / record.seconds})
        if eval_loss is not None:
            points.append(
                {
                    "num_params": counts.non_embedding,
                    "active_params": counts.active - counts.embedding,
                    "tokens": tokens_seen,
                    "flops": tokens_seen * flops,
                    "loss": eval_loss,
                }
            )
            work.log(step, {"eval_loss": eval_loss})
        if step < num_steps and work.state_due():
            tensors = state_tensors(run.model, run.optimizer) | run.average_tensors() | run.guard.tensors()
            work.save_state(step, tensors, {"points": points})
    return run, points


@stage(produces="scaling_run", group="scaling", seconds=60)
def train_on_facts(work: Work, *, config: FactsRunConfig, facts: FactsConfig, seed: int) -> FactsRunResult:
    """One width of the dense sweep, read at every checkpoint."""
    run, points = trained_on_facts(work, config, facts, seed)
    (work.out / POINTS).write_text(json.dumps(points), encoding="utf-8")
    work.rows(
        "scaling_points",
        [
            {
                "sweep": "dense",
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
    return FactsRunResult(points[-1]["num_params"], points[-1]["loss"], run.oracle_loss)


INTERVALS = {
    "posterior": "posterior, run effects and noise included",
    "bootstrap": "Huber, bootstrap over runs",
}


def swept(work: Work, runs: list[Artifact]) -> list[ScalingPoint]:
    """The points of the sweep."""
    from components.scaling.points import ScalingPoint

    return [
        ScalingPoint(point["num_params"], point["tokens"], point["loss"], run.key[:12])
        for run in runs
        for point in json.loads((work.open(run) / POINTS).read_text(encoding="utf-8"))
    ]


@stage(produces="scaling_fit", group="scaling", seconds=5)
def fit_scaling_law(
    work: Work, *, facts: FactsConfig, steps: int, resamples: int, seed: int, runs: list[Artifact]
) -> ScalingFitResult:
    """The Chinchilla law of the sweep with intervals, beside the corpus's true irreducible loss; and Kaplan's law."""
    from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
    from components.scaling.kaplan_fit import fit_kaplan

    points = swept(work, runs)
    fit = fit_chinchilla(points, ChinchillaFitConfig(steps=steps, resamples=resamples, seed=seed))
    (work.out / "chinchilla.json").write_text(json.dumps(fit.to_json()), encoding="utf-8")
    truth = irreducible_loss(facts)
    oracle = from_facts(FactsRunResult, runs[0].facts).oracle_loss
    constants = {name: getattr(fit.law, name) for name in ("E", "A", "B", "alpha", "beta")}

    def row(law: str, parameter: str, value: float, low: float, high: float, method: str) -> dict[str, Any]:
        return {
            "sweep": "dense",
            "law": law,
            "parameter": parameter,
            "value": value,
            "low": low,
            "high": high,
            "n": len(points),
            "method": method,
        }

    rows = [
        row(
            "chinchilla",
            name,
            value,
            fit.intervals[name].low,
            fit.intervals[name].high,
            INTERVALS[fit.config.method],
        )
        for name, value in constants.items()
    ]
    kaplan = fit_kaplan(points, resamples=min(resamples, 200), seed=seed)
    rows += [
        row("kaplan", name, interval.value, interval.low, interval.high, "least squares, bootstrap by run")
        for name, interval in kaplan.intervals.items()
    ]
    # What a predictor that knows the table loses on the very held-out stream that the models were measured on.
    rows.append(row("truth", "E", oracle, oracle, oracle, "oracle on the held-out stream"))
    work.rows("scaling_fits", rows)
    return ScalingFitResult(
        **constants,
        E_low=fit.intervals["E"].low,
        E_high=fit.intervals["E"].high,
        true_E=oracle,
        true_E_exact=truth,
        r_squared=fit.r_squared,
        r_squared_kaplan=kaplan.r_squared,
        num_points=len(points),
        num_runs=fit.num_runs,
        converged=fit.converged,
        warnings=tuple(fit.warnings),
    )


@stage(produces="scaling_fit", group="scaling", seconds=2)
def forecast_loss(
    work: Work, *, config: FactsRunConfig, facts: FactsConfig, seed: int, fit: Artifact, runs: list[Artifact]
) -> ForecastResult:
    """What the law, and what rivals without a law, say of a run that is not trained yet; sealed with the time."""
    from components.scaling.chinchilla_fit import ChinchillaFit
    from components.scaling.forecast import make_forecast

    law = ChinchillaFit.from_json(json.loads((work.open(fit) / "chinchilla.json").read_text(encoding="utf-8")))
    num_params = count_params(config.model(facts.vocab_size)).non_embedding
    tokens = config.training().num_steps * config.tokens_per_step
    made = make_forecast(law, swept(work, runs), num_params, tokens, datetime.now(UTC).isoformat(), seed)
    (work.out / "forecast.json").write_text(json.dumps(made.to_json()), encoding="utf-8")
    return ForecastResult(num_params, tokens, made.predicted, made.low, made.high, made.extrapolation)


@stage(produces="scaling_run", group="scaling", seconds=90)
def train_forecast_run(
    work: Work, *, config: FactsRunConfig, facts: FactsConfig, seed: int, forecast: Artifact
) -> ForecastRunResult:
    """Train what was forecast (the forecast is an input, so it was sealed first) and score it."""
    from components.scaling.forecast import Forecast, score_forecast

    made = Forecast(**json.loads((work.open(forecast) / "forecast.json").read_text(encoding="utf-8")))
    _, points = trained_on_facts(work, config, facts, seed)
    (work.out / POINTS).write_text(json.dumps(points), encoding="utf-8")
    score = score_forecast(made, points[-1]["loss"])
    last = points[-1]
    common = {
        "sweep": "dense",
        "target": "loss",
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
    return ForecastRunResult(
        num_params=last["num_params"],
        loss=score.observed,
        predicted=made.predicted,
        inside=score.inside,
        relative_error=score.relative_error,
        nearest_rival=min(abs(error) for error in score.rival_errors.values()),
    )


@stage(produces="scaling_run", group="moe", seconds=25)
def train_experts(work: Work, *, variant: str, config: FactsRunConfig, facts: FactsConfig, seed: int) -> ExpertsResult:
    """One run of the comparison of experts with dense, and where its router sent the tokens."""
    from components.scaling.runs import held_out_losses_by_window
    from components.statistics import mean_interval

    run, points = trained_on_facts(work, config, facts, seed)
    last = points[-1]
    by_window = held_out_losses_by_window(run)
    interval = mean_interval(by_window)
    details = ExpertsDetails(len(by_window), interval.low, interval.high, last["active_params"], **run.routing())
    work.rows(
        "scaling_points",
        [
            {
                "sweep": "moe",
                "variant": variant,
                "seed": seed,
                "num_params": last["num_params"],
                "num_params_kind": "non_embedding",
                "tokens": last["tokens"],
                "flops": last["flops"],
                "loss": last["loss"],
                "details_json": json.dumps(to_facts(details)),
            }
        ],
    )
    (work.out / "window_losses.json").write_text(json.dumps(by_window), encoding="utf-8")
    return ExpertsResult(
        num_params=last["num_params"],
        active_params=last["active_params"],
        loss=last["loss"],
        max_share=details.max_share,
        entropy=details.entropy,
        specialization=details.specialization,
    )


@stage(produces="scaling_run", group="emergence", seconds=35)
def train_on_chains(work: Work, *, config: EmergenceConfig, width: int, seed: int) -> ChainsResult:
    """One training of one size of the emergence sweep, scored sharply and smoothly on the items that all share."""
    from components.model.transformer import Transformer
    from components.scaling.runs import (
        chain_batches,
        computed_tokens,
        emergence_model,
        evaluation_chains,
        score_chains,
    )
    from components.training.guard import Guard
    from components.training.language_model import LMBatch, train
    from components.training.optimizers import Optimizer

    model = Transformer(emergence_model(config, width), seed)
    optimizer = Optimizer(model, config.train.optimizer)
    rows, size = chain_batches(config, seed), config.train.batch_size

    def batch(step: int) -> LMBatch:
        part = rows[step * size : (step + 1) * size]
        return LMBatch(part[:, :-1], part[:, 1:])

    guard = Guard(config.train.non_finite)
    start = resume(work, model, optimizer, guard)
    records = train(model, optimizer, config.train, batch, start, guard=guard)
    for _ in follow(work, records, model, optimizer, config.train.num_steps, guard):
        pass
    items = evaluation_chains(config)
    exact, log_probs = score_chains(model.eval(), items)
    num_params = count_params(model.cfg).non_embedding
    computed = [computed_tokens(worked) for _, worked in items]
    # As `EmergenceRow` takes them; its module is not imported, so that the analysis is not in the key of the training.
    answers = {
        "num_params": num_params,
        "exact_match": exact,
        "token_log_probs": log_probs,
        "computed": computed,
        "seed": seed,
    }
    (work.out / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return ChainsResult(num_params, sum(exact) / len(exact), len(exact))


@stage(produces="scaling_fit", group="emergence", seconds=3)
def analyse_emergence(work: Work, *, config: EmergenceConfig, runs: list[Artifact]) -> EmergenceReport:
    """Does the sharp metric jump where the smooth one does not?"""
    from components.scaling.emergence import EmergenceRow, analyse_emergence

    rows = [EmergenceRow(**json.loads((work.open(run) / "answers.json").read_text(encoding="utf-8"))) for run in runs]
    analysis = analyse_emergence(rows)
    tokens = config.train.num_steps * config.train.batch_size * config.train.context_length
    work.rows(
        "scaling_points",
        [
            {
                "sweep": "emergence",
                "variant": f"{point.num_params:.0f}",
                "num_params": int(point.num_params),
                "num_params_kind": "non_embedding",
                "tokens": tokens,
                "flops": 6.0 * point.num_params * tokens,
                "loss": -point.log_prob.value,
                "details_json": json.dumps(
                    to_facts(
                        EmergenceDetails(
                            trainings=point.trainings,
                            exact_match=point.accuracy,
                            log_prob_computed=point.log_prob.value,
                            log_prob_copied=point.copied_log_prob,
                            sampled_match=point.sampled.value,
                            expected_match=point.expected.value,
                        )
                    )
                ),
            }
            for point in analysis.points
        ],
    )
    (work.out / "analysis.json").write_text(json.dumps(to_facts(analysis)), encoding="utf-8")
    return analysis
