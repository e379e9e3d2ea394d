"""What each step left of each source, why the rest went, and examples of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.data.document import Document
from components.data.personal import mask_personal

MAX_REMOVALS = 20  # examples for each source, step and reason
_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class FunnelRow:
    """What one step left of one source, and why the rest went."""

    source: str
    step: str  # one of `steps_of`
    num_documents: int
    num_bytes: int
    removed: Mapping[str, int]  # reason -> documents
    num_changed: int = 0  # documents that stayed in another form


@dataclass(frozen=True)
class Removal:
    """An example of what a step removed: a row of the table `removals`. excerpt: its beginning, personal data
    masked."""

    source: str
    document_id: str
    origin: str
    step: str
    reason: str
    detail: str
    excerpt: str


class Counts:
    """Counts of every source and step so far; `saved` and `restored` carry them over a kill."""

    def __init__(self) -> None:
        self._left: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._changed: Counter[tuple[str, str]] = Counter()
        self._removed: dict[tuple[str, str], Counter[str]] = {}
        self.removals: list[Removal] = []

    def keep(self, step: str, documents: Sequence[Document]) -> None:
        for document in documents:
            self._left[document.source, step] += 1
            text = document.text
            size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            self._bytes[document.source, step] += size

    def changed(self, step: str, source: str, count: int) -> None:
        self._changed[source, step] += count

    def passed(
        self, step: str, documents: Sequence[Document], reasons: Sequence[str], details: Sequence[str] = ()
    ) -> list[Document]:
        """The documents without a reason to go; the others are counted, and some of them kept as examples."""
        kept = []
        for place, (document, reason) in enumerate(zip(documents, reasons, strict=True)):
            if not reason:
                kept.append(document)
                continue
            removed = self._removed.setdefault((document.source, step), Counter())
            removed[reason] += 1
            if removed[reason] <= MAX_REMOVALS:
                excerpt = mask_personal(document.text[: 2 * _EXCERPT_CHARS])[0][:_EXCERPT_CHARS].strip()
                detail = details[place] if details else ""
                self.removals.append(
                    Removal(document.source, document.id, document.origin, step, reason, detail, excerpt)
                )
        self.keep(step, kept)
        return kept

    def funnel(self, sources: Sequence[str], steps: Sequence[str]) -> tuple[FunnelRow, ...]:
        return tuple(
            FunnelRow(*key, self._left[key], self._bytes[key], dict(self._removed.get(key, {})), self._changed[key])
            for key in ((source, step) for source in sources for step in steps)
        )

    def saved(self) -> dict[str, Any]:
        """As JSON."""
        counters = (self._left, self._bytes, self._changed)
        return {
            "counters": [[[*key, count] for key, count in counter.items()] for counter in counters],
            "removed": [[*key, dict(reasons)] for key, reasons in self._removed.items()],
            "removals": [asdict(removal) for removal in self.removals],
        }

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Counts:
        counts = cls()
        if saved:
            for counter, rows in zip((counts._left, counts._bytes, counts._changed), saved["counters"], strict=True):
                counter.update({(source, step): count for source, step, count in rows})
            counts._removed = {(source, step): Counter(reasons) for source, step, reasons in saved["removed"]}
            counts.removals = [Removal(**row) for row in saved["removals"]]
        return counts
