"""A table of training runs from anywhere, as typed columns; `run_files.py` reads its cells.

Nothing is guessed in silence: `RunTable.shown` says which column is what, and every row that is left out has a reason.
Rows are counted from 1, the header not included.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.scaling.points import PointConvention, ScalingPoint
from components.scaling.run_columns import (
    EXTRA_ROLES,
    Column,
    LossUnit,
    Role,
    RunTableError,
    find_columns,
    is_per_byte,
    loss_unit,
    parse_cell,
    parse_number,
)
from components.scaling.run_files import TornRow

FloatArray = NDArray[np.float64]
FlopsConvention = Literal["6nd", "exact"]
NATS = "nats per token"
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class TableOptions:
    """How to read a table. `columns`: of roles, `name` or `name*factor`; what is left out is guessed by name.

    `where`: conditions `column<=value` (or <, >=, >, =, !=) that a row must meet. `convention`: what N counts, None for
    what the column's name says, else all parameters. `flops`: "exact" takes C from its column, "6nd" computes it; None
    takes the column where there is one. `loss_unit`: None is nats per token, unless the column's name says perplexity.
    `needs`: the columns that the law is over; with a column of bytes per token, losses become bits per byte.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    convention: PointConvention | None = None
    flops: FlopsConvention | None = None
    loss_unit: LossUnit | None = None
    needs: tuple[Role, ...] = ("params", "tokens")


@dataclass(frozen=True)
class LeftOut:
    """A row of the table that is not fitted, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class RunTable:
    """Columns of shape (n,): N (`num_params`) as `convention` counts it, D, C in FLOPs, loss in nats per token.

    `rows`: of each point in the file, from 1; `budget`: where the table has such a column, nan where a row has none;
    `has_runs`: whether it has a column of runs, else each row counts as a run of its own. `flops_per_param_token`: k in
    C = k N D: 6, or 1 where N itself is FLOPs per token. `extra`: further columns of the law, by role; N or D is nan
    where the law does not need it and the table lacks it.
    """

    source: str
    rows: NDArray[np.int64]
    num_params: FloatArray
    tokens: FloatArray
    loss: FloatArray
    flops: FloatArray
    runs: tuple[str, ...]
    has_runs: bool
    convention: PointConvention
    flops_convention: FlopsConvention
    budget: FloatArray | None = None
    extra: Mapping[str, FloatArray] = field(default_factory=dict)
    loss_unit: str = NATS
    shown: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def whole(self) -> bool:
        """Whether every row has an N and a D."""
        return bool(np.isfinite(self.num_params).all() and np.isfinite(self.tokens).all())

    def columns(self) -> dict[str, FloatArray]:
        """By role, as the laws' formulas take them."""
        return {"params": self.num_params, "tokens": self.tokens, "loss": self.loss, **self.extra}

    @property
    def flops_per_param_token(self) -> float:
        return 1.0 if self.convention == "flops_per_token" else 6.0

    def points(self) -> list[ScalingPoint]:
        """As the fitters take them."""
        return [
            ScalingPoint(n, d, loss, run, self.convention)
            for n, d, loss, run in zip(
                self.num_params.tolist(), self.tokens.tolist(), self.loss.tolist(), self.runs, strict=True
            )
        ]

    def only(self, keep: Sequence[int] | NDArray[np.int64], reason: str = "") -> RunTable:
        """The rows at the positions `keep`; the others are left out for `reason`, or without a word where it is ""."""
        kept = np.asarray(keep, dtype=np.int64)
        dropped = sorted(set(range(len(self))) - set(kept.tolist())) if reason else []
        return replace(
            self,
            rows=self.rows[kept],
            num_params=self.num_params[kept],
            tokens=self.tokens[kept],
            loss=self.loss[kept],
            flops=self.flops[kept],
            runs=tuple(self.runs[i] for i in kept),
            budget=None if self.budget is None else self.budget[kept],
            extra={name: values[kept] for name, values in self.extra.items()},
            left_out=(*self.left_out, *(LeftOut(int(self.rows[i]), reason) for i in dropped)),
        )


