"""Scaling laws with their forecasts, and emergence."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.scaling.emergence import EmergencePoint, EmergenceReport
from components.scaling.results.sweep import AS_LARGEST, ScalingFitResult
from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, held, not_measured, raises, readable
from dashboards.run_data import Row, RunRows, known

LAW = ("A", "B", "E", "alpha", "beta")
BY_LAW = "law"  # `method` of a forecast by the fitted law
# What the claims need beyond holding the truth, stated here once for all runs.
IDENTIFIED = 0.2  # the interval of E is at most so wide, as a share of the lowest loss measured
NARROW = (
    0.5  # a forecast's interval is at most so wide, as a share of the range from the irreducible loss (0 where it is
)
# not known) to the loss of the sweep's largest run
NEARER = 0.9  # a forecast's error is at most so large, as a share of its best rival's


@dataclass(frozen=True)
class ScalingPoint:
    """`loss` in nats per token after `tokens`."""

    num_params: int
    tokens: int | None
    loss: float


@dataclass(frozen=True)
class FittedParameter:
    """`low` and `high` are None where the fit gives no interval. at_bound: it stopped at the edge of what the fit
    searches, so the number says nothing of its own."""

    law: str
    name: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    method: str
    at_bound: bool = False


@dataclass(frozen=True)
class Forecast:
    """A loss predicted before the run was trained, and what was then observed (None until it is scored). method: "law",
    or the name of a rival without one; extrapolation: compute over that of the sweep's largest run."""

    target: str
    method: str
    extrapolation: float | None
    num_params: int | None
    tokens: int | None
    predicted: float
    low: float | None
    high: float | None
    observed: float | None
    made_at: datetime.datetime | None
    scored_at: datetime.datetime | None

    @property
    def inside(self) -> bool | None:
        """Whether the observation fell into the interval of the prediction."""
        if self.observed is None or self.low is None or self.high is None:
            return None
        return self.low <= self.observed <= self.high

    @property
    def error(self) -> float | None:
        """Predicted minus observed, nats per token."""
        return None if self.observed is None else self.predicted - self.observed


@dataclass(frozen=True)
class ScalingFacts:
    """`law`: A, B, E, alpha, beta of L = E + A/N^alpha + B/D^beta where all five were fitted; `truth`: the known
    irreducible loss, nats per token. `warnings`: what the fit itself says against its parameters or their intervals.
    """

    points: tuple[ScalingPoint, ...]
    params_kind: str
    parameters: tuple[FittedParameter, ...]
    law: Mapping[str, float] | None
    truth: float | None
    forecasts: tuple[Forecast, ...]
    effects: tuple[Effect, ...]
    warnings: tuple[str, ...] = ()

    def loss(self, num_params: float, tokens: float) -> float | None:
        """What the fitted law predicts."""
        if self.law is None:
            return None
        law = self.law
        return law["E"] + law["A"] * num_params ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


@readable
def scaling_facts(rows: RunRows) -> ScalingFacts | Missing:
    dense = [row for row in rows.scaling_points if row["sweep"] == "dense" and row["loss"] is not None]
    fits = [row for row in rows.scaling_fits if row["sweep"] == "dense" and row["value"] is not None]
    forecasts = tuple(_forecast(row) for row in rows.forecasts if row["predicted"] is not None)
    if not dense and not fits and not forecasts:
        return Missing(rows.why_missing("scaling", "The scaling law"))
    truth = next((float(row["value"]) for row in fits if row["law"] == "truth" and row["parameter"] == "E"), None)
    fit = rows.result_of("fit_scaling_law", ScalingFitResult)
    warnings = fit.warnings if fit else ()
    parameters = tuple(_parameter(row, warnings) for row in fits if row["law"] != "truth")
    irreducible = _preferred([p for p in parameters if p.name == "E" and p.low is not None])
    points = tuple(ScalingPoint(row["num_params"], row["tokens"], row["loss"]) for row in dense)
    return ScalingFacts(
        points=points,
        params_kind=next((row["num_params_kind"] for row in dense if row["num_params_kind"]), "") or "",
        parameters=parameters,
        law=_law(parameters),
        truth=truth,
        forecasts=forecasts,
        effects=(_irreducible_effect(irreducible, truth, points, warnings), _forecast_effect(forecasts, truth)),
        warnings=warnings,
    )


