"""From sources to a corpus: read, mend, filter, mask, de-duplicate, decontaminate, split; everything is counted.

1. Documents stream through all that looks at one at a time, some hundred together, and are spooled to disk part by
   part. A reading that was killed goes on behind the last whole part.
2. Exact duplicates, spans that documents share, and near duplicates are looked for among what was spooled. Which copy
   stays does not depend on the order of the input.
3. What is left is searched for items of the evaluation sets, split by document, and written.

Memory holds some hundred documents, and of all others about a hundred bytes each.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fsspec.spec import AbstractFileSystem

from components.data.cards import SourceCard, SourceCards
from components.data.corpus import (
    CORPUS_SCHEMA,
    CorpusWriter,
    PreparedDocument,
    read_corpus,
    split_of,
    write_corpus,
)
from components.data.data_config import DataConfig, Edit, Filter, marks_of, steps_of
from components.data.decontaminate import EvalIndex
from components.data.dedup import NearDuplicates, content_hash
from components.data.document import Document
from components.data.files import Noted
from components.data.filters.language import Language, check_languages, language_reasons, languages_of
from components.data.funnel import Counts, FunnelRow, Removal
from components.data.normalise import normalise
from components.data.personal import mask_personal, may_hold_personal
from components.data.repair import repair
from components.data.repeated import without_repeated
from components.data.source_config import SourceConfig
from components.data.sources import Generator, Quarantined, read_source
from components.data.spool import Spool

__all__ = [
    "CORPUS_SCHEMA", "DataConfig", "Edit", "Filter", "FunnelRow", "Prepared", "PreparedDocument", "prepare",
    "prepare_to", "read_corpus", "split_of", "steps_of", "write_corpus",
]  # fmt: skip

CORPUS = "documents.parquet"
_BATCH = 512
_PART_DOCUMENTS = 65_536
_PART_CHARS = 64 << 20


@dataclass(frozen=True)
class Overlap:
    """A training document that was removed because it holds an evaluation prompt, or the solution of one."""

    document_id: str
    item: str
    overlap: str


@dataclass(frozen=True)
class Prepared:
    """documents: only where `prepare` gathered them; else they are in the corpus file."""

    num_documents: int
    num_bytes: int
    funnel: tuple[FunnelRow, ...]  # by source in the order of the config, then by step
    quarantined: tuple[Quarantined, ...]
    masked: Mapping[str, int]  # kind of personal data -> occurrences
    removals: tuple[Removal, ...]
    overlaps: tuple[Overlap, ...]
    num_items_too_short: int  # evaluation prompts and solutions that say too little to be looked for
    cards: tuple[SourceCard, ...]
    documents: tuple[PreparedDocument, ...] = ()

    @property
    def num_duplicates(self) -> int:
        """Documents removed because they are, or nearly are, another one."""
        steps = ("exact duplicates", "near duplicates")
        return sum(sum(row.removed.values()) for row in self.funnel if row.step in steps)

    @property
    def num_contaminated(self) -> int:
        return sum(sum(row.removed.values()) for row in self.funnel if row.step == "decontaminate")


def prepare(
    config: DataConfig,
    eval_prompts: Sequence[str] = (),
    eval_solutions: Sequence[str] = (),
    filesystem: AbstractFileSystem | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> Prepared:
    """`prepare_to` for a corpus that fits into memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        prepared = prepare_to(out, out / "scratch", config, eval_prompts, eval_solutions, filesystem, generators)
        return replace(prepared, documents=tuple(read_corpus(out / CORPUS)))