def run_table(cells: Mapping[str, Sequence[Any]], source: str, options: TableOptions | None = None) -> RunTable:
    """Typed columns of the `cells` (by column name). What looks wrong with them is for `run_checks.checked` to say.

    Raises RunTableError where a column of loss, or two of N, D and C, are missing, or no row can be used.
    """
    options = options or TableOptions()
    number_of_rows = len(next(iter(cells.values()), []))
    chosen = np.ones(number_of_rows, dtype=bool)
    for condition in options.where:
        chosen &= _meets(condition, cells, source)
    columns = find_columns(list(cells), options.columns, _wanted(options.needs))
    _refuse_missing(columns, options.needs, cells, source)
    numbers: dict[Role, FloatArray] = {}
    reasons: dict[int, str] = {}
    spare: dict[Role, dict[int, str]] = {}
    has_both = "params" in columns and "tokens" in columns
    has_one = "params" in columns or "tokens" in columns
    for role, column in columns.items():
        if role != "run":
            needed = role in ("params", "tokens", "loss", *EXTRA_ROLES) or (role == "flops" and not has_both)
            bad = reasons if needed else spare.setdefault(role, {})
            numbers[role] = _numbers(cells[column.name], column, bad, role in ("sparsity", "accuracy"))
    reasons = {row: reason for row, reason in reasons.items() if chosen[row]}
    kept = np.array([i for i in np.flatnonzero(chosen) if i not in reasons], dtype=np.int64)
    if not len(kept):
        if number_of_rows and not chosen.any():
            raise RunTableError(f"{source}: no row meets {' and '.join(options.where)}")
        example = "; ".join(f"row {row + 1}: {reason}" for row, reason in list(reasons.items())[:3])
        raise RunTableError(f"{source}: none of the {len(reasons)} rows can be used: {example or 'the table is empty'}")
    numbers = {role: values[kept] for role, values in numbers.items()}

    convention = options.convention or _convention(columns)
    factor = 1.0 if convention == "flops_per_token" else 6.0
    notes = []
    if options.where:
        notes.append(f"{int(chosen.sum())} of {number_of_rows} rows, those with {' and '.join(options.where)}")
    for role in ("params", "tokens"):
        if role not in columns and ("flops" not in columns or not has_one):
            numbers[role] = np.full(len(kept), math.nan)  # of a law that does not need it
    if "params" not in numbers:
        numbers["params"] = numbers["flops"] / (factor * numbers["tokens"])
        notes.append(f"params = flops / ({factor:g} × tokens), since no column has them")
    if "tokens" not in numbers:
        numbers["tokens"] = numbers["flops"] / (factor * numbers["params"])
        notes.append(f"tokens = flops / ({factor:g} × params), since no column has them")
    if options.flops == "exact" and "flops" not in columns:
        raise RunTableError(f"{source}: exact FLOPs need a column of them: --flops COLUMN")
    by = options.flops or ("exact" if "flops" in columns else "6nd")
    product = factor * numbers["params"] * numbers["tokens"]
    if by == "exact" and (unknown := np.isnan(numbers["flops"])).any():
        numbers["flops"] = np.where(unknown, product, numbers["flops"])
        notes.append(
            f"flops = {factor:g} × params × tokens in {rows_text(kept[unknown] + 1)}, where the column has none"
        )
    if by == "6nd":
        notes.append(f"C = {'params × tokens' if factor == 1 else '6 × params × tokens'}")
    unit = options.loss_unit or loss_unit(columns["loss"].name)
    if options.convention is None:
        notes.append(f"params counts {convention.replace('_', ' ')} (--convention says otherwise)")
    runs = columns.get("run")
    if runs is not None and runs.guessed and _mixes_sizes(cells[runs.name], kept, numbers["params"]):
        notes.append(
            f"{runs.name} is not taken for the column of runs, since most of its values have rows of several N"
        )
        del columns["run"]
        runs = None
    if runs is None:
        notes.append("no column of runs: each row counts as a run of its own")
    loss, log_bad = _nats(numbers["loss"], unit)
    extra = _extra(numbers, options.needs, notes)
    in_bits = "bytes_per_token" in numbers
    if in_bits:
        loss = loss / math.log(2.0) / numbers["bytes_per_token"]
        notes.append("loss in bits per byte: nats per token / (ln 2 × bytes per token)")
    table = RunTable(
        source=source,
        rows=kept + 1,
        num_params=numbers["params"],
        tokens=numbers["tokens"],
        loss=loss,
        flops=numbers["flops"] if by == "exact" else product,
        runs=tuple(f"row {i + 1}" if runs is None else _run_name(cells[runs.name][i], i) for i in kept.tolist()),
        has_runs=runs is not None,
        convention=convention,
        flops_convention=by,
        budget=numbers.get("budget"),
        extra=extra,
        loss_unit="bits per byte" if in_bits or is_per_byte(columns["loss"].name) else NATS,
        shown=(
            *(column.shown() for column in columns.values()),
            *([] if unit == "nats" else [f"loss in nats from {unit}"]),
            *(
                [f"{columns['loss'].name} is taken as it is, in bits per byte"]
                if is_per_byte(columns["loss"].name)
                else []
            ),
            *notes,
        ),
        left_out=tuple(LeftOut(row + 1, reason) for row, reason in sorted(reasons.items())),
    )
    return table.only(np.flatnonzero(~log_bad), f"as {unit} its loss is at or under 0 nats") if log_bad.any() else table