def _parameter(row: Row, warnings: Sequence[str]) -> FittedParameter:
    """The warnings are those of the Chinchilla law, and name its parameters."""
    return FittedParameter(
        row["law"],
        row["parameter"],
        row["value"],
        known(row["low"]),
        known(row["high"]),
        row["n"],
        row["method"] or "",
        at_bound=_is_chinchilla(row["law"])
        and any(w.startswith(f"{row['parameter']} lies at its bound") for w in warnings),
    )


def _is_chinchilla(law: str) -> bool:
    return "chinchilla" in law.lower()


def _forecast(row: Row) -> Forecast:
    return Forecast(
        row["target"],
        row["method"] or BY_LAW,
        known(row["extrapolation"]),
        row["num_params"],
        row["tokens"],
        row["predicted"],
        known(row["low"]),
        known(row["high"]),
        known(row["observed"]),
        row["made_at"],
        row["scored_at"],
    )


def _preferred(parameters: Sequence[FittedParameter]) -> FittedParameter | None:
    """Of several fits the one named for Chinchilla (approach 3), else the first."""
    return min(parameters, key=lambda p: not _is_chinchilla(p.law), default=None)


def _law(parameters: Sequence[FittedParameter]) -> dict[str, float] | None:
    laws: dict[str, dict[str, float]] = {}
    for p in parameters:
        laws.setdefault(p.law, {}).setdefault(p.name, p.value)
    whole = {name: law for name, law in laws.items() if all(part in law for part in LAW)}
    chosen = min(whole, key=lambda name: not _is_chinchilla(name), default=None)
    return whole[chosen] if chosen is not None else None


def _irreducible_effect(
    fitted: FittedParameter | None, truth: float | None, points: Sequence[ScalingPoint], warnings: Sequence[str]
) -> Effect:
    slug, title = "irreducible_loss", "The fitted law finds the irreducible loss"
    if fitted is None or fitted.low is None or fitted.high is None or truth is None or not points:
        return not_measured(slug, title, "no fitted E with its interval, or the true one is not known")
    off = Interval(fitted.value - truth, fitted.low - truth, fitted.high - truth, fitted.n or 0)
    fit = Interval(fitted.value, fitted.low, fitted.high, fitted.n or 0)
    share = (fitted.high - fitted.low) / min(point.loss for point in points)
    holds, tells = off.low <= 0.0 <= off.high, share <= IDENTIFIED
    told = "" if tells else f"; not identified: the interval is as wide as {share:.0%} of the lowest loss measured"
    return Effect(
        slug,
        title,
        held(holds, tells),
        off,
        "nats",
        f"fitted E = {formatting.decimal_interval(fit)} against the true {truth:.3f}{told}",
        "; ".join(
            (
                "fitted minus true, 95% interval",
                *warnings,
                f"held when it covers 0 and is no wider than {IDENTIFIED:.0%} of the lowest loss measured",
            )
        ),
        side="covers",
    )


