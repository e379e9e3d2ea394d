"""What a section of the report is made of: a sentence, effects, and compact tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.chosen import ChosenSetting
from dashboards.facts.effects import Effect
from dashboards.facts.texts import Text


@dataclass(frozen=True)
class Table:
    """Cells are text already. `align`: the side of each column, "<>>" for a name and two numbers on the right.
    folded: it repeats what a figure shows, so the page opens it on demand."""

    title: str
    columns: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the life. `meaning`: one sentence; `missing`: why there is nothing else; `texts`: what a model wrote.
    Slug and titles are those of the part (`dashboards.parts`), which the report fills in."""

    meaning: str = ""
    tables: tuple[Table, ...] = ()
    effects: tuple[Effect, ...] = ()
    texts: tuple[Text, ...] = ()
    missing: str = ""
    slug: str = ""
    title: str = ""
    short_title: str = ""


def body(
    meaning: str, tables: Iterable[Table], effects: tuple[Effect, ...] = (), texts: tuple[Text, ...] = ()
) -> Section:
    """A section without the tables that have no rows."""
    return Section(meaning, tuple(table for table in tables if table.rows), effects, texts)


def listing(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """Name and value a row; what is missing is left out."""
    return Table(title, ("what", "value"), "<>", tuple(pair for pair in pairs if pair[1] != formatting.MISSING))


def chosen_table(chosen: Iterable[ChosenSetting]) -> Table:
    """The settings that were chosen so that effects show."""
    rows = tuple((one.setting, one.value, one.reason) for one in chosen)
    return Table("Settings that were chosen so that effects show", ("setting", "value", "why"), "<<<", rows)


def effect_of(effects: tuple[Effect, ...], slug: str) -> Effect | None:
    return next((effect for effect in effects if effect.slug == slug), None)


def said(effect: Effect | None, seen: str, unseen: str) -> str:
    """The sentence that the verdict allows."""
    if effect is None or effect.verdict == "not measured":
        return "This effect was not measured in this run."
    return seen if effect.seen else f"{unseen} The run does not show the effect beyond its interval."


def counted(x: Interval | None) -> str:
    """How many an interval rests on."""
    return formatting.MISSING if x is None or not x.n else f"{x.n:,}"