def _wanted(needs: Sequence[Role]) -> list[Role]:
    """The further columns to look for, with those that they can be computed from."""
    computed: dict[Role, Role] = {"unique": "epochs", "batch": "steps"}
    return [*needs, *(computed[role] for role in needs if role in computed)]


_WORDS: Mapping[Role, str] = {"params": "N (params)", "tokens": "D (tokens)", "flops": "C (FLOPs)"}


def _refuse_missing(
    columns: Mapping[Role, Column], needs: Sequence[Role], cells: Mapping[str, Any], source: str
) -> None:
    base = [role for role in ("params", "tokens") if role in needs]
    found = [role for role in ("params", "tokens", "flops") if role in columns]
    known = len(found)
    missing = [] if "loss" in columns else ["the loss"]
    if len(base) == 2 and known < 2:
        absent = [_WORDS[role] for role in _WORDS if role not in columns]
        missing.append(" or ".join(absent) if found else "two of N (params), D (tokens) and C (FLOPs)")
    elif len(base) == 1 and base[0] not in columns and known < 2:
        missing.append(base[0])
    for role in needs:
        instead = {"unique": "epochs" in columns, "batch": {"steps", "tokens"} <= set(columns)}
        if role in EXTRA_ROLES and role not in columns and not instead.get(role):
            missing.append(role.replace("_", " "))
    if not missing:
        return
    options = ["loss", "params", "tokens", "flops"] + [
        role.replace("_", "-") for role in needs if role in EXTRA_ROLES and role not in columns
    ]
    raise RunTableError(
        f"{source}: no column is known to be {' and '.join(missing)}. It has {', '.join(map(repr, cells))}; name them "
        f"with {', '.join(f'--{option} COLUMN' for option in options)}"
    )


def _extra(numbers: Mapping[Role, FloatArray], needs: Sequence[Role], notes: list[str]) -> dict[str, FloatArray]:
    """The further columns of the law, computed where they are not in the table."""
    found: dict[str, FloatArray] = {}
    for role in needs:
        if role not in EXTRA_ROLES:
            continue
        if role in numbers:
            found[role] = numbers[role]
        elif role == "unique":
            found[role] = numbers["tokens"] / np.maximum(numbers["epochs"], 1.0)
            notes.append("unique = tokens / epochs, since no column has them")
        else:
            found[role] = numbers["tokens"] / numbers["steps"]
            notes.append("batch = tokens / steps, since no column has it")
    return found