def _forecast_effect(forecasts: Sequence[Forecast], truth: float | None) -> Effect:
    """On trial is the forecast of the largest run: stored first, narrower than what could happen, and nearer than what
    one would have said without a law."""
    slug, title = "forecast", "A larger run is forecast before it is trained"
    scored = [f for f in forecasts if f.method == BY_LAW and f.inside is not None]
    if not scored:
        why = "the forecast is not scored yet" if forecasts else "no forecast was made"
        return not_measured(slug, title, why)
    f = max(scored, key=lambda one: (one.num_params or 0, one.tokens or 0))
    rivals = {
        one.method: abs(one.error)
        for one in forecasts
        if one.method != BY_LAW and one.error is not None and (one.num_params, one.tokens) == (f.num_params, f.tokens)
    }
    if not rivals:
        return not_measured(slug, title, "no forecast without a law was sealed beside it")
    assert f.observed is not None and f.low is not None and f.high is not None and f.error is not None
    largest = next((one.predicted for one in forecasts if one.method == AS_LARGEST), None)
    share = (f.high - f.low) / (largest - (truth or 0.0)) if largest and largest > (truth or 0.0) else math.inf
    best = min(rivals, key=lambda name: rivals[name])
    early = f.made_at is not None and f.scored_at is not None and f.made_at < f.scored_at
    against = [
        "" if early else "stored after the run",
        "" if f.inside else "outside of the interval",
        "" if share <= NARROW else f"the interval spans {share:.0%} of what could happen",
        "" if abs(f.error) <= NEARER * rivals[best] else f"{best!r} came as near",
    ]
    reach = "" if f.extrapolation is None else f" at {f.extrapolation:.1f} times the largest compute fitted"
    return Effect(
        slug,
        title,
        held(not (against[0] or against[1] or against[3]), not against[2]),
        Interval(f.error, f.low - f.observed, f.high - f.observed, 0),
        "nats",
        f"predicted {formatting.decimal_interval(Interval(f.predicted, f.low, f.high, 0))}, observed {f.observed:.3f}"
        f"{reach}; errors: law {abs(f.error):.3f}, "
        + ", ".join(f"{name} {error:.3f}" for name, error in rivals.items())
        + "".join(f"; {reason}" for reason in against if reason),
        "predicted minus observed, 95% interval of the prediction with a new run's noise; held when it covers 0, was "
        f"made first, spans at most {NARROW:.0%} of the range from the irreducible loss to the largest run's, and its "
        f"error is at most {NEARER:.0%} of the best rival's",
        side="covers",
    )


@dataclass(frozen=True)
class EmergenceFacts:
    """`report`: what the stage found, with its points."""

    report: EmergenceReport
    effects: tuple[Effect, ...]

    @property
    def points(self) -> tuple[EmergencePoint, ...]:
        """By rising size."""
        return self.report.points


RISE = 0.3  # exact match must rise by more than so much between two neighbouring sizes to be called a jump


@readable
def emergence_facts(rows: RunRows) -> EmergenceFacts | Missing:
    report = rows.result_of("analyse_emergence", EmergenceReport)
    if report is None:
        return Missing(rows.why_missing("emergence", "Emergence"))
    return EmergenceFacts(report, (_jump_effect(report), _emergence_effect(report)))


def _over(report: EmergenceReport) -> str:
    if report.trainings == 1:
        return "over items alone: one training a size"
    return f"over items and over the {report.trainings} trainings of each size"


def _jump_effect(report: EmergenceReport) -> Effect:
    jump = report.sharp_jump
    return raises(
        "emergence_jump",
        "Exact match jumps between two neighbouring sizes",
        report.rise,
        "points",
        f"from {formatting.count(jump.below)} to {formatting.count(jump.above)} parameters, {jump.share:.0%} of all "
        "that it moves between the sizes",
        f"the largest rise of greedy exact match, 95% interval {_over(report)}; seen when it lies above "
        f"{100 * RISE:.0f} points",
        margin=RISE,
    )


def _emergence_effect(report: EmergenceReport) -> Effect:
    """Sharp under exact match, smooth under log-probability (Schaeffer et al. 2023): by their emergence scores."""
    slug, title = "emergence", "Exact match jumps where log-probability moves smoothly"
    sharp, smooth, sharper = report.sharp_score, report.smooth_score, report.sharper
    if sharp is None or smooth is None or sharper is None:
        return not_measured(slug, title, "; ".join(report.warnings) or "an emergence score is undefined")
    return raises(
        slug,
        title,
        sharper,
        "",
        f"emergence score {sharp.value:.1f} for exact match and {smooth.value:.1f} for the log-probability of computed "
        f"tokens, whose largest step is from {formatting.count(report.smooth_jump.below)} to "
        f"{formatting.count(report.smooth_jump.above)} parameters ({report.smooth_jump.share:.0%} of its range)",
        f"sharp minus smooth emergence score, 95% interval {_over(report)}; seen when it lies above 0 and exact match "
        "jumps",
        also=_jump_effect(report).seen,
    )
