"""Entries of a catalogue file, checked field by field: an error names file, entry and field, and what was found."""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CatalogueError(ValueError):
    """A catalogue or price file with something in it that cannot be taken."""


@dataclass(frozen=True)
class Entry:
    """One table of a TOML file, or one row of another file; `where` names it in errors."""

    where: str
    values: Mapping[str, Any]

    def check_names(self, known: Iterable[str]) -> None:
        """Raises CatalogueError for a field that is not known."""
        if unknown := sorted(set(self.values) - set(known)):
            raise CatalogueError(f"{self.where}: unknown field {unknown[0]!r}: known are {', '.join(sorted(known))}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; `default` where the field is absent."""
        found = self.values.get(name, default)
        if found == default and default is not None:
            return default
        if not (isinstance(found, str) and found.strip()):
            raise CatalogueError(f"{self.where}, {name}: takes a text, got {found!r}")
        return found.strip()

    def number(self, name: str) -> float:
        """A finite number above 0."""
        found = self.values.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
            raise CatalogueError(f"{self.where}, {name}: takes a number above 0, got {found!r}")
        return float(found)

    def optional_number(self, name: str) -> float | None:
        """As `number`; None where the field is absent."""
        return None if self.values.get(name) is None else self.number(name)

    def date(self, name: str = "date") -> str:
        """An ISO 8601 day that is not in the future, such as 2026-03-21."""
        return checked_date(self.values.get(name), f"{self.where}, {name}")


def checked_date(found: object, where: str) -> str:
    """`found` as an ISO 8601 day. Raises CatalogueError where it is none, or lies in the future."""
    text = found.isoformat() if isinstance(found, datetime.date) else found
    if text is None or text == "":
        raise CatalogueError(f"{where}: without a date a figure says nothing: give the day, such as 2026-03-21")
    try:
        day = datetime.date.fromisoformat(text) if isinstance(text, str) and len(text) == 10 else None
    except ValueError:
        day = None
    if day is None:
        raise CatalogueError(f"{where}: takes a day such as 2026-03-21, got {found!r}")
    if day > datetime.date.today():
        raise CatalogueError(f"{where}: {text} lies in the future")
    return day.isoformat()


def toml_entries(file: Path, table: str) -> Iterator[Entry]:
    """Entries of the array of tables `[[table]]`, the only content of a TOML file.

    Raises CatalogueError for a file that cannot be read or holds something else.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{file}: cannot be read as TOML: {error}") from None
    if stray := sorted(set(content) - {table}):
        raise CatalogueError(f"{file}: unknown table {stray[0]!r}: takes [[{table}]]")
    found = content.get(table)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise CatalogueError(f"{file}: holds no [[{table}]]")
    for number, values in enumerate(found, 1):
        name = values.get("name") or values.get("hardware") or ""
        yield Entry(f"{file}: [[{table}]] {number} ({name})" if name else f"{file}: [[{table}]] {number}", values)
