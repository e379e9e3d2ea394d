"""Each law fitted to a table of runs that was checked: one shape of result for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from components.scaling import fit_checks
from components.scaling.chinchilla_fit import GRADIENT_GATE, MANY_RUNS, ChinchillaFitConfig, Method, fit_chinchilla
from components.scaling.downstream_fit import fit_downstream
from components.scaling.formula_fit import fit_formula
from components.scaling.frontier import FrontierFit, Optimum, fit_envelope, fit_isoflop
from components.scaling.gamma_fit import fit_gamma
from components.scaling.kaplan_fit import fit_kaplan
from components.scaling.law_forms import FRONTIER_LAWS, LAWS, PARAMETERS, LawName, is_formula, losses
from components.scaling.law_formulas import FORMULA_LAWS
from components.scaling.run_table import RunTable
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]
Frontier = Literal["all", "best", "penalty"]

OVERESTIMATE_PENALTY = 10.0  # OLMo-core's
_MOST_RUNS, _MOST_POINTS = 30, 300  # up to which a posterior is drawn
_MOST_RESAMPLES = 300  # of the laws whose resamples cost most
_COUNTED_WITHOUT_EMBEDDINGS = (
    "Kaplan et al. (2020) count N without embeddings; here it counts all: exponents shift with that"
)
_INTERVALS: dict[Method, str] = {
    "posterior": "posterior, run effects and noise included",
    "bootstrap": "bootstrap over runs",
    "none": "none",
}


@dataclass(frozen=True)
class FitOptions:
    """`law`: see `law_forms.FORMULAS`. `frontier`: "all" rows alike, only the "best" of each N and D, or with a
    "penalty" on predictions above the observation. `delta`: Huber's, on log loss. `method`, `resamples`, `seed`: of the
    intervals, see `ChinchillaFitConfig`. `as_is`: what looks wrong with the table warns and does not stop."""

    law: LawName = "chinchilla"
    frontier: Frontier = "all"
    delta: float = 1e-3
    method: Method = "auto"
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    as_is: bool = False

    def __post_init__(self) -> None:
        for name, known in (("law", LAWS), ("frontier", get_args(Frontier)), ("method", get_args(Method))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")
        if self.law in ("kaplan", "downstream", *FRONTIER_LAWS) and self.frontier == "penalty":
            raise ValueError(f"frontier 'penalty' is none for the law {self.law}: take 'best'")
        if self.law not in ("chinchilla",) and self.method == "posterior":
            raise ValueError(
                f"method 'posterior' is for the law chinchilla; with {self.law} take 'bootstrap' or 'auto'"
            )


@dataclass(frozen=True)
class Fitted:
    """What the fitters have in common. `residuals`: of ln loss, or of ln N* from the line of a frontier."""

    intervals: dict[str, Interval]
    samples: FloatArray
    residuals: FloatArray
    method: str
    noise: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    objective: float = math.nan
    gradient: float = math.nan
    share_of_starts: float = math.nan
    accuracy_residuals: FloatArray = field(default_factory=lambda: np.empty(0))
    optima: tuple[Optimum, ...] = ()
    unidentified: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def config_of(options: FitOptions) -> ChinchillaFitConfig:
    return ChinchillaFitConfig(
        delta=options.delta,
        tied=options.law == "tied",
        penalty=OVERESTIMATE_PENALTY if options.frontier == "penalty" else 1.0,
        method=options.method,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )


def _chinchilla(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    if (found := _posterior_of_many(table, options)) is not None:
        return table, found
    fit = fit_chinchilla(table.points(), config_of(options))
    at_bound = tuple(n for n in fit.intervals if any(w.startswith(f"{n} lies at its bound") for w in fit.warnings))
    return table, Fitted(
        intervals=dict(fit.intervals),
        samples=fit.samples,
        noise=fit.noise,
        residuals=fit.residuals,
        method=_INTERVALS[fit.config.method],
        objective=fit.objective,
        gradient=fit.gradient,
        share_of_starts=fit.share_of_starts,
        unidentified=at_bound,
        warnings=fit.warnings,
    )


def _posterior_of_many(table: RunTable, options: FitOptions) -> Fitted | None:
    """Of 10 to 30 runs the Huber minimum with intervals of the posterior, which a bootstrap's surpass by a third or two
    (tests/benchmarks/interval_coverage.py). None for other tables, and where the posterior, whose noise is Gaussian,
    does not speak of the same law: with outliers, or the minimum outside of its intervals."""
    config, runs = config_of(options), len(cluster_rows(table.runs))
    fits = MANY_RUNS <= runs <= _MOST_RUNS and len(table) <= _MOST_POINTS
    if options.method != "auto" or not fits or config.tied or config.penalty != 1.0:
        return None
    plain = fit_chinchilla(table.points(), replace(config, method="none"))
    if any(fit_checks.outliers(table, plain.residuals)):
        return None
    # Of so many runs shorter chains mix as well: R-hat says so, or the bootstrap is taken.
    drawn = fit_chinchilla(table.points(), replace(config, method="posterior", walkers=48, steps=2400))
    values = {name: getattr(plain.law, name) for name in PARAMETERS["chinchilla"]}
    if not drawn.converged or not all(drawn.intervals[name].contains(value) for name, value in values.items()):
        return None
    return Fitted(
        intervals={name: replace(drawn.intervals[name], value=value) for name, value in values.items()},
        samples=drawn.samples,
        noise=drawn.noise,
        residuals=plain.residuals,
        method=_INTERVALS["posterior"],
        objective=plain.objective,
        gradient=plain.gradient,
        share_of_starts=plain.share_of_starts,
        warnings=(*plain.warnings, *drawn.warnings),
    )


def _gamma(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    fit = fit_gamma(table.points(), config_of(options))
    names = PARAMETERS["gamma"]
    at_bound = tuple(name for name, held in zip(names, fit.at_bound, strict=True) if held)
    intervals = _intervals("gamma", fit.coefficients, fit.samples, len(table), options.confidence)
    found = [f"{name} lies at the bound of what is searched: it is not identified" for name in at_bound]
    found += [
        f"{name} is poorly identified: {c.value:.3g}, {options.confidence:.0%} interval {c.low:.3g} to {c.high:.3g}"
        for name, c in intervals.items()
        if name not in ("A", "B", *at_bound) and math.isfinite(c.high) and c.high - c.low > c.value
    ]
    if fit.gradient > GRADIENT_GATE:
        found.append(f"not converged: the scaled gradient is {fit.gradient:.1e}, above {GRADIENT_GATE:.0e}")
    predicted = losses("gamma", fit.coefficients, table.num_params, table.tokens)
    return table, Fitted(
        intervals=intervals,
        samples=fit.samples,
        residuals=np.log(table.loss) - np.log(predicted),
        method=_INTERVALS["bootstrap" if len(fit.samples) else "none"],
        objective=fit.objective,
        gradient=fit.gradient,
        share_of_starts=fit.share_of_starts,
        unidentified=at_bound,
        warnings=tuple(found),
    )


def _kaplan(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    resamples = 0 if options.method == "none" else min(options.resamples, 200)
    fit = fit_kaplan(table.points(), resamples, options.seed, options.confidence)
    found = []
    if table.convention == "total":
        found.append(_COUNTED_WITHOUT_EMBEDDINGS)
    return table, Fitted(
        intervals=dict(fit.intervals),
        samples=fit.samples,
        residuals=fit.residuals,
        method=_INTERVALS["bootstrap" if resamples else "none"],
        objective=fit.objective,
        gradient=fit.gradient,
        share_of_starts=fit.share_of_starts,
        warnings=tuple(found),
    )


def _formula(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    assert is_formula(options.law)
    resamples = 0 if options.method == "none" else min(options.resamples, _MOST_RESAMPLES)
    penalty = OVERESTIMATE_PENALTY if options.frontier == "penalty" else 1.0
    fit = fit_formula(options.law, table.columns(), table.runs, options.delta, penalty, resamples, options.seed)
    names = PARAMETERS[options.law]
    at_bound = tuple(name for name, held in zip(names, fit.at_bound, strict=True) if held)
    found = [f"{name} is not identified: these rows do not bound it" for name in at_bound]
    if fit.gradient > GRADIENT_GATE:
        found.append(f"not converged: the scaled gradient is {fit.gradient:.1e}, above {GRADIENT_GATE:.0e}")
    if options.law.startswith("kaplan") and table.convention == "total" and np.isfinite(table.num_params).all():
        found.append(_COUNTED_WITHOUT_EMBEDDINGS)
    return table, Fitted(
        intervals=_intervals(options.law, fit.values, fit.samples, len(table), options.confidence),
        samples=fit.samples,
        residuals=fit.residuals,
        method=_INTERVALS["bootstrap" if resamples else "none"],
        objective=fit.objective,
        gradient=fit.gradient,
        share_of_starts=fit.share_of_starts,
        unidentified=at_bound,
        warnings=tuple(found),
    )


def _downstream(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    resamples = 0 if options.method == "none" else min(options.resamples, _MOST_RESAMPLES)
    fit = fit_downstream(table.points(), table.extra["accuracy"], config_of(options), resamples)
    return table, Fitted(
        intervals=_intervals("downstream", fit.values, fit.samples, len(table), options.confidence),
        samples=fit.samples,
        residuals=fit.loss.residuals,
        accuracy_residuals=fit.accuracy_residuals,
        method=_INTERVALS["bootstrap" if resamples else "none"],
        objective=fit.loss.objective,
        gradient=fit.loss.gradient,
        share_of_starts=fit.loss.share_of_starts,
        unidentified=fit.at_bound,
        warnings=(*fit.loss.warnings, *fit.warnings),
    )


def _intervals(law: LawName, values: FloatArray, samples: FloatArray, n: int, confidence: float) -> dict[str, Interval]:
    edges = np.full((2, len(values)), math.inf) * [[-1.0], [1.0]]
    if len(samples):
        edges = np.quantile(np.clip(samples, -1e300, 1e300), [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return {
        name: Interval(float(value), float(low), float(high), n)
        for name, value, low, high in zip(PARAMETERS[law], values, *edges, strict=True)
    }


def _isoflop(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    found: list[str] = []
    if table.budget is None:
        if table.flops_convention == "6nd":
            found.append(
                "no column of nominal budgets: profiles are grouped by C = 6ND within 5%, which tears them apart where "
                "budgets were counted otherwise; name it with --budget COLUMN"
            )
        budgets = table.flops
    else:
        known = np.flatnonzero(np.isfinite(table.budget))
        if not len(known):
            raise ValueError(f"{table.source}: no row has a budget")
        budgets = table.budget[known]
        if len(known) < len(table):
            table = table.only(known, "no budget")
    fit = fit_isoflop(table.points(), confidence=options.confidence, budgets=budgets.tolist())
    return table, _of_frontier(fit, "Student's t of the line through the optima", options, found)


def _envelope(table: RunTable, options: FitOptions) -> tuple[RunTable, Fitted]:
    if not table.has_runs:
        raise ValueError(
            f"{table.source}: approach 1 takes the envelope of training curves, so it needs a column of runs "
            "(--run COLUMN) with several rows each"
        )
    resamples = 0 if options.method == "none" else min(options.resamples, 500)
    fit = fit_envelope(
        table.points(),
        resamples=resamples,
        seed=options.seed,
        confidence=options.confidence,
        flops=table.flops.tolist(),
    )
    return table, _of_frontier(fit, _INTERVALS["bootstrap" if resamples else "none"], options, [])


def _of_frontier(fit: FrontierFit, method: str, options: FitOptions, found: list[str]) -> Fitted:
    edges = [0.5 - options.confidence / 2, 0.5 + options.confidence / 2]
    scales = {}
    for name, at in (("params_scale", 1), ("tokens_scale", 3)):
        low, high = np.exp(np.quantile(fit.samples[:, at], edges)).tolist() if len(fit.samples) else (0.0, math.inf)
        scales[name] = Interval(getattr(fit, name), low, high, fit.a.n)
    x = np.log([o.flops for o in fit.optima])
    return Fitted(
        intervals={
            "a": fit.a,
            "params_scale": scales["params_scale"],
            "b": fit.b,
            "tokens_scale": scales["tokens_scale"],
        },
        samples=fit.samples,
        residuals=np.log([o.num_params for o in fit.optima]) - fit.a.value * x - math.log(fit.params_scale),
        method=method,
        optima=fit.optima,
        warnings=(*found, *fit.warnings),
    )


FITTERS: dict[LawName, Callable[[RunTable, FitOptions], tuple[RunTable, Fitted]]] = {
    "chinchilla": _chinchilla,
    "tied": _chinchilla,
    "gamma": _gamma,
    "kaplan": _kaplan,
    "downstream": _downstream,
    **dict.fromkeys(FORMULA_LAWS, _formula),
    "isoflop": _isoflop,
    "envelope": _envelope,
}
