"""Scaling laws with their forecasts, and emergence."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.scaling.results.emergence import EmergenceDetails
from components.scaling.results.sweep import ScalingFitResult
from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, decided, difference, not_measured, raises, readable
from dashboards.run_data import Row, RunRows, details, finite, known

LAW = ("A", "B", "E", "alpha", "beta")


@dataclass(frozen=True)
class ScalingPoint:
    """`loss` in nats per token after `tokens`."""

    num_params: int
    tokens: int | None
    loss: float


@dataclass(frozen=True)
class FittedParameter:
    """`low` and `high` are None where the fit gives no interval."""

    law: str
    name: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    method: str


@dataclass(frozen=True)
class Forecast:
    """A loss predicted before the run was trained, and what was then observed (None until it is scored)."""

    target: str
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


@dataclass(frozen=True)
class ScalingFacts:
    """`law`: A, B, E, alpha, beta of L = E + A/N^alpha + B/D^beta where all five were fitted; `truth`: the known
    irreducible loss, nats per token. `warnings`: what the fit itself says against its parameters or their intervals."""

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
    parameters = tuple(_parameter(row) for row in fits if row["law"] != "truth")
    irreducible = _preferred([p for p in parameters if p.name == "E" and p.low is not None])
    fit = rows.result_of("fit_scaling_law", ScalingFitResult)
    warnings = fit.warnings if fit else ()
    return ScalingFacts(
        points=tuple(ScalingPoint(row["num_params"], row["tokens"], row["loss"]) for row in dense),
        params_kind=next((row["num_params_kind"] for row in dense if row["num_params_kind"]), "") or "",
        parameters=parameters,
        law=_law(parameters),
        truth=truth,
        forecasts=forecasts,
        effects=(_irreducible_effect(irreducible, truth, warnings), _forecast_effect(forecasts)),
        warnings=warnings,
    )


def _parameter(row: Row) -> FittedParameter:
    return FittedParameter(
        row["law"],
        row["parameter"],
        row["value"],
        known(row["low"]),
        known(row["high"]),
        row["n"],
        row["method"] or "",
    )


def _forecast(row: Row) -> Forecast:
    return Forecast(
        row["target"],
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
    return min(parameters, key=lambda p: "chinchilla" not in p.law.lower(), default=None)


def _law(parameters: Sequence[FittedParameter]) -> dict[str, float] | None:
    laws: dict[str, dict[str, float]] = {}
    for p in parameters:
        laws.setdefault(p.law, {}).setdefault(p.name, p.value)
    whole = {name: law for name, law in laws.items() if all(part in law for part in LAW)}
    chosen = min(whole, key=lambda name: "chinchilla" not in name.lower(), default=None)
    return whole[chosen] if chosen is not None else None


def _irreducible_effect(fitted: FittedParameter | None, truth: float | None, warnings: Sequence[str]) -> Effect:
    slug, title = "irreducible_loss", "The fitted law finds the irreducible loss"
    if fitted is None or fitted.low is None or fitted.high is None or truth is None:
        return not_measured(slug, title, "no fitted E with its interval, or the true one is not known")
    off = Interval(fitted.value - truth, fitted.low - truth, fitted.high - truth, fitted.n or 0)
    fit = Interval(fitted.value, fitted.low, fitted.high, fitted.n or 0)
    return Effect(
        slug,
        title,
        decided(off.low <= 0.0 <= off.high and fitted.low > 0.0),
        off,
        "nats",
        f"fitted E = {formatting.decimal_interval(fit)} against the true {truth:.3f}",
        "; ".join(("fitted minus true, 95% interval", *warnings, "seen when it covers 0 and the fit tells E from 0")),
        side="covers",
    )


def _forecast_effect(forecasts: Sequence[Forecast]) -> Effect:
    slug, title = "forecast", "A larger run is forecast before it is trained"
    scored = [f for f in forecasts if f.inside is not None]
    if not scored:
        why = "the forecast is not scored yet" if forecasts else "no forecast was made"
        return not_measured(slug, title, why)
    f = max(scored, key=lambda one: (one.num_params or 0, one.tokens or 0))
    assert f.observed is not None and f.low is not None and f.high is not None
    error = Interval(f.predicted - f.observed, f.low - f.observed, f.high - f.observed, 0)
    early = f.made_at is not None and f.scored_at is not None and f.made_at < f.scored_at
    return Effect(
        slug,
        title,
        decided(bool(f.inside) and early),
        error,
        "nats",
        f"predicted {formatting.decimal_interval(Interval(f.predicted, f.low, f.high, 0))}, observed {f.observed:.3f} "
        f"({100 * abs(f.predicted / f.observed - 1):.1f}% off)",
        "predicted minus observed, 95% interval of the prediction; seen when it covers 0 and was stored first",
        side="covers",
    )


@dataclass(frozen=True)
class EmergencePoint:
    """One size. `log_prob`: mean log-probability of the right answer, nats per token."""

    num_params: int
    exact_match: Interval
    log_prob: float | None


@dataclass(frozen=True)
class EmergenceFacts:
    points: tuple[EmergencePoint, ...]
    effects: tuple[Effect, ...]


FLOOR = 0.10  # an exact match below this counts as "the model can't"


@readable
def emergence_facts(rows: RunRows) -> EmergenceFacts | Missing:
    points = []
    for row in rows.scaling_points:
        if row["sweep"] == "emergence":
            found = details(row, EmergenceDetails)
            if (exact := finite(found.exact_match)) is not None:
                points.append(EmergencePoint(row["num_params"], exact, known(found.log_prob_per_token)))
    if not points:
        return Missing(rows.why_missing("emergence", "Emergence"))
    points.sort(key=lambda p: p.num_params)
    return EmergenceFacts(tuple(points), (_emergence_effect(points),))


def _emergence_effect(points: Sequence[EmergencePoint]) -> Effect:
    """Sharp under exact match, smooth under log-probability (Schaeffer et al. 2023).

    On trial is the gap between the two shares of progress at the largest size whose exact match is still on the
    floor: log-probability has moved by then, exact match has not.
    """
    slug, title = "emergence", "Exact match jumps where log-probability moves smoothly"
    known = [(p, p.log_prob) for p in points if p.log_prob is not None]
    floor = 0
    while floor + 1 < len(known) and known[floor + 1][0].exact_match.value < FLOOR:
        floor += 1
    if len(known) < 4 or known[0][0].exact_match.value >= FLOOR or floor + 1 == len(known):
        return not_measured(slug, title, f"needs four sizes or more, some below and some above {FLOOR:.0%} exact match")
    first, (at, at_log), (after, _) = known[0], known[floor], known[floor + 1]
    top = max(known, key=lambda pair: pair[0].exact_match.value)
    span = top[1] - first[1]
    if span <= 0 or top[0].exact_match.value <= 0:
        return not_measured(slug, title, "log-probability does not rise with size")
    moved = (at_log - first[1]) / span
    start, peak = first[0].exact_match.value, top[0].exact_match.value
    rise = [(x - start) / (peak - start) for x in (at.exact_match.value, at.exact_match.low, at.exact_match.high)]
    gap = Interval(moved - rise[0], moved - rise[2], moved - rise[1], at.exact_match.n)
    jump = difference(after.exact_match, at.exact_match)
    return raises(
        slug,
        title,
        gap,
        "points",
        f"{formatting.percent(at.exact_match.value)} → {formatting.percent(after.exact_match.value)} from "
        f"{formatting.count(at.num_params)} to {formatting.count(after.num_params)} parameters; before it, "
        f"log-probability had made {formatting.percent(moved, 0)} of its way",
        "progress of log-probability minus that of exact match at the last size on the floor; seen when its 95% "
        "interval lies above 0 and the jump's does too",
        also=jump.low > 0.0,
    )
