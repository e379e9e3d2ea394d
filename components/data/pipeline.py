"""From sources to a corpus: read, normalise, filter, mask, de-duplicate, decontaminate, split; everything is counted.

Cheap steps run before expensive ones, and documents stream up to near-duplicate removal, which has to see them all:
what the budgets let through is held in memory. The split is a hash of a document's id, so adding or dropping a source
or a document moves no other one between training and validation.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem

from components.data.decontaminate import DecontaminationConfig, EvalIndex
from components.data.dedup import DedupConfig, content_hash, near_duplicates
from components.data.filters.language import language_reason
from components.data.filters.quality import QualityConfig, quality_reason
from components.data.normalise import normalise
from components.data.personal import mask_personal
from components.data.sources import Document, Generator, Quarantined, SourceConfig, read_source

CORPUS_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "split", "text")])


@dataclass(frozen=True)
class Filter:
    """Marks the field of `DataConfig` that holds a filter's settings: there it is registered, and nowhere else.

    step: its name in the funnel. reason: given a text, the field's value and the languages of the corpus, says in a
    short phrase that can be counted why the document goes, or nothing when it stays. It is not called where the
    value is None or empty, which switches the filter off.
    """

    step: str
    reason: Callable[[str, Any, Sequence[str]], str]


@dataclass(frozen=True)
class DataConfig:
    """What goes into a corpus. Filters, masking and near duplicates apply to found text, not to generated.

    Filters run in the order of their fields. The language comes first: one rule of quality looks for English words,
    and "few stop words" would hide the true reason.

    own: more sources in short, each a file, folder, pattern or fsspec URL of text, JSON lines (field ``text``) or
    Parquet (column ``text``), with `own_weight` each as its share of training windows.
    """

    sources: tuple[SourceConfig, ...] = ()
    own: tuple[str, ...] = ()
    own_weight: float = 0.25
    languages: Annotated[tuple[str, ...], Filter("language", language_reason)] = ("en",)  # ISO 639-1; empty: any
    quality: Annotated[QualityConfig | None, Filter("quality", quality_reason)] = field(default_factory=QualityConfig)
    mask_personal: bool = True
    near_duplicates: DedupConfig | None = field(default_factory=DedupConfig)  # None: off
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    valid_share: float = 0.05

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


def filters_of(config: type[DataConfig]) -> dict[str, Filter]:
    """The filters by the name of their field, in the order in which they run."""
    hints = get_type_hints(config, include_extras=True).items()
    marks = ((name, mark) for name, hint in hints for mark in getattr(hint, "__metadata__", ()))
    return {name: mark for name, mark in marks if isinstance(mark, Filter)}


def steps_of(config: type[DataConfig]) -> tuple[str, ...]:
    """The steps of the funnel, in the order in which they run. Raises ValueError for two of one name."""
    filters = (found.step for found in filters_of(config).values())
    steps = ("read", "normalise", *filters, "exact duplicates", "near duplicates", "decontaminate")
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


@dataclass(frozen=True)
class PreparedDocument:
    text: str
    source: str
    id: str
    split: str  # train or valid


@dataclass(frozen=True)
class FunnelRow:
    """What one step left of one source, and why the rest went."""

    source: str
    step: str  # one of `steps_of`
    num_documents: int
    num_bytes: int
    removed: Mapping[str, int]  # reason -> documents


@dataclass(frozen=True)
class Overlap:
    """A training document that was removed because it holds an evaluation prompt, or the solution of one."""

    document_id: str
    item: str
    overlap: str


@dataclass(frozen=True)
class Prepared:
    documents: tuple[PreparedDocument, ...]
    funnel: tuple[FunnelRow, ...]  # by source in the order of the config, then by step
    quarantined: tuple[Quarantined, ...]
    masked: Mapping[str, int]  # kind of personal data -> occurrences
    overlaps: tuple[Overlap, ...]
    num_items_too_short: int  # evaluation prompts and solutions that say too little to be looked for

    @property
    def num_duplicates(self) -> int:
        """Documents removed because they are, or nearly are, another one."""
        steps = ("exact duplicates", "near duplicates")
        return sum(sum(row.removed.values()) for row in self.funnel if row.step in steps)


def prepare(
    config: DataConfig,
    eval_prompts: Sequence[str] = (),
    eval_solutions: Sequence[str] = (),
    filesystem: AbstractFileSystem | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> Prepared:
    """Build the corpus. Documents go that hold a prompt or a solution of the evaluation set. `filesystem` and
    `generators` are passed to `read_source`.

    Raises SourceError for a source that gives nothing and ValueError when the steps leave nothing of one: what was
    removed and why is in the message.
    """
    filters, steps = filters_of(type(config)), steps_of(type(config))
    counts = _Counts()
    quarantined: list[Quarantined] = []
    masked: Counter[str] = Counter()

    # 1. Everything that looks at one document at a time.
    documents: list[Document] = []
    seen: set[bytes] = set()
    for source in config.all_sources:
        for item in read_source(source, filesystem, generators):
            if isinstance(item, Quarantined):
                quarantined.append(item)
                continue
            counts.keep("read", item)
            document = replace(item, text=normalise(item.text))
            if not counts.passed("normalise", document, "" if document.text else "empty"):
                continue
            reasons = _reasons(document, source, config, filters)
            if not all(counts.passed(step, document, reason) for step, reason in reasons):
                continue
            if config.mask_personal and not source.generated:
                text, personal = mask_personal(document.text)
                masked.update(personal)
                document = replace(document, text=text)
            digest = content_hash(document.text)
            if counts.passed("exact duplicates", document, "duplicate" if digest in seen else ""):
                seen.add(digest)
                documents.append(document)

    # 2. Near duplicates among all found text.
    generated = {source.name for source in config.all_sources if source.generated}
    found = [i for i, document in enumerate(documents) if document.source not in generated]
    copies: set[int] = set()
    if config.near_duplicates:
        copies = {found[i] for i in near_duplicates((documents[i].text for i in found), config.near_duplicates)}
    documents = [
        document
        for i, document in enumerate(documents)
        if counts.passed("near duplicates", document, "near duplicate" if i in copies else "")
    ]

    # 3. Evaluation prompts and solutions.
    items = [*eval_prompts, *eval_solutions]
    contaminated: dict[int, tuple[str, Overlap]] = {}  # what it holds, and where
    too_short = 0
    for whole_items in (False, True):
        chosen = [i for i, document in enumerate(documents) if (document.source in generated) == whole_items]
        index = EvalIndex(items, config.decontamination, whole_items)
        too_short = index.num_too_short
        for hit in index.search(documents[i].text for i in chosen):
            at = chosen[hit.document]
            what = "holds an evaluation prompt" if hit.item < len(eval_prompts) else "holds an evaluation solution"
            contaminated[at] = what, Overlap(documents[at].id, items[hit.item], hit.overlap)
    kept = [
        PreparedDocument(document.text, document.source, document.id, split_of(document.id, config.valid_share))
        for i, document in enumerate(documents)
        if counts.passed("decontaminate", document, contaminated[i][0] if i in contaminated else "")
    ]

    funnel = counts.funnel([source.name for source in config.all_sources], steps)
    _refuse_empty(config, funnel)
    return Prepared(
        documents=tuple(kept),
        funnel=funnel,
        quarantined=tuple(quarantined),
        masked=dict(masked),
        overlaps=tuple(contaminated[i][1] for i in sorted(contaminated)),
        num_items_too_short=too_short,
    )


def _reasons(
    document: Document, source: SourceConfig, config: DataConfig, filters: Mapping[str, Filter]
) -> Iterator[tuple[str, str]]:
    """Each filter's step and why it rejects the document, one after the other; generated text passes them all."""
    for name, found in filters.items():
        settings = getattr(config, name)
        applies = settings and not source.generated
        yield found.step, found.reason(document.text, settings, config.languages) if applies else ""


