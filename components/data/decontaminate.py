"""Training documents that contain items of an evaluation set: prompts, or their solutions.

Found text is matched by n-grams of 13 words as for GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C), and by the
whole item where that is shorter. Generated text is matched by whole items alone: templates share long n-grams by
construction, and only the same numbers make the same problem.

n-grams are of words without the punctuation between them, and those of an item stand in the index twice: with
punctuation that parts words and with punctuation that is left out ("well-known" as "well known" and as "wellknown"). So
neither punctuation nor its absence, case, or line breaks hide an item. In whole items symbols count. Tokens are then
lower-case words, numbers and single symbols, and an item starts at the start of the text, after a blank or after an
equals sign: "2+3=?" is found in "Is 2 + 3 = ?", and neither in "12+3=?" nor in "1+2+3=?"; "2+3-1=5-1=4" is found in
"1+1+3-1=2+3-1=5-1=4".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")
_PUNCTUATION = re.compile(r"[^\w\s]+")
_LEAST_RUN = 8  # words; below it phrases of everyday language are found
_ANCHOR = 8  # tokens of a pattern that are looked up by hash before the rest is compared
_BATCH_DOCUMENTS = 512


@dataclass(frozen=True)
class DecontaminationConfig:
    ngram: int = 13
    min_item_tokens: int = 4  # a whole item shorter than this says nothing: it is not looked for, and counted


@dataclass(frozen=True)
class Contamination:
    document: int  # position among the texts that were searched
    item: int  # position among the evaluation items
    overlap: str  # the tokens that both have


class EvalIndex:
    """Items of an evaluation set, ready to be looked for. Build one for each of `whole_items` true and false."""

    def __init__(
        self, items: Sequence[str], config: DecontaminationConfig | None = None, whole_items: bool = False
    ) -> None:
        config = config or DecontaminationConfig()
        if config.ngram < 1 or config.min_item_tokens < 1:
            raise ValueError(f"{config}: ngram and min_item_tokens must be at least 1")
        self.num_too_short = 0
        symbols, words = _Patterns(_TOKEN), _Patterns(_WORD)
        for index, item in enumerate(items):
            lowered = item.lower()
            tokens = _TOKEN.findall(lowered)
            if len(tokens) < min(config.min_item_tokens, config.ngram):
                self.num_too_short += 1
                continue
            spoken = [_WORD.findall(lowered), _WORD.findall(_PUNCTUATION.sub("", lowered))]
            if whole_items or len(spoken[0]) < config.ngram:
                symbols.add(tokens, len(tokens) if whole_items else min(config.ngram, len(tokens)), index)
            else:
                for form in spoken[: 1 + (spoken[0] != spoken[1])]:
                    # Of an item of fewer than two n-grams half is enough, so that one changed word does not hide it.
                    words.add(form, min(config.ngram, max(_LEAST_RUN, len(form) // 2), len(form)), index)
        self._whole_items = whole_items
        self._lanes = [lane.sealed() for lane in (words, symbols) if lane.patterns]

    def search(self, texts: Iterable[str]) -> list[Contamination]:
        """An overlap of each contaminated text, in the order of the texts."""
        found: list[Contamination] = []
        stream = iter(texts)
        base = 0
        while batch := list(islice(stream, _BATCH_DOCUMENTS)):
            hits: dict[int, tuple[int, str]] = {}
            for lane in self._lanes:
                for document, hit in lane.search(batch, self._whole_items).items():
                    hits.setdefault(document, hit)
            found += [Contamination(base + document, *hit) for document, hit in sorted(hits.items())]
            base += len(batch)
        return found


class _Patterns:
    """Runs of tokens of one kind, by their first ones."""

    def __init__(self, token: re.Pattern[str]) -> None:
        self._token = token
        self._numbers: dict[str, int] = {}  # of the items' tokens, from 1; every other token is 0
        self.patterns: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
        self._names: dict[int, str] = {}
        self._anchors: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, tokens: Sequence[str], size: int, item: int) -> None:
        ids = tuple(self._numbers.setdefault(token, len(self._numbers) + 1) for token in tokens)
        for start in range(len(ids) - size + 1):
            pattern = ids[start : start + size]
            self.patterns.setdefault(pattern[:_ANCHOR], []).append((pattern, item))

    def sealed(self) -> _Patterns:
        """Ready to search."""
        self._names = {number: token for token, number in self._numbers.items()}
        for size in sorted({len(anchor) for anchor in self.patterns}):
            anchors = [anchor for anchor in self.patterns if len(anchor) == size]
            self._anchors[size] = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
            # End to end, the anchors are every size-th window.
            self._anchors[size][_window_hashes(np.array(anchors, dtype=np.uint64).ravel(), size)[::size]] = True
        return self

    def search(self, texts: Sequence[str], apart: bool) -> dict[int, tuple[int, str]]:
        """Document -> (item, overlap), the first in each. `apart`: only what starts apart from what stands before."""
        number_of = self._numbers.get
        documents = [[number_of(token, 0) for token in self._token.findall(text.lower())] for text in texts]
        # One flat array, a 0 after each document: no pattern holds a 0, so none spans two documents.
        flat = [number for document in documents for number in (*document, 0)]
        starts = np.cumsum([0] + [len(document) + 1 for document in documents])
        ids = np.array(flat, dtype=np.uint64)
        first: dict[int, tuple[int, int, int]] = {}
        for size, table in self._anchors.items():
            for place in np.flatnonzero(table[_window_hashes(ids, size)]).tolist():
                for pattern, item in self.patterns.get(tuple(flat[place : place + size]), ()):
                    if tuple(flat[place : place + len(pattern)]) != pattern:
                        continue
                    document = int(np.searchsorted(starts, place, side="right")) - 1
                    match = (place, item, len(pattern))
                    earlier = document not in first or match < first[document]
                    if earlier and (not apart or _starts_apart(texts[document], place - int(starts[document]))):
                        first[document] = match
        return {
            document: (item, " ".join(self._names[i] for i in flat[place : place + length]))
            for document, (place, item, length) in first.items()
        }


def _starts_apart(text: str, token: int) -> bool:
    """Whether the token of that number begins the text or follows a blank or an equals sign."""
    lowered = text.lower()
    start = next(islice(_TOKEN.finditer(lowered), token, None)).start()
    return start == 0 or lowered[start - 1].isspace() or lowered[start - 1] == "="


_TABLE_BITS = 20


def _window_hashes(ids: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.int64]:
    """`_TABLE_BITS` bits for every window of `size` ids; equal windows have equal hashes."""
    count = max(len(ids) - size + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        hashes = (hashes + ids[place : place + count] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
