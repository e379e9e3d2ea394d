"""Which share of the dense peak public trainings reach, by hardware, precision and named convention of FLOPs.

    python -m components.cost.training_shares POINTS.csv            # the shares
    python -m components.cost.training_shares POINTS.csv --write    # and keep them in catalogue/training.toml

The file of points is as `components.cost.measured_points` describes it. One model on one machine trains at rates that
differ by a factor of 2.5 by software alone, so a share is nothing without its range.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from components.cost.accounting import Convention, training_flops_per_token
from components.cost.entries import CatalogueError
from components.cost.hardware import Precision, find_hardware

SHARES = Path(__file__).parent / "catalogue/training.toml"
FEWEST = 5  # points, below which those of all devices and precisions stand for a device


@dataclass(frozen=True)
class Share:
    """Share of the dense peak of the precision: 5%, 50% and 95% of `n` public runs, and of what."""

    n: int
    low: float
    middle: float
    high: float
    of: str


def shares(file: Path) -> dict[str, dict[str, tuple[int, float, float, float]]]:
    """By convention, then by "hardware/precision" or "all": n, 5%, 50% and 95%. Raises CatalogueError for a file that
    cannot be read or has no training runs."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{file}: {error}") from None
    found: dict[str, dict[str, list[float]]] = {name: {"all": []} for name in get_args(Convention)}
    for number, row in enumerate(rows, 2):
        if row.get("kind") != "training" or not row.get("value"):
            continue
        try:
            device, precision = find_hardware(row["hardware"]), cast(Precision, row["precision"])
            rate, active, layers = (float(row[name]) for name in ("value", "active", "layers"))
            width, context = float(row["heads"]) * float(row["head_dim"]), int(float(row["seq"]))
            peak = device.peak(precision)
        except (KeyError, ValueError) as error:
            raise CatalogueError(f"{file}, row {number}: {error}") from None
        for convention, of in found.items():
            each = training_flops_per_token(cast(Convention, convention), active, int(layers), int(width), context)
            for name in ("all", f"{device.name}/{precision}"):
                of.setdefault(name, []).append(rate * each / peak)
    if not found["6n"]["all"]:
        raise CatalogueError(f"{file}: holds no rows of kind training")
    return {
        convention: {
            name: (len(values), *(float(x) for x in np.quantile(values, [0.05, 0.5, 0.95])))  # type: ignore[misc]
            for name, values in of.items()
            if len(values) >= FEWEST or name == "all"
        }
        for convention, of in found.items()
    }


def to_toml(made: dict[str, dict[str, tuple[int, float, float, float]]], points: Path) -> str:
    """The text of catalogue/training.toml."""
    lines = [
        "# Made by the command below: shares of the dense peak that public trainings reach, by convention of FLOPs,",
        "# hardware and precision, at contexts of any length. See training_flops_per_token in accounting.py.",
        f'command = "python -m components.cost.training_shares {points.name} --write"',
    ]
    for convention, of in made.items():
        lines += ["", f"[{convention}]"]
        for name, (n, low, middle, high) in sorted(of.items()):
            lines.append(f'"{name}" = {{ n = {n}, low = {low:.4f}, middle = {middle:.4f}, high = {high:.4f} }}')
    return "\n".join(lines) + "\n"


@cache
def _catalogue(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def training_share(
    hardware: str, precision: Precision = "bf16", convention: Convention = "6n", file: Path = SHARES
) -> Share:
    """Of runs on that device in that precision, or of all together where too few are public. Raises ValueError for a
    convention that has no name."""
    if convention not in get_args(Convention):
        raise ValueError(f"no convention {convention!r}: takes {', '.join(get_args(Convention))}")
    of = _catalogue(file)[convention]
    name = f"{hardware}/{precision}"
    return Share(**of[name], of=name) if name in of else Share(**of["all"], of="all hardware and precisions together")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    files = [Path(name) for name in arguments if name != "--write"]
    if len(files) != 1:
        print("usage: python -m components.cost.training_shares POINTS.csv [--write]", file=sys.stderr)
        return 2
    try:
        text = to_toml(shares(files[0]), files[0])
    except CatalogueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    if "--write" in arguments:
        SHARES.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