def _numbers(values: Sequence[Any], column: Column, reasons: dict[int, str], is_share: bool = False) -> FloatArray:
    """The cells as finite positive numbers (a share may be 0, and is below 1 for a sparsity and up to it else); of all
    others the first reason goes to `reasons`, by position."""
    found = np.full(len(values), math.nan)
    for row, cell in enumerate(values):
        number, has_unit = parse_cell(cell)
        if isinstance(number, float) and math.isfinite(number):
            if not (has_unit and column.guessed):  # "1.4B" below "size (M)" is in its own unit
                number *= column.factor
            if 0 <= number < 1 or (number == 1 and column.role == "accuracy") if is_share else number > 0:
                found[row] = number
                continue
        if isinstance(cell, TornRow):
            reasons.setdefault(row, str(cell))
            continue
        if number is None:
            why = "is missing"
        elif isinstance(number, str):
            why = f"is {number[:40]!r}, which is no number"
        else:
            why = f"is {number:g}; it must be {'a share between 0 and 1' if is_share else 'finite and positive'}"
        reasons.setdefault(row, f"{column.role} ({column.name}) {why}")
    return found


def _meets(condition: str, cells: Mapping[str, Sequence[Any]], source: str) -> NDArray[np.bool_]:
    """Which rows meet a condition; numbers are compared as such, text only for being equal."""
    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=|!=|==|=|<|>)\s*(.+?)\s*", condition)
    if not match or match[1] not in cells:
        found = f"there is no column {match[1]!r}" if match else "it has no <=, >=, <, >, = or !="
        raise RunTableError(f"{source}: --where {condition!r}: {found}; write COLUMN<=VALUE with one of {list(cells)}")
    name, sign, wanted = match[1], match[2], parse_number(match[3])
    if not isinstance(wanted, float) and sign not in ("=", "==", "!="):
        raise RunTableError(f"{source}: --where {condition!r}: {match[3]!r} is no number to compare with")
    compare = _SIGNS[sign]

    def meets(cell: Any) -> bool:
        value = parse_number(cell)
        if isinstance(wanted, float):
            return isinstance(value, float) and bool(compare(value, wanted))
        return bool(compare(str(cell).strip().lower(), match[3].lower()))

    return np.array([meets(cell) for cell in cells[name]], dtype=bool)


def _mixes_sizes(names: Sequence[Any], kept: NDArray[np.int64], num_params: FloatArray) -> bool:
    """Whether over half of the rows share a run's name with rows of another N (more than 0.1% apart)."""
    edges: dict[Any, tuple[float, float]] = {}
    for row, n in zip(kept.tolist(), num_params.tolist(), strict=True):
        low, high = edges.get(names[row], (n, n))
        edges[names[row]] = min(low, n), max(high, n)
    mixed = [edges[names[row]][1] > 1.001 * edges[names[row]][0] for row in kept.tolist()]
    return sum(mixed) > len(mixed) / 2


def _convention(columns: Mapping[Role, Column]) -> PointConvention:
    name = columns["params"].name.lower() if "params" in columns else ""
    plain = "".join(c for c in name if c.isalpha())
    if "nonemb" in plain:
        return "non_embedding"
    if "pertoken" in plain:
        return "flops_per_token"
    return "active" if "active" in plain else "total"


def rows_text(rows: Sequence[int] | NDArray[np.int64], at_most: int = 8) -> str:
    """Rows as words: "row 3", "rows 1 to 4, 9", "rows 2, 5, … (40 rows)"."""
    numbers = sorted({int(row) for row in rows})
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    shown = [f"{s[0]} to {s[-1]}" if s[-1] > s[0] else f"{s[0]}" for s in spans[:at_most]]
    more = f", … ({len(numbers)} rows)" if len(spans) > at_most else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(shown)}{more}"


def _run_name(cell: Any, row: int) -> str:
    text = "" if cell is None else str(cell).strip()
    return text or f"row {row + 1}"


def _nats(values: FloatArray, unit: LossUnit) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Losses in nats, and which of them are not positive."""
    nats = np.log(values) if unit == "perplexity" else values * (math.log(2.0) if unit == "bits" else 1.0)
    return nats, nats <= 0
