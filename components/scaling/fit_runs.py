"""Fit one of the laws to a table of runs: `fit_table(run_table(read_file(path), ...))` is the whole of it."""

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
from components.scaling.law_forms import (
    FRONTIER_LAWS,
    LAWS,
    LOSS_LAWS,
    PARAMETERS,
    LawName,
    is_formula,
    losses,
)
from components.scaling.law_formulas import FORMULA_LAWS
from components.scaling.newton import EXPONENT_BOUNDS
from components.scaling.run_checks import SAME_SIZE, checked, distinct, line_of_tokens
from components.scaling.run_table import RunTable, rows_text
from components.scaling.table_fit import TableFit
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]
Frontier = Literal["all", "best", "penalty"]

OVERESTIMATE_PENALTY = 10.0  # OLMo-core's
_SAME_TOKENS = 0.01
MOST_RESAMPLES = 300  # of the laws whose resamples cost most
_COUNTED_WITHOUT_EMBEDDINGS = (
    "Kaplan et al. (2020) count N without embeddings; here it counts all: exponents shift with that"
)
_ALONG_A_LINE = ("E", "epsilon", "k", "gamma")  # what runs on one line D = k N^p still identify
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
class _Fitted:
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


def fit_table(table: RunTable, options: FitOptions | None = None) -> TableFit:
    """The law of `options` fitted to `table`, after its checks.

    Raises ValueError (RunTableError where the table is to blame) for what would make the fit meaningless: see
    `run_checks.checked`, and each law's own demands on points and sizes.
    """
    options = options or FitOptions()
    table = checked(table, options.as_is)
    if options.frontier == "best":
        table = best_of_each_size(table)
    if options.law in LOSS_LAWS:
        _enough_sizes(table, options.law)
    table, fitted = _FITTERS[options.law](table, options)
    found = list(fitted.warnings)
    num_runs = len(cluster_rows(table.runs))
    if options.law not in ("chinchilla", "tied", *FRONTIER_LAWS) and len(fitted.samples) and num_runs < MANY_RUNS - 2:
        found.append(f"only {num_runs} runs: a bootstrap over so few is too narrow")
    line, unidentified = None, list(fitted.unidentified)
    if options.law not in FRONTIER_LAWS:
        line = line_of_tokens(table) if options.law in LOSS_LAWS else None
        if line is not None:
            # Of tied exponents on D = k N one remains, and only the shares of the two terms are unknown.
            tied = options.law == "tied" and abs(line[1] - 1) < 0.02
            names = ["A", "B"] if tied else [n for n in PARAMETERS[options.law] if n not in _ALONG_A_LINE]
            unidentified += [name for name in names if name not in unidentified]
            form = f"D = {line[0]:.3g} N" + (f"^{line[1]:.3g}" if abs(line[1] - 1) > 0.005 else "")
            found.append(
                f"{form} in all rows, so N and D are one variable: {', '.join(names)} "
                "cannot be told apart; only losses along that line are known"
            )
        found += fit_checks.outliers(table, fitted.residuals)
        if options.frontier == "all":
            found += _repeated_sizes(table)
            found += fit_checks.one_sided(table, fitted.residuals)
        if options.law in ("chinchilla", "tied") and line is None:
            refit = _refit(options)
            if (whole := refit(table)) is not None:
                found += fit_checks.range_dependence(table, whole, 5 - (options.law == "tied"), refit)
    frontier = [math.log(o.num_params) for o in fitted.optima]
    target = np.array(frontier) if options.law in FRONTIER_LAWS else np.log(table.loss)
    return TableFit(
        law=options.law,
        source=table.source,
        convention=table.convention,
        flops_per_param_token=table.flops_per_param_token,
        coefficients={
            name: _unbounded(name, interval, line is not None)
            if name in unidentified
            else _off_bounds(name, interval, float(table.loss.min()))
            for name, interval in fitted.intervals.items()
        },
        unidentified=tuple(unidentified),
        samples=fitted.samples,
        noise=fitted.noise,
        accuracy_residuals=fitted.accuracy_residuals,
        loss_unit=table.loss_unit,
        extra={name: column.tolist() for name, column in table.extra.items()},
        points=np.stack([table.num_params, table.tokens, table.flops, table.loss], axis=1),
        residuals=fitted.residuals,
        objective=fitted.objective,
        gradient=fitted.gradient,
        share_of_starts=fitted.share_of_starts,
        r_squared=_r_squared(fitted.residuals, target),
        num_points=len(table),
        num_runs=num_runs,
        ranges={
            name: (float(values.min()), float(values.max()))
            for name, values in (
                ("params", table.num_params),
                ("tokens", table.tokens),
                ("flops", table.flops_per_param_token * table.num_params * table.tokens),
                *table.extra.items(),
            )
            if np.isfinite(values).all()
        },
        line=line,
        optima=fitted.optima,
        method=fitted.method,
        confidence=options.confidence,
        frontier=options.frontier,
        shown=table.shown,
        left_out=tuple((one.row, one.reason) for one in table.left_out),
        warnings=(*table.warnings, *found),
    )