class _Counts:
    def __init__(self) -> None:
        self._documents: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._removed: dict[tuple[str, str], Counter[str]] = {}

    def keep(self, step: str, document: Document) -> None:
        self._documents[document.source, step] += 1
        self._bytes[document.source, step] += len(document.text.encode("utf-8", "replace"))

    def passed(self, step: str, document: Document, reason: str) -> bool:
        if reason:
            self._removed.setdefault((document.source, step), Counter())[reason] += 1
        else:
            self.keep(step, document)
        return not reason

    def funnel(self, sources: Sequence[str], steps: Sequence[str]) -> tuple[FunnelRow, ...]:
        keys = [(source, step) for source in sources for step in steps]
        return tuple(
            FunnelRow(*key, self._documents[key], self._bytes[key], dict(self._removed.get(key, {}))) for key in keys
        )


def _refuse_empty(config: DataConfig, funnel: Sequence[FunnelRow]) -> None:
    for source in config.all_sources:
        rows = [row for row in funnel if row.source == source.name]
        if rows[-1].num_documents == 0:
            reasons = sum((Counter(row.removed) for row in rows), Counter[str]())
            listed = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(5))
            raise ValueError(
                f"data source {source.name!r}: of {rows[0].num_documents} documents none is left ({listed}); "
                "loosen the filter that removed them, or drop the source"
            )


def split_of(document_id: str, valid_share: float) -> str:
    """``valid`` for the share of ids whose hash falls below it, else ``train``; a function of the id alone."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "replace"), digest_size=8).digest()
    return "valid" if int.from_bytes(digest, "big") < valid_share * 2**64 else "train"


# -- the corpus as a file ---------------------------------------------------------------------------------------------


def write_corpus(documents: Iterable[PreparedDocument], file: str | Path, rows_per_group: int = 4096) -> int:
    """Write documents as Parquet (id, source, split, text); returns how many."""
    count = 0
    with pq.ParquetWriter(file, CORPUS_SCHEMA, compression="zstd") as writer:
        rows: list[dict[str, str]] = []
        for document in documents:
            rows.append({name: getattr(document, name) for name in CORPUS_SCHEMA.names})
            count += 1
            if len(rows) == rows_per_group:
                writer.write_table(pa.Table.from_pylist(rows, CORPUS_SCHEMA))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, CORPUS_SCHEMA))
    return count


def read_corpus(file: str | Path, source: str | None = None, split: str | None = None) -> Iterator[PreparedDocument]:
    """Stream what `write_corpus` wrote, in order; only one source or split when named."""
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=CORPUS_SCHEMA.names):
            for row in batch.to_pylist():
                if source in (None, row["source"]) and split in (None, row["split"]):
                    yield PreparedDocument(**row)
