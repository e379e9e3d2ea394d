"""Fits of anybody's tables of runs, kept in the table `scaling_fits` under a name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from components.scaling.table_fit import TableFit
from storage.home import Home
from storage.json_values import finite

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Raises ValueError for a name that cannot be that of a fit."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"--save {name!r}: a name has up to 64 letters, digits and . _ -, and begins with one of the first two"
        )


def has_tables(home: Home) -> bool:
    """Whether there is a home that somebody made; one at an address is taken to be there."""
    return home.is_remote or Path(home.root).is_dir()


def name_of(source: str) -> str:
    """A name for a fit of a file, of a query or of standard input."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem if source.count(" ") == 0 else source).strip("-._")
    return words[:64] or "table"


def save_fit(home: Home, name: str, fit: TableFit) -> int:
    """Write one row a coefficient, in place of an earlier fit of that name and law. Returns the number of rows."""
    check_name(name)
    key = hashlib.sha256(json.dumps(fit.to_json(), sort_keys=True, allow_nan=False).encode()).hexdigest()
    rows = [
        {
            "run_id": f"scale-{name}",
            "key": key,
            "sweep": name,
            "law": fit.law,
            "parameter": parameter,
            "value": c.value,
            "low": finite(c.low),
            "high": finite(c.high),
            "n": fit.num_points,
            "method": fit.method,
        }
        for parameter, c in fit.coefficients.items()
    ]
    return home.tables.write("scaling_fits", f"scale-{name}-{fit.law}", rows)