def best_of_each_size(table: RunTable) -> RunTable:
    """The lowest loss of each N (within 0.1%) and D (within 1%), and of each value of the law's further columns; the
    others are left out."""
    best = [min(group, key=lambda i: table.loss[i]) for group in _same_sizes(table)]
    return table.only(sorted(best), "another row of this N and D has a lower loss")


def _same_sizes(table: RunTable) -> list[list[int]]:
    """The rows of each N and D, and of each value of the law's further columns."""
    others = [column for name, column in table.extra.items() if name != "accuracy"]
    parts = (
        cluster_rows(list(zip(*(column.tolist() for column in others), strict=True)))
        if others
        else [np.arange(len(table))]
    )
    return [part[group].tolist() for part in parts for group in _same_n_and_d(table, part)]


def _same_n_and_d(table: RunTable, rows: NDArray[np.int64]) -> list[list[int]]:
    """Positions in `rows`; of a law of one variable the other counts as equal in all."""
    x, y = np.nan_to_num(np.log(table.num_params[rows])), np.nan_to_num(np.log(table.tokens[rows]))
    by_size = np.argsort(x)
    level = np.empty(len(x), dtype=np.int64)
    level[by_size] = np.concatenate([[0], np.cumsum(np.diff(x[by_size]) > SAME_SIZE)])
    groups: list[list[int]] = []
    for i in np.lexsort((y, level)).tolist():
        if groups and level[groups[-1][0]] == level[i] and y[i] - y[groups[-1][0]] <= _SAME_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _repeated_sizes(table: RunTable) -> list[str]:
    """Rows of equal N and D whose losses differ: a sweep over something else, or seeds."""
    several = [group for group in _same_sizes(table) if len(group) > 1]
    rows = sum(map(len, several))
    if not table.whole:
        return []
    if rows < 0.2 * len(table):
        return []
    spread = float(np.median([np.ptp(np.log(table.loss[group])) for group in several]))
    if spread < 0.01:
        return []
    return [
        f"{rows} rows share their N and D with another, and their losses differ by {spread:.1%} (median): if they are "
        "a sweep over learning rates or batches, --frontier best fits the lowest of each"
    ]


def _enough_sizes(table: RunTable, law: LawName) -> None:
    needed = 2 if law in ("tied", "kaplan") else 3
    for name, values in (("N", table.num_params), ("D", table.tokens)):
        if (count := distinct(values)) < needed:
            raise ValueError(
                f"{table.source}: {rows_text(table.rows)} have only {count} distinct {name} ({values.min():.4g}"
                f"{'' if count == 1 else f' to {values.max():.4g}'}, within 0.1%): the law {law} needs {needed} or "
                "more of each of N and D, to tell each term from the irreducible loss"
            )


def _unbounded(name: str, interval: Interval, line: bool) -> Interval:
    """Where a coefficient is not identified its interval has no upper end, or for a floor only that."""
    if name == "E" and not line:
        return replace(interval, low=0.0)
    return replace(interval, low=0.0, high=math.inf)


def _off_bounds(name: str, interval: Interval, lowest_loss: float) -> Interval:
    """Ends that are those of the search are none of the data's: they become 0 or infinite."""
    low, high = interval.low, interval.high
    if name == "E" and low < 1e-3 * lowest_loss:
        low = 0.0
    if name in ("alpha", "beta"):
        bottom, top = EXPONENT_BOUNDS
        low, high = 0.0 if low < 1.01 * bottom else low, math.inf if high > 0.99 * top else high
    return replace(interval, low=low, high=high)


