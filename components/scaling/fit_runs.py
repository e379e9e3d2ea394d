"""Fit one of the laws to a table of runs: `fit_table(run_table(read_file(path), ...))` is the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.scaling import fit_checks
from components.scaling.chinchilla_fit import MANY_RUNS, fit_chinchilla
from components.scaling.law_fitters import FITTERS, FitOptions, config_of
from components.scaling.law_forms import FRONTIER_LAWS, LOSS_LAWS, PARAMETERS, LawName
from components.scaling.newton import EXPONENT_BOUNDS
from components.scaling.run_checks import SAME_SIZE, checked, distinct, line_of_tokens
from components.scaling.run_table import RunTable, rows_text
from components.scaling.table_fit import TableFit
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]
_SAME_TOKENS = 0.01
_INSTEAD = {
    "N": "; --law kaplan-d is over D alone, without one",
    "D": "; --law kaplan-n is over N alone, without one",
}
_ALONG_A_LINE = ("E", "epsilon", "k", "gamma")  # what runs on one line D = k N^p still identify


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
    table, fitted = FITTERS[options.law](table, options)
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
        of_losses = _r_squared(fitted.residuals, np.log(table.loss))
        found += fit_checks.unexplained(of_losses, len(table), len(PARAMETERS[options.law]))
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
                f"{_INSTEAD[name] if count == 1 else ''}"
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


def _refit(options: FitOptions) -> Callable[[RunTable], fit_checks.Refitted | None]:
    """A function that fits part of a table, without intervals; None where that identifies no law."""

    def fitted(part: RunTable) -> fit_checks.Refitted | None:
        try:
            fit = fit_chinchilla(part.points(), replace(config_of(options), method="none"))
        except ValueError:
            return None
        return fit_checks.Refitted({n: getattr(fit.law, n) for n in ("alpha", "beta", "E")}, fit.objective)

    return fitted
