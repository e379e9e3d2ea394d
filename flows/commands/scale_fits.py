"""What the commands of `lifespan scale` share: fits from files, numbers with intervals as words and as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import friendly_errors

if TYPE_CHECKING:
    from components.scaling.table_fit import TableFit

FitFile = Annotated[Path, typer.Argument(help="What `lifespan scale fit --output` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Mistakes in the table, the file or the options end in one line, with the code of bad input."""
    from flows.settings import ConfigError

    with friendly_errors():
        try:
            yield
        except (ValueError, OverflowError) as error:
            raise ConfigError(str(error)) from None


def read_fit(file: Path) -> TableFit:
    from components.scaling.table_fit import TableFit

    try:
        return TableFit.from_json(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{file}: {error}") from None


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    from storage.durable import replacing

    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def given(**values: float | None) -> dict[str, float]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def convention_words(fitted: TableFit) -> str:
    return fitted.convention.replace("_", " ")


def finite_or_none(value: float) -> float | None:
    from storage.json_values import finite

    return finite(value)


def interval_json(value: Any) -> dict[str, Any]:
    return {"value": finite_or_none(value.value), "low": finite_or_none(value.low), "high": finite_or_none(value.high)}


def range_words(value: Any, form: str) -> str:
    low, high = ("unbounded" if finite_or_none(x) is None else format(x, form) for x in (value.low, value.high))
    return f"[{low}, {high}]"


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, allow_nan=False))