def _r_squared(residuals: FloatArray, target: FloatArray) -> float:
    spread = float(((target - target.mean()) ** 2).sum())
    return 1.0 - float(residuals @ residuals) / spread if spread > 0 else math.nan


def _config(options: FitOptions) -> ChinchillaFitConfig:
    return ChinchillaFitConfig(
        delta=options.delta,
        tied=options.law == "tied",
        penalty=OVERESTIMATE_PENALTY if options.frontier == "penalty" else 1.0,
        method=options.method,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )


def _refit(options: FitOptions) -> Callable[[RunTable], fit_checks.Refitted | None]:
    """A function that fits part of a table, without intervals; None where that identifies no law."""

    def fitted(part: RunTable) -> fit_checks.Refitted | None:
        try:
            fit = fit_chinchilla(part.points(), replace(_config(options), method="none"))
        except ValueError:
            return None
        return fit_checks.Refitted({n: getattr(fit.law, n) for n in ("alpha", "beta", "E")}, fit.objective)

    return fitted


def _chinchilla(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
    fit = fit_chinchilla(table.points(), _config(options))
    at_bound = tuple(n for n in fit.intervals if any(w.startswith(f"{n} lies at its bound") for w in fit.warnings))
    return table, _Fitted(
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


def _gamma(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
    fit = fit_gamma(table.points(), _config(options))
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
    return table, _Fitted(
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


def _kaplan(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
    resamples = 0 if options.method == "none" else min(options.resamples, 200)
    fit = fit_kaplan(table.points(), resamples, options.seed, options.confidence)
    found = []
    if table.convention == "total":
        found.append(_COUNTED_WITHOUT_EMBEDDINGS)
    return table, _Fitted(
        intervals=dict(fit.intervals),
        samples=fit.samples,
        residuals=fit.residuals,
        method=_INTERVALS["bootstrap" if resamples else "none"],
        objective=fit.objective,
        gradient=fit.gradient,
        share_of_starts=fit.share_of_starts,
        warnings=tuple(found),
    )


def _formula(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
    assert is_formula(options.law)
    resamples = 0 if options.method == "none" else min(options.resamples, MOST_RESAMPLES)
    penalty = OVERESTIMATE_PENALTY if options.frontier == "penalty" else 1.0
    fit = fit_formula(options.law, table.columns(), table.runs, options.delta, penalty, resamples, options.seed)
    names = PARAMETERS[options.law]
    at_bound = tuple(name for name, held in zip(names, fit.at_bound, strict=True) if held)
    found = [f"{name} lies at the bound of what is searched: it is not identified" for name in at_bound]
    if fit.gradient > GRADIENT_GATE:
        found.append(f"not converged: the scaled gradient is {fit.gradient:.1e}, above {GRADIENT_GATE:.0e}")
    if options.law.startswith("kaplan") and table.convention == "total" and np.isfinite(table.num_params).all():
        found.append(_COUNTED_WITHOUT_EMBEDDINGS)
    return table, _Fitted(
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


def _downstream(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
    resamples = 0 if options.method == "none" else min(options.resamples, MOST_RESAMPLES)
    fit = fit_downstream(table.points(), table.extra["accuracy"], _config(options), resamples)
    return table, _Fitted(
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


def _isoflop(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
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


def _envelope(table: RunTable, options: FitOptions) -> tuple[RunTable, _Fitted]:
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


def _of_frontier(fit: FrontierFit, method: str, options: FitOptions, found: list[str]) -> _Fitted:
    edges = [0.5 - options.confidence / 2, 0.5 + options.confidence / 2]
    scales = {}
    for name, at in (("params_scale", 1), ("tokens_scale", 3)):
        low, high = np.exp(np.quantile(fit.samples[:, at], edges)).tolist() if len(fit.samples) else (0.0, math.inf)
        scales[name] = Interval(getattr(fit, name), low, high, fit.a.n)
    x = np.log([o.flops for o in fit.optima])
    return _Fitted(
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


_FITTERS: dict[LawName, Callable[[RunTable, FitOptions], tuple[RunTable, _Fitted]]] = {
    "chinchilla": _chinchilla,
    "tied": _chinchilla,
    "gamma": _gamma,
    "kaplan": _kaplan,
    "downstream": _downstream,
    **dict.fromkeys(FORMULA_LAWS, _formula),
    "isoflop": _isoflop,
    "envelope": _envelope,
}
