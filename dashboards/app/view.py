"""What a page shows, as data: blocks that the browser draws and tests read.

A page is a function from a home and an address to a `View`. Charts and tables bring the SQL that their rows come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Tone = Literal["", "good", "bad", "warn", "muted"]
# How the browser writes a value of a column.
Format = Literal[
    "text",
    "number",
    "count",
    "percent",
    "dollars",
    "duration",
    "time",
    "status",
    "spark",
    "verdict",
    "strategy",
    "model",
]


@dataclass(frozen=True)
class Control:
    """One input. `name` is its parameter in the address.

    type: select | multi | range | number | text | check. options: (value, label). low, high, step: of numbers; `log`: a
    slider moves along the logarithm.
    """

    name: str
    label: str
    type: Literal["select", "multi", "range", "number", "text", "check"]
    value: Any
    options: tuple[tuple[str, str], ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    log: bool = False
    format: Format = "number"


@dataclass(frozen=True)
class Controls:
    """Inputs in a row; a change is written to the address and asks for the view anew."""

    kind: ClassVar[str] = "controls"
    items: tuple[Control, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table. href: a pattern of the cell's link, with names of the row in braces: `/run?run={run_id}`.
    `low`, `high`: names of columns with the ends of the interval. hidden: there for links and copies alone."""

    name: str
    label: str = ""
    format: Format = "text"
    href: str = ""
    low: str = ""
    high: str = ""
    hidden: bool = False
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Rows as columns of equal length. select: rows can be chosen, by the values of this column. filter: a text box
    filters the rows."""

    kind: ClassVar[str] = "table"
    id: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Sequence[Any]]
    sql: str = ""
    note: str = ""
    select: str = ""
    filter: bool = False
    empty: str = "no rows"

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.rows.items()}
        missing = [column.name for column in self.columns if column.name not in lengths]
        if missing or len(set(lengths.values())) > 1:
            raise ValueError(f"table {self.id}: columns {missing or lengths}: all must be there, with equal lengths")


@dataclass(frozen=True)
class Chart:
    """A figure of plotly (`data`, `layout`), its rows as a table, and the SQL behind it. A point whose `customdata` is
    a text `name=value&…` changes the address when it is clicked. live: it is appended to while a stage runs."""

    kind: ClassVar[str] = "chart"
    id: str
    title: str
    figure: Mapping[str, Any]
    sql: str = ""
    note: str = ""
    height: int = 360
    live: bool = False


@dataclass(frozen=True)
class Fact:
    """A number with its name. `sql` explains where it comes from."""

    label: str
    value: str
    href: str = ""
    sql: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Facts:
    """Numbers in a row."""

    kind: ClassVar[str] = "facts"
    items: tuple[Fact, ...]
    title: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence, with links after it: (label, address)."""

    kind: ClassVar[str] = "note"
    text: str
    tone: Tone = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Text:
    """A text that a model or a person wrote. It is only ever shown as text."""

    heading: str
    text: str
    prompt: str = ""
    meta: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Texts:
    """Texts side by side."""

    kind: ClassVar[str] = "texts"
    title: str
    items: tuple[Text, ...]
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class TreeNode:
    """A node of a search tree; `parent` is a place in the list, None for the root."""

    text: str
    parent: int | None
    value: float | None = None
    status: str = ""


@dataclass(frozen=True)
class Tree:
    """A tree of thoughts, drawn as a tree."""

    kind: ClassVar[str] = "tree"
    title: str
    nodes: tuple[TreeNode, ...]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """What runs now: name, share done (0 to 1, None where it is not known), words beside it, link, what to stop."""

    kind: ClassVar[str] = "bars"
    title: str
    items: tuple[Bar, ...]


@dataclass(frozen=True)
class Bar:
    label: str
    share: float | None
    text: str
    href: str = ""
    stop: str = ""


@dataclass(frozen=True)
class Tool:
    """A part with a script of its own: the editor of SQL, the chat, the form that starts a run."""

    kind: ClassVar[str] = "tool"
    name: Literal["sql", "chat", "start"]
    data: Mapping[str, Any] = field(default_factory=dict)


Block = Controls | Table | Chart | Facts | Note | Texts | Tree | Bars | Tool


@dataclass(frozen=True)
class View:
    """A page. refresh: seconds after which the browser asks again, 0 for never. address: parameters that were filled
    in, so that the page can be shown again as it is."""

    title: str
    blocks: tuple[Block, ...]
    refresh: float = 0.0
    address: Mapping[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the browser gets it."""
        blocks = [{"kind": block.kind, **_plain(block)} for block in self.blocks]
        return {
            "title": self.title,
            "refresh": self.refresh,
            "address": dict(self.address),
            "links": [list(link) for link in self.links],
            "blocks": blocks,
        }


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, without what is at its default; rows and figures are left as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: _plain(found)
            for one in dataclasses.fields(value)
            if (found := getattr(value, one.name)) != one.default or one.name in ("value", "parent", "share")
        }
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def missing(title: str, why: str, *links: tuple[str, str]) -> View:
    """A page that has nothing to show, and says why and what to do."""
    return View(title, (Note(why, "muted", links),))
