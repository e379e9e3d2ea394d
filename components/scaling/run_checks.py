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
_GAP = math.log(100.0)


def checked(table: RunTable, as_is: bool = False) -> RunTable:
    """The table without its exact copies of rows, and with warnings of all that looks wrong.

    Raises RunTableError for mixed units and for losses that can only be perplexities, unless `as_is`.
    """
    table, copies = _without_copies(table)
    stopping = [*_perplexities(table), *_mixed_units(table)]
    if stopping and not as_is:
        raise RunTableError(f"{table.source}: {'; '.join(stopping)}. If the table is right, fit it with --as-is")
    found = [*copies, *stopping, *_flops_apart(table), *_clusters(table), *_twins(table)]
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
        same = (run, table.num_params[i], table.tokens[i], table.flops[i], table.loss[i])
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
    first: dict[tuple[float, float, float], int] = {}
    twins = []
    for i, point in enumerate(zip(table.num_params.tolist(), table.tokens.tolist(), table.loss.tolist(), strict=True)):
        if first.setdefault(point, i) != i:
            twins.append(i)
    if twins:
        yield (
            f"{rows_text(table.rows[twins])} have the very N, D and loss of other runs: if they are copies, take "
            "them out, since the intervals count them as further runs"
        )


def _perplexities(table: RunTable) -> Iterator[str]:
    over = table.loss > _UNTRAINED
    if not over.any():
        return
    if np.median(table.loss) > _UNTRAINED:
        yield (
            f"the losses (median {np.median(table.loss):.4g}) are above that of an untrained model, about "
            f"{_UNTRAINED:g} nats per token, so they look like perplexities: --loss-unit perplexity takes their "
            "logarithm"
        )
    else:
        rows = rows_text(table.rows[over])
        yield (
            f"the losses of {rows} (up to {table.loss.max():.4g}) are above that of an untrained model, about "
            f"{_UNTRAINED:g} nats per token, while the others are not: perplexities among losses, or runs that diverged"
        )


def _mixed_units(table: RunTable) -> Iterator[str]:
    """Rows whose N or D is in another unit: a wide gap that closes, and a loss that makes sense, when they are scaled.

    The gap is looked for in N, in D and in D/N. The rows count as misplaced only when the loss as a power of N and D is
    at least twice as well explained with them scaled: models of a thousand and of a billion parameters are no mistake.
    """
    if len(table) < 4:
        return
    x, y, target = np.log(table.num_params), np.log(table.tokens), np.log(table.loss)
    plain = _unexplained(x, y, target)
    best: tuple[float, str, float, NDArray[np.bool_]] | None = None
    for coordinate in (x, y, y - x):
        order = np.sort(coordinate)
        gaps = np.diff(order)
        for place in np.flatnonzero(gaps > _GAP):
            low = coordinate <= order[place]
            for rows in (low, ~low):
                for name, factor in ((name, f) for name in ("N", "D") for f in (1e3, 1e6, 1e9, 1e12)):
                    moved = (
                        (x + np.where(rows, math.log(factor), 0.0) if name == "N" else x),
                        (y + np.where(rows, math.log(factor), 0.0) if name == "D" else y),
                    )
                    closed = np.diff(np.sort(moved[0] if name == "N" else moved[1])).max() < _GAP
                    left = _unexplained(*moved, target)
                    if closed and left < 0.5 * plain and (best is None or left < best[0]):
                        best = (left, name, factor, rows)
    if best is None:
        return
    _, name, factor, rows = best
    column = "params" if name == "N" else "tokens"
    unit = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}[factor]
    if rows.all() or rows.sum() > len(rows) - 1:
        return
    yield (
        f"mixed units: {name} ({column}) of {rows_text(table.rows[rows])} looks as if it were in {unit}: scaled by "
        f"{factor:g}, these rows close a gap in the table, and the losses are better explained. Write one unit "
        "in all rows"
    )


def _unexplained(x: FloatArray, y: FloatArray, target: FloatArray) -> float:
    design = np.stack([np.ones_like(x), x, y], axis=1)
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


def _clusters(table: RunTable) -> Iterator[str]:
    if not table.has_runs:
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