def prepare_to(
    out: Path,
    scratch: Path,
    config: DataConfig,
    eval_prompts: Sequence[str] = (),
    eval_solutions: Sequence[str] = (),
    filesystem: AbstractFileSystem | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> Prepared:
    """Write the corpus to `out`/documents.parquet. Documents go that hold a prompt or a solution of the evaluation set.

    `scratch` holds what is needed to go on after a kill; the caller removes it. `filesystem` and `generators` are
    passed to `read_source`.

    Raises SourceError for a source that gives nothing or too much that is broken, and ValueError when the steps leave
    nothing of one: what was removed and why is in the message.
    """
    steps = steps_of(config)
    check_languages(config.languages)
    spool = Spool(scratch / "read")
    reading = _Reading.restored(spool.state())
    if not reading.done:
        _read_all(config, spool, reading, filesystem, generators)
    counts = reading.counts

    generated = {source.name for source in config.all_sources if source.generated}
    twice = _exact_duplicates(spool, [source.name for source in config.all_sources])
    if config.repeated:
        spool = _without_repeated(spool, twice, config, counts, generated, scratch)
        twice = np.zeros(_size(spool), dtype=np.bool_)
    near = _near_duplicates(spool, twice, config, generated, scratch)

    # 3. Evaluation prompts and solutions, the split, the file.
    items = [*eval_prompts, *eval_solutions]
    indexes = {whole: EvalIndex(items, config.decontamination, whole) for whole in (False, True)}
    overlaps: list[Overlap] = []
    cards = SourceCards(config.all_sources)
    num_bytes = start = 0
    with CorpusWriter(out / CORPUS) as writer:
        for documents, _ in spool.batches():
            rows = slice(start, start + len(documents))
            start += len(documents)
            if not config.repeated:
                documents = _dropped(counts, "exact duplicates", documents, twice[rows], "duplicate")
                kept = ~twice[rows]
            else:
                kept = np.ones(len(documents), dtype=np.bool_)
            documents = _dropped(counts, "near duplicates", documents, near[rows][kept], "near duplicate")
            reasons, details = [""] * len(documents), [""] * len(documents)
            for whole, index in indexes.items():
                chosen = [i for i, document in enumerate(documents) if (document.source in generated) == whole]
                for hit in index.search(documents[i].text for i in chosen):
                    at = chosen[hit.document]
                    what = "prompt" if hit.item < len(eval_prompts) else "solution"
                    reasons[at], details[at] = f"holds an evaluation {what}", hit.overlap
                    overlaps.append(Overlap(documents[at].id, items[hit.item], hit.overlap))
            for document in counts.passed("decontaminate", documents, reasons, details):
                split = split_of(document.id, config.valid_share)
                writer.write(PreparedDocument(document.text, document.source, document.id, split))
                num_bytes += cards.add(document, split)

    funnel = counts.funnel([source.name for source in config.all_sources], steps)
    _refuse_empty(config, funnel, cards)
    return Prepared(
        num_documents=writer.count,
        num_bytes=num_bytes,
        funnel=funnel,
        quarantined=tuple(reading.quarantined),
        masked=dict(reading.masked),
        removals=tuple(counts.removals),
        overlaps=tuple(overlaps),
        num_items_too_short=indexes[False].num_too_short,
        cards=cards.made(),
    )


# -- 1. one document at a time ----------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """How far the reading is, and what it found; saved with every part."""

    counts: Counts
    masked: Counter[str]
    quarantined: list[Quarantined]
    items: int = 0  # taken from the sources so far
    parts: int = 0
    done: bool = False

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> _Reading:
        if not saved:
            return cls(Counts(), Counter(), [])
        quarantined = [(Noted if noted else Quarantined)(**row) for noted, row in saved["quarantined"]]
        counts = Counts.restored(saved["counts"])
        return cls(counts, Counter(saved["masked"]), quarantined, saved["items"], saved["parts"], saved["done"])

    def saved(self) -> dict[str, Any]:
        quarantined = [[isinstance(row, Noted), asdict(row)] for row in self.quarantined]
        return {
            "counts": self.counts.saved(),
            "masked": dict(self.masked),
            "quarantined": quarantined,
            "items": self.items,
            "done": self.done,
        }


def _read_all(
    config: DataConfig,
    spool: Spool,
    reading: _Reading,
    filesystem: AbstractFileSystem | None,
    generators: Mapping[str, Generator] | None,
) -> None:
    behind = reading.items  # what an earlier, killed attempt has spooled
    held: list[Document] = []
    digests: list[bytes] = []
    chars = seen = 0
    for source in config.all_sources:
        stream = read_source(source, filesystem, generators)
        while batch := list(islice(stream, _BATCH)):
            seen += len(batch)
            if seen <= behind:
                continue
            reading.items = seen
            reading.quarantined += [item for item in batch if isinstance(item, Quarantined)]
            documents = _cleaned([item for item in batch if isinstance(item, Document)], source, config, reading)
            held += documents
            digests += [content_hash(document.text) for document in documents]
            chars += sum(len(document.text) for document in documents)
            if len(held) >= _PART_DOCUMENTS or chars >= _PART_CHARS:
                spool.write(reading.parts, held, digests, reading.saved())
                reading.parts += 1
                held, digests, chars = [], [], 0
    reading.done = True
    spool.write(reading.parts, held, digests, reading.saved())


def _cleaned(documents: list[Document], source: SourceConfig, config: DataConfig, reading: _Reading) -> list[Document]:
    """Mended, filtered and masked; generated text is only normalised, and passes every step."""
    counts = reading.counts
    counts.keep("read", documents)
    if config.repair and not source.generated:
        mended = [repair(document.text) for document in documents]
        counts.changed("normalise", source.name, sum(a != b.text for a, b in zip(mended, documents, strict=True)))
    else:
        mended = [document.text for document in documents]
    documents = [replace(document, text=normalise(text)) for document, text in zip(documents, mended, strict=True)]
    documents = counts.passed("normalise", documents, ["" if document.text else "empty" for document in documents])
    found = [Language("", 0.0)] * len(documents)
    if not source.generated:
        found = languages_of([document.text for document in documents], config.languages)
        documents = [
            replace(document, language=one.code, language_score=one.score)
            for document, one in zip(documents, found, strict=True)
        ]
    documents = counts.passed("language", documents, language_reasons(found, config.languages))
    marks: list[tuple[str, Any]] = [*marks_of(type(config), Edit), *marks_of(type(config), Filter)]
    order = list(type(config).__dataclass_fields__)
    for name, mark in sorted(marks, key=lambda pair: order.index(pair[0])):
        settings = getattr(config, name)
        texts = [document.text for document in documents]
        reasons = [""] * len(documents)
        if not settings or source.generated:
            pass
        elif isinstance(mark, Edit):
            edited = mark.edited(texts, settings)
            counts.changed(mark.step, source.name, sum(a != b for a, b in zip(edited, texts, strict=True) if a))
            reasons = ["" if text else "nothing is left" for text in edited]
            documents = [
                replace(document, text=text or document.text) for document, text in zip(documents, edited, strict=True)
            ]
        else:
            reasons = mark.reasons(texts, settings, [document.language for document in documents])
        documents = counts.passed(mark.step, documents, reasons)
    if config.mask_personal and not source.generated:
        looked = may_hold_personal([document.text for document in documents])
        documents = [
            _masked(document, reading.masked) if holds else document
            for document, holds in zip(documents, looked, strict=True)
        ]
    return documents


def _masked(document: Document, masked: Counter[str]) -> Document:
    text, personal = mask_personal(document.text)
    masked.update(personal)
    return replace(document, text=text) if personal else document


# -- 2. among documents -----------------------------------------------------------------------------------------------


def _size(spool: Spool) -> int:
    return sum(len(columns["id"]) for columns in spool.columns("id"))


def _exact_duplicates(spool: Spool, sources: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which documents are copies of one that stays: that of the first source, and there the one with the smallest
    id."""
    rank = {name: place for place, name in enumerate(sources)}
    raw = bytearray()
    ranks: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    ids: list[npt.NDArray[np.uint64]] = [np.zeros(0, dtype=np.uint64)]
    for columns in spool.columns("digest", "source", "id"):
        raw += b"".join(columns["digest"])
        ranks.append(np.array([rank[source] for source in columns["source"]]))
        ids.append(np.array([int(one[:16], 16) for one in columns["id"]], dtype=np.uint64))
    halves = np.frombuffer(bytes(raw), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((np.concatenate(ids), np.concatenate(ranks), halves[:, 1], halves[:, 0]))
    same = (halves[order][1:] == halves[order][:-1]).all(axis=1)
    twice = np.zeros(len(halves), dtype=np.bool_)
    twice[order[1:][same]] = True
    return twice


def _without_repeated(
    spool: Spool,
    twice: npt.NDArray[np.bool_],
    config: DataConfig,
    counts: Counts,
    generated: set[str],
    scratch: Path,
) -> Spool:
    """The documents without copies and without what they share, spooled anew."""
    assert config.repeated is not None
    step = "repeated spans"

    def texts() -> Iterator[tuple[str, bytes]]:
        start = 0
        for documents, digests in spool.batches():
            for place, (document, digest) in enumerate(zip(documents, digests, strict=True), start=start):
                if not twice[place] and document.source not in generated:
                    yield document.text, digest
            start += len(documents)

    cut = without_repeated(texts, config.repeated)
    out = Spool(scratch / "cut")
    start = 0
    for part, (batch, _) in enumerate(spool.batches()):
        documents = _dropped(counts, "exact duplicates", batch, twice[start : start + len(batch)], "duplicate")
        start += len(batch)
        edited = [document.text if document.source in generated else next(cut) for document in documents]
        for document, text in zip(documents, edited, strict=True):
            counts.changed(step, document.source, int(bool(text) and text != document.text))
        reasons = ["" if text else "nothing of its own" for text in edited]
        documents = [
            replace(document, text=text or document.text) for document, text in zip(documents, edited, strict=True)
        ]
        documents = counts.passed(step, documents, reasons)
        out.write(part, documents, [content_hash(document.text) for document in documents], {})
    return out


def _near_duplicates(
    spool: Spool, twice: npt.NDArray[np.bool_], config: DataConfig, generated: set[str], scratch: Path
) -> npt.NDArray[np.bool_]:
    """Which documents of found text are nearly the same as a longer one, or one with a smaller content hash."""
    near = np.zeros(len(twice), dtype=np.bool_)
    if config.near_duplicates is None:
        return near
    lengths: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    places: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    raw = bytearray()
    start = 0
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        NearDuplicates(Path(folder), config.near_duplicates) as search,
    ):
        for documents, digests in spool.batches():
            chosen = [
                i for i, document in enumerate(documents) if document.source not in generated and not twice[start + i]
            ]
            texts = [documents[i].text for i in chosen]
            if texts:
                search.add(texts)
                raw += b"".join(digests[i] for i in chosen)
                lengths.append(np.array([len(text) for text in texts]))
                places.append(start + np.array(chosen))
            start += len(documents)
        found = search.groups(np.concatenate(lengths).tolist(), bytes(raw))
    near[np.concatenate(places)[list(found)]] = True
    return near


def _dropped(
    counts: Counts, step: str, documents: Sequence[Document], gone: npt.NDArray[np.bool_], reason: str
) -> list[Document]:
    return counts.passed(step, documents, [reason if one else "" for one in gone.tolist()])


def _refuse_empty(config: DataConfig, funnel: Sequence[FunnelRow], cards: SourceCards) -> None:
    for source in config.all_sources:
        rows = [row for row in funnel if row.source == source.name]
        if rows[-1].num_documents == 0:
            reasons = sum((Counter(row.removed) for row in rows), Counter[str]())
            listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(5))
            raise ValueError(
                f"data source {source.name!r}: of {rows[0].num_documents} documents none is left ({listed}); "
                "loosen the filter that removed them, or drop the source"
            )
        if not cards.has_training_text(source.name):
            raise ValueError(
                f"data source {source.name!r}: all of it fell to validation, which takes data.valid_share = "
                f"{config.valid_share:g} of the documents: give it as more than one document, or set the share to 0"
            )
