"""The language of a text, with a score, and which texts are in none of the wanted ones.

The model is langid.py's (Lui and Baldwin 2012) in its maintained fork: of lingua's sentences in 25 languages it names
98.3% rightly and lets 2 of 4,800 pass as English, where lingua's own fast mode names 95.5% at four times the cost and
with 96 MB of models, and resiliparse's detector 74% (docs/log.md). Here its automaton walks over many texts at once,
which takes a third of the time; the scores are the model's own (a test compares them).

A text is judged by windows spread evenly over it, so that a banner in one language does not speak for what follows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WINDOW_CHARS = 150
MAX_WINDOWS = 4
MIN_SCORE = 0.55  # mean probability over the windows, below which a longer text is of mixed languages
_BATCH_WINDOWS = 1024
_NO_LANGUAGE = "zxx"
_NORWEGIAN = {"nb": "no", "nn": "no"}


class Language(NamedTuple):
    code: str  # ISO 639-1, or 639-3 where there is none; empty for a text that says nothing, as of numbers alone
    score: float  # probability of that language, the mean over the windows
    mixed: bool = False  # of a text of several windows: that much of it is in other languages


class _Model:
    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        found: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.labels: list[str] = list(found.nb_classes)
        self.aliases: list[tuple[int, int]] = list(found._alias_pairs)
        self.next = np.asarray(found.tk_nextmove, dtype=np.int32)
        self.row = np.asarray(found.tk_row, dtype=np.int64) << 8
        self.feature = np.asarray(found.tk_output, dtype=np.int32)
        self.table = np.asarray(found.nb_ptc, dtype=np.float32)
        self.prior = np.asarray(found.nb_pc, dtype=np.float32)

    def probabilities(self, texts: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """[texts, labels]; a row of zeros for a text without any feature."""
        from scipy.sparse import csr_matrix

        lengths = np.array([len(text) for text in texts])
        order = np.argsort(-lengths, kind="stable")  # the longest first: those that still go on are a prefix
        width = int(lengths.max(initial=0))
        padded = np.frombuffer(b"".join(texts[i].ljust(width, b"\0") for i in order), dtype=np.uint8)
        # Positions by texts, so that each step of the automaton reads one row.
        columns = np.ascontiguousarray(padded.reshape(len(texts), width).T)
        alive = np.searchsorted(-lengths[order], -np.arange(width), side="left")
        state = np.zeros(len(texts), dtype=np.int64)
        keys: list[npt.NDArray[np.int64]] = []
        size = len(self.table)
        texts_at = np.arange(len(texts), dtype=np.int64) * size
        for place in range(width):
            going = int(alive[place])
            state[:going] = self.next[self.row[state[:going]] + columns[place, :going]]
            features = self.feature[state[:going]]
            hit = features >= 0
            keys.append(texts_at[:going][hit] + features[hit])
        found, counts = np.unique(np.concatenate(keys or [np.zeros(0, np.int64)]), return_counts=True)
        rows, features = np.divmod(found, size)
        starts = np.searchsorted(rows, np.arange(len(texts) + 1))
        visits = csr_matrix(
            (np.log1p(counts.astype(np.float32)), features, starts), shape=(len(texts), size), dtype=np.float32
        )
        scores = np.asarray(visits @ self.table) + self.prior
        scores /= np.sqrt(np.maximum(lengths[order], 1)).astype(np.float32)[:, None]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        for first, second in self.aliases:
            scores[:, first] += scores[:, second]
            scores[:, second] = 0
        scores[np.diff(starts) == 0] = 0
        out = np.empty_like(scores)
        out[order] = scores
        return out


@cache
def _model() -> _Model:
    """Takes a second and some 100 MB to load."""
    return _Model()


def check_languages(wanted: Sequence[str]) -> None:
    """Raise ValueError for a language that the model lacks."""
    known = set(_model().labels)
    if unknown := sorted({_NORWEGIAN.get(code, code) for code in wanted} - known):
        raise ValueError(
            f"unknown language {', '.join(map(repr, unknown))}; they are ISO 639-1 codes such as en, de, fr"
        )


def languages_of(texts: Sequence[str], wanted: Sequence[str] = ()) -> list[Language]:
    """The language of each text; all that the model knows compete.

    A wanted one is preferred where it is at least half as likely as the likeliest: a few words are as good Pidgin as
    English.
    """
    windows: list[bytes] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        for piece in _windows(text):
            windows.append(_encoded(piece))
            owners.append(number)
    model = _model()
    found = [np.zeros((0, len(model.labels)), dtype=np.float32)]
    for start in range(0, len(windows), _BATCH_WINDOWS):
        found.append(model.probabilities(windows[start : start + _BATCH_WINDOWS]))
    firsts = np.searchsorted(owners, np.arange(len(texts)))  # every text has a window, and they stand in order
    total = np.add.reduceat(np.concatenate(found), firsts, axis=0) if texts else found[0]
    counted = np.maximum(np.bincount(np.array(owners, dtype=np.int64), minlength=len(texts)), 1)
    best = total.argmax(axis=1)
    codes = {_NORWEGIAN.get(code, code) for code in wanted}
    if columns := [place for place, label in enumerate(model.labels) if _NORWEGIAN.get(label, label) in codes]:
        likeliest = np.array(columns)[total[:, columns].argmax(axis=1)]
        rows = np.arange(len(texts))
        best = np.where(2 * total[rows, likeliest] >= total[rows, best], likeliest, best)
    scores = total[np.arange(len(texts)), best] / counted
    return [
        Language(model.labels[label], score, windows > 1 and score < MIN_SCORE)
        if score > 0 and model.labels[label] != _NO_LANGUAGE
        else Language("", 0.0)
        for label, score, windows in zip(best.tolist(), scores.tolist(), counted.tolist(), strict=True)
    ]


def _windows(text: str) -> list[str]:
    if len(text) <= 2 * WINDOW_CHARS:
        return [text]
    count = min(MAX_WINDOWS, len(text) // WINDOW_CHARS)
    last = len(text) - WINDOW_CHARS
    return [text[start : start + WINDOW_CHARS] for start in (last * i // (count - 1) for i in range(count))]


def _encoded(text: str) -> bytes:
    """As the model's own code prepares a text."""
    text = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def language_reasons(found: Sequence[Language], wanted: Sequence[str]) -> list[str]:
    """Why each language is none of the wanted ones, or an empty string; empty `wanted` takes any."""
    codes = {_NORWEGIAN.get(code, code) for code in wanted}

    def reason(language: Language) -> str:
        if not codes or not language.code:
            return ""  # any will do; or there is nothing to tell it by, and the quality rules judge
        if _NORWEGIAN.get(language.code, language.code) not in codes:
            return f"language {language.code}"
        return "mixed languages" if language.mixed else ""

    return [reason(language) for language in found]
