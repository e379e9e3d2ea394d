"""The settings of a corpus, and the steps that follow from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_type_hints

from components.data.decontaminate import DecontaminationConfig
from components.data.dedup import DedupConfig
from components.data.filters.quality import QualityConfig, quality_reasons
from components.data.filters.web_rules import C4Config, FineWebConfig, c4_lines, c4_reasons, fineweb_reasons
from components.data.repeated import RepeatedConfig
from components.data.source_config import SourceConfig


@dataclass(frozen=True)
class Filter:
    """Marks the field of `DataConfig` that holds a filter's settings: there it is registered, and nowhere else.

    step: its name in the funnel. reasons: given texts, the field's value and the language of each text, says for each
    in a short phrase that can be counted why it goes, or nothing when it stays. It is not called where the value is
    None or empty, which switches the filter off.
    """

    step: str
    reasons: Callable[[Sequence[str], Any, Sequence[str]], list[str]]


@dataclass(frozen=True)
class Edit:
    """As `Filter`, for a step that changes texts: `edited` gives each text's new form. One that is left empty goes."""

    step: str
    edited: Callable[[Sequence[str], Any], list[str]]


@dataclass(frozen=True)
class DataConfig:
    """What goes into a corpus. All but the exact duplicates and the decontamination is for found text, not for
    generated.

    Edits and filters run in the order of their fields, behind the language: "few stop words" would hide the true
    reason.

    own: more sources in short, each a file, folder, pattern or fsspec URL of text, pages, archives or records (field or
    column ``text``), with `own_weight` each as its share of training windows.
    """

    sources: tuple[SourceConfig, ...] = ()
    own: tuple[str, ...] = ()
    own_weight: float = 0.25
    repair: bool = True  # mojibake and HTML entities
    languages: tuple[str, ...] = ("en",)  # ISO 639-1; empty: any
    c4: Annotated[C4Config | None, Edit("C4 lines", c4_lines), Filter("C4 pages", c4_reasons)] = None
    quality: Annotated[QualityConfig | None, Filter("quality", quality_reasons)] = field(default_factory=QualityConfig)
    fineweb: Annotated[FineWebConfig | None, Filter("FineWeb pages", fineweb_reasons)] = None
    mask_personal: bool = True
    repeated: RepeatedConfig | None = None  # lines, paragraphs and runs of words that documents share
    near_duplicates: DedupConfig | None = field(default_factory=DedupConfig)  # None: off
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    valid_share: float = 0.05  # of documents

    def __post_init__(self) -> None:
        names = Counter(source.name for source in self.all_sources)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"data source {twice[0]!r} is named twice")
        if not 0 <= self.valid_share < 1:
            raise ValueError(f"valid_share is {self.valid_share}; it takes a number from 0 to below 1")

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """`sources`, and those of `own`, each named after its file or folder."""
        own = (SourceConfig(_stem(path), "files", path, weight=self.own_weight) for path in self.own)
        return (*self.sources, *own)

    @property
    def weights_by_source(self) -> dict[str, float]:
        return {source.name: source.weight for source in self.all_sources}


_Mark = TypeVar("_Mark")


def marks_of(config: type[DataConfig], kind: type[_Mark]) -> list[tuple[str, _Mark]]:
    """(field, mark) of the fields with a mark of that kind, in the order in which they run."""
    hints = get_type_hints(config, include_extras=True).items()
    marks = ((name, mark) for name, hint in hints for mark in getattr(hint, "__metadata__", ()))
    return [(name, mark) for name, mark in marks if isinstance(mark, kind)]


def steps_of(config: DataConfig) -> tuple[str, ...]:
    """The steps of the funnel, in the order in which they run; those that are off by default only where they are on.

    Raises ValueError for two of one name.
    """
    marks: list[tuple[str, Any]] = [*marks_of(type(config), Edit), *marks_of(type(config), Filter)]
    fields = type(config).__dataclass_fields__
    order = list(fields)
    shown = [(name, mark) for name, mark in marks if getattr(config, name) or fields[name].default is not None]
    steps = (
        "read",
        "normalise",
        "language",
        *(mark.step for _, mark in sorted(shown, key=lambda pair: order.index(pair[0]))),
        "exact duplicates",
        *(["repeated spans"] if config.repeated else []),
        "near duplicates",
        "decontaminate",
    )
    if twice := [step for step, count in Counter(steps).items() if count > 1]:
        raise ValueError(f"two steps of the data funnel are called {twice[0]!r}: give the filter another name")
    return steps


def _stem(path: str) -> str:
    """The last part of a path that is not a pattern, without its ending; of an address no user, password or token."""
    if "://" in path:
        path = re.split("[?#]", path.rpartition("://")[2])[0]
        path = re.sub("^[^/]*@", "", path)
    parts = [part for part in path.split("/") if part.strip(".") and not any(c in part for c in "*?[")]
    return parts[-1].partition(".")[0] or parts[-1] if parts else "own"
