"""Wordings, read from `templates.toml` or a file of the user's in the same layout."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from components.data.files import SourceError

OURS = Path(__file__).parent / "templates.toml"
_PLACE = re.compile(r"\{(\w+)\}")
FORMS: Mapping[str, str] = {
    "number": "the final number",
    "choice": "the letter of the right option",
    "math": "the final expression",
    "game24": "the expression",
    "word": "one word",
    "code": "a block of code",
}


@dataclass(frozen=True)
class Template:
    """A wording. style: what it is for."""

    name: str
    style: str
    version: int
    text: str

    @property
    def digest(self) -> str:
        """Twelve digits of the sha256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """As reports and rows name it: "cot/1 3f0a…"."""
        return f"{self.name}/{self.version} {self.digest}"

    def fill(self, **values: object) -> str:
        """The text with its places filled, in one pass: braces in a question stay as they are, and so does a place that
        has no value."""
        return _PLACE.sub(lambda found: str(values.get(found[1], found[0])), self.text)


def form_of(scorer: str) -> str:
    """What an answer looks like that this scorer finds."""
    return FORMS.get(scorer, "the answer")


@cache
def read_templates(file: Path = OURS) -> Mapping[str, Template]:
    """By name. Raises SourceError that names file, entry and field."""
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("templates")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"{file}: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise SourceError(f"{file}: no [[templates]] in it")
    found: dict[str, Template] = {}
    for place, entry in enumerate(entries, start=1):
        for name, kind in (("name", str), ("style", str), ("version", int), ("text", str)):
            if not isinstance(entry.get(name), kind):
                raise SourceError(f"{file}, entry {place}: {name} is {entry.get(name)!r}; it takes a {kind.__name__}")
        if entry["name"] in found:
            raise SourceError(f"{file}, entry {place}: there is a {entry['name']!r} before it")
        if entry["style"] in ("direct", "cot") and "{question}" not in entry["text"]:
            raise SourceError(f"{file}, entry {place}: the text has no place for the {{question}}")
        found[entry["name"]] = Template(entry["name"], entry["style"], entry["version"], entry["text"])
    return found


def template(name: str, style: str, file: Path | None = None) -> Template:
    """The wording of that name; of the user's file, where that has it. Raises SourceError where there is none."""
    known = {**read_templates(), **(read_templates(file) if file else {})}
    if name not in known or known[name].style != style:
        there = ", ".join(one.name for one in known.values() if one.style == style)
        raise SourceError(f"there is no template {name!r} of the style {style}: take one of {there}")
    return known[name]


def wordings(style: str, file: Path | None = None) -> list[Template]:
    """All of a style."""
    known = {**read_templates(), **(read_templates(file) if file else {})}
    return [one for one in known.values() if one.style == style]
