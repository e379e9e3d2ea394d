"""What is wrong with a table of runs before any law is fitted: units, copies, perplexities, sizes that do not vary.

Each check names the rows and the reason. What would make a fit meaningless raises, unless the table is to be taken as
it is; all else is a warning. What only a fit shows (residuals on one side, outliers, a law that depends on the range)
is in `fit_checks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.scaling.run_columns import RunTableError
from components.scaling.run_table import RunTable, rows_text
from components.statistics import cluster_rows

FloatArray = NDArray[np.float64]

SAME_SIZE = 1e-3  # sizes that differ by less are one: parameter counts are often computed back from FLOPs
COLLINEAR = 0.02  # spread of ln D around a line in ln N, of the spread of ln D, below which they are one variable
_UNTRAINED = 12.5  # ln of the largest vocabularies (262,144): a model that knows nothing loses that many nats a token
_PERPLEXITIES = 0.2  # share of such losses from which the column is not taken for losses
_GAP = math.log(100.0)
_NO_CHANGE = 1e-9
_FEW = 1000.0  # parameters or tokens
_FEW_TOKENS = 0.1  # per parameter
_CHECKPOINTS = 8  # rows of one N and several D from which they may be those of one training
_UNIT_NAMES = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}


def checked(table: RunTable, as_is: bool = False) -> RunTable:
    """The table without its exact copies of rows, and with warnings of all that looks wrong.

    Raises RunTableError for mixed units and for losses that can only be perplexities, unless `as_is`.
    """
    table, copies = _without_copies(table)
    of_both = table.whole  # the checks that compare N with D
    if len(table) > 1 and np.ptp(np.log(table.loss)) < _NO_CHANGE:
        raise RunTableError(
            f"{table.source}: the losses of {rows_text(table.rows)} are all {table.loss[0]:.6g}: no law can be fitted"
        )
    stopping = [*_perplexities(table), *(_mixed_units(table) if of_both else ())]
    if stopping and not as_is:
        raise RunTableError(f"{table.source}: {'; '.join(stopping)}. If the table is right, fit it with --as-is")
    found = [
        *copies,
        *stopping,
        *_untrained(table),
        *(_implausible(table) if of_both else ()),
        *(_flops_apart(table) if of_both else ()),
        *(_clusters(table) if np.isfinite(table.num_params).all() else ()),
        *_twins(table),
    ]
    if len(table.left_out) > len(table):
        found.append(f"more rows are left out than fitted: {len(table.left_out)} against {len(table)}")
    return replace(table, warnings=(*table.warnings, *found))


def distinct(values: FloatArray) -> int:
    """How many sizes there are, counting those within 0.1% of each other once."""
    return 1 + int((np.diff(np.sort(np.log(values))) > SAME_SIZE).sum())


def line_of_tokens(table: RunTable) -> tuple[float, float] | None:
    """(k, p) where D = k N^p in every row, so that N and D are one variable; None where D varies at a given N."""
    x, y = np.log(table.num_params), np.log(table.tokens)
    if distinct(table.num_params) < 2 or y.std() == 0:
        return None
    slope = float(np.cov(x, y, bias=True)[0, 1] / x.var())
    rest = y - y.mean() - slope * (x - x.mean())
    if rest.std() > COLLINEAR * y.std():
        return None
    return math.exp(float(y.mean() - slope * x.mean())), slope


def _without_copies(table: RunTable) -> tuple[RunTable, list[str]]:
    """Rows that repeat an earlier one of the same run in N, D, C and loss are dropped."""
    seen: dict[tuple[object, ...], int] = {}
    keep, copies = [], []
    for i in range(len(table)):
        run = table.runs[i] if table.has_runs else ""
        same = (run, table.flops[i].tobytes(), *(column[i].tobytes() for column in table.columns().values()))
        if same in seen:
            copies.append(i)
        else:
            seen[same] = i
            keep.append(i)
    if not copies:
        return table, []
    return table.only(keep, "repeats an earlier row"), [
        f"{rows_text(table.rows[copies])} repeat earlier rows exactly and are left out: they are no further evidence"
    ]


def _twins(table: RunTable) -> Iterator[str]:
    """Equal points under different names of runs: perhaps a run that was written twice."""
    first: dict[tuple[bytes, ...], int] = {}
    twins = []
    for i in range(len(table)):
        point = tuple(column[i].tobytes() for column in table.columns().values())
        if first.setdefault(point, i) != i:
            twins.append(i)
    if twins:
        yield (
            f"{rows_text(table.rows[twins])} have the very N, D and loss of other runs: if they are copies, take "
            "them out, since the intervals count them as further runs"
        )


def _perplexities(table: RunTable) -> Iterator[str]:
    over = table.loss > _UNTRAINED
    if over.mean() >= _PERPLEXITIES:
        yield (
            f"the losses of {rows_text(table.rows[over])} (median of all {np.median(table.loss):.4g}) are above that "
            f"of an untrained model, about {_UNTRAINED:g} nats per token, so they look like perplexities: --loss-unit "
            "perplexity takes the logarithm of all rows"
        )


def _untrained(table: RunTable) -> Iterator[str]:
    over = table.loss > _UNTRAINED
    if 0 < over.mean() < _PERPLEXITIES:
        yield (
            f"the losses of {rows_text(table.rows[over])} (up to {table.loss.max():.4g}) are above that of an "
            f"untrained model, about {_UNTRAINED:g} nats per token: runs that diverged, or perplexities among losses"
        )


def _mixed_units(table: RunTable) -> Iterator[str]:
    """Rows whose N or D is in another unit than the others'.

    With the right rows scaled, ln loss must be far better explained by ln N and ln D (or D/N, which varied by a factor
    of a hundred, become one number), and the column must span much less: that tells a unit from two kinds of model,
    whose sizes span what they span.
    """
    if len(table) < 6:
        return
    x, y, target = np.log(table.num_params), np.log(table.tokens), np.log(table.loss)
    plain = _unexplained(x, y, target)
    best: tuple[float, str, float, NDArray[np.bool_]] | None = None
    for name, own, other in (("N", x, y), ("D", y, x)):
        for factor in _UNIT_NAMES:
            for rows in _in_smaller_unit(own, other, target, math.log(factor)):
                moved = own + np.where(rows, math.log(factor), 0.0)
                if np.ptp(moved) > np.ptp(own) - 0.5 * math.log(factor):
                    continue
                left = _unexplained(moved, other, target)
                if float((moved - other).std()) < 0.02 and np.ptp(own - other) > _GAP:
                    left = 0.0
                if left < 0.3 * plain and _beyond_chance(plain, left, rows) and (best is None or left < best[0]):
                    best = (left, name, factor, rows)
    if best is None:
        return
    _, name, factor, rows = best
    yield (
        f"mixed units: {name} ({'params' if name == 'N' else 'tokens'}) of {rows_text(table.rows[rows])} looks as if "
        f"it were in {_UNIT_NAMES[factor]}, unlike the other rows': scaled by {factor:g}, they fit in with them. Write "
        "one unit in all rows"
    )


def _beyond_chance(plain: float, left: float, rows: NDArray[np.bool_]) -> bool:
    """Of a few rows, some choice explains much of any noise when scaled: the gain in log likelihood must exceed the log
    of the number of choices, with 5 for what is left to luck. Of twelve or more, what a choice explains says enough."""
    n, k = len(rows), int(rows.sum())
    if n >= 12:
        return True
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + math.log(2 * len(_UNIT_NAMES))
    return 0.5 * max(n - 3, 1) * math.log(plain / max(left, 1e-300)) > choices + 5.0


def _in_smaller_unit(
    own: FloatArray, other: FloatArray, target: FloatArray, log_factor: float
) -> Iterator[NDArray[np.bool_]]:
    """Candidates for the rows whose `own` lacks the factor: below a gap, or as a mixture of two surfaces tells them."""
    starts = []
    for coordinate in (own, own - other):
        order = np.sort(coordinate)
        starts += [coordinate <= order[place] for place in np.flatnonzero(np.diff(order) > _GAP)]
        starts += [coordinate <= np.quantile(order, share) for share in (0.1, 0.25, 0.5)]
    for rows in starts:
        yield rows
        for _ in range(15):  # each row to the unit in which it is better explained, then the surface anew
            moved = own + np.where(rows, log_factor, 0.0)
            surface = np.linalg.lstsq(_surface(moved, other, moved, other), target, rcond=None)[0]
            scaled = np.abs(_surface(own + log_factor, other, moved, other) @ surface - target)
            better = scaled < np.abs(_surface(own, other, moved, other) @ surface - target)
            if (better == rows).all():
                break
            rows = better
        if 0 < rows.sum() < len(rows):
            yield rows


def _surface(x: FloatArray, y: FloatArray, of_x: FloatArray, of_y: FloatArray) -> FloatArray:
    """Columns of a smooth surface over ln N and ln D, centred and scaled as those that it is fitted to."""
    x, y = (x - of_x.mean()) / (of_x.std() + 1e-12), (y - of_y.mean()) / (of_y.std() + 1e-12)
    curved = [x * x, y * y] if len(x) >= 12 else []
    return np.stack([np.ones_like(x), x, y, *curved], axis=1)


def _unexplained(x: FloatArray, y: FloatArray, target: FloatArray) -> float:
    design = _surface(x, y, x, y)
    rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(rest @ rest)


def _flops_apart(table: RunTable) -> Iterator[str]:
    if table.flops_convention != "exact":
        return
    ratio = table.flops / (table.flops_per_param_token * table.num_params * table.tokens)
    far = (ratio > 3) | (ratio < 1 / 3)
    if far.any():
        k = f"{table.flops_per_param_token:g}"
        yield (
            f"C is {ratio[far].min():.2g} to {ratio[far].max():.2g} times {k}ND in {rows_text(table.rows[far])}: "
            "check the units of C, N and D, and what N counts"
        )


def _implausible(table: RunTable) -> Iterator[str]:
    """Numbers that no language model has, as far as anybody trains them: mostly columns in millions or billions."""
    if table.convention == "flops_per_token":
        return
    found = []
    for name, column, values in (("N", "params", table.num_params), ("D", "tokens", table.tokens)):
        if values.min() < _FEW:
            found.append(f"{name} is {values.min():.3g} to {values.max():.3g} {column}")
    ratio = float(np.median(table.tokens / table.num_params))
    if not _FEW_TOKENS < ratio < 1e5:
        found.append(f"the rows have {ratio:.3g} tokens per parameter (median)")
    if found:
        yield (
            f"{' and '.join(found)}: are params and tokens in units of one, and not each other? --params COLUMN*1e6 "
            "scales a column; A, B, predictions and optima are in the units of the table"
        )


def _clusters(table: RunTable) -> Iterator[str]:
    if not table.has_runs:
        yield from _perhaps_checkpoints(table)
        return
    groups = cluster_rows(table.runs)
    several = [rows for rows in groups if len(rows) > 1]
    odd = [rows for rows in several if distinct(table.num_params[rows]) > 1]
    if odd:
        more = f", and {len(odd) - 1} other runs have several" if len(odd) > 1 else ""
        yield (
            f"run {table.runs[odd[0][0]]!r} has {distinct(table.num_params[odd[0]])} sizes "
            f"({rows_text(table.rows[odd[0]])}){more}: is this the column of runs?"
        )
    elif several:
        yield (
            f"{len(several)} of {len(groups)} runs have several losses ({len(table)} in all); the points of a run "
            "share its luck, so intervals are over runs"
        )


def _perhaps_checkpoints(table: RunTable) -> Iterator[str]:
    """Without a column of runs: whether few N stand for many rows, each with its own D."""
    sizes = distinct(table.num_params)
    if table.whole and len(table) >= _CHECKPOINTS * sizes and distinct(table.tokens) >= _CHECKPOINTS:
        yield (
            f"{len(table)} rows have {sizes} N, and each counts as a run of its own: if they are checkpoints of fewer "
            "runs, name these with --run COLUMN, or the column of N, since the intervals are too narrow else"
        )
