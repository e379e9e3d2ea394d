"""Documents that read like prose, by the published rules of Gopher (Rae et al. 2021, arXiv 2112.11446, section A1.1 and
table A1) with the placeholder rule of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2). Thresholds are settings,
also by language; what counts words takes them as `words_of` cuts them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from components.data.filters.words import is_unspaced, words_of


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds; names and defaults after Gopher where it has them.

    by_language: other thresholds for texts of a language, as `{ de = { max_mean_word_length = 12.0 } }`.
    """

    # Gopher: 50, for web pages; a corpus of a few megabytes has short documents that are worth having.
    min_words: int = 20
    max_words: int = 100_000
    min_mean_word_length: float = 3.0  # these two not for scripts without blanks between words
    max_mean_word_length: float = 10.0
    max_symbol_ratio: float = 0.1  # of "#" or "…" to words
    min_alphabetic_words: float = 0.8  # share of words that hold a letter
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_stop_words: int = 2  # of the language's list, where there is one
    max_duplicate_lines: float = 0.3
    max_duplicate_line_chars: float = 0.2
    max_duplicate_paragraphs: float = 0.3
    max_duplicate_paragraph_chars: float = 0.2
    max_top_2gram_chars: float = 0.20
    max_top_3gram_chars: float = 0.18
    max_top_4gram_chars: float = 0.16
    max_duplicate_5gram_chars: float = 0.15
    max_duplicate_6gram_chars: float = 0.14
    max_duplicate_7gram_chars: float = 0.13
    max_duplicate_8gram_chars: float = 0.12
    max_duplicate_9gram_chars: float = 0.11
    max_duplicate_10gram_chars: float = 0.10
    by_language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {one.name for one in fields(self)} - {"by_language"}
        for language, thresholds in self.by_language.items():
            if unknown := sorted(set(thresholds) - known):
                raise ValueError(f"quality.by_language.{language}: there is no threshold {unknown[0]!r}")

    def of(self, language: str) -> QualityConfig:
        """The thresholds for one language."""
        own = self.by_language.get(language)
        return replace(self, by_language={}, **own) if own else self  # type: ignore[arg-type]  # checked above


# Of English Gopher's; of the others eight of the most frequent words of running text.
STOP_WORDS = {
    code: frozenset(words.split())
    for code, words in {
        "en": "the be to of and that have with",
        "de": "der die und in den von zu das",
        "fr": "de la le et les des en que",
        "es": "de la que el en y los se",
        "it": "di che e la il un per in",
        "pt": "de a o que e do da em",
        "nl": "de van het een en in is dat",
        "sv": "och i att det som en på är",
        "da": "og i at det er en til af",
        "no": "og i det er på til som en",
        "pl": "w i na z się nie do to",
        "cs": "a se v na je to že s",
        "ru": "и в не на что с по как",
        "uk": "і в на не що з до та",
        "bg": "и на в се за да от с",
        "tr": "ve bir bu da de için ile çok",
        "id": "yang dan di ini dengan untuk dari itu",
    }.items()
}
_LETTER = re.compile(r"[^\W\d_]")


def quality_reasons(texts: Sequence[str], config: QualityConfig, languages: Sequence[str]) -> list[str]:
    """For each text why it is rejected, as a fixed short phrase that can be counted, or an empty string."""
    settings = [config.of(code) for code in languages]
    words = [words_of(text) for text in texts]
    reasons = [
        _reason(text, own, one, code) or _line_reason(text, one)
        for text, own, one, code in zip(texts, words, settings, languages, strict=True)
    ]
    # Repetitions are looked for by hashes in all texts at once; only where there are enough are they counted exactly.
    left = [place for place, reason in enumerate(reasons) if not reason]
    for chunk in (left[start : start + _CHUNK] for start in range(0, len(left), _CHUNK)):
        for place in _may_repeat([words[i] for i in chunk], [settings[i] for i in chunk]):
            reasons[chunk[place]] = _repetition_reason(words[chunk[place]], settings[chunk[place]])
    return reasons


def _reason(text: str, words: Sequence[str], config: QualityConfig, language: str) -> str:
    if len(words) < config.min_words:
        return "too few words"
    if len(words) > config.max_words:
        return "too many words"
    mean_length = sum(map(len, words)) / len(words)
    if not config.min_mean_word_length <= mean_length <= config.max_mean_word_length and not is_unspaced(text):
        return "mean word length"
    if max(text.count("#"), text.count("…") + text.count("...")) > config.max_symbol_ratio * len(words):
        return "symbols"
    least = config.min_alphabetic_words * len(words)
    # All that is made of letters alone is counted first: it is quick, and mostly enough.
    if sum(map(str.isalpha, words)) < least and sum(1 for word in words if _LETTER.search(word)) < least:
        return "few alphabetic words"
    if "lorem ipsum" in text.lower():
        return "placeholder text"
    stop_words = STOP_WORDS.get(language)
    if stop_words and config.min_stop_words:
        present = stop_words.intersection(words)
        if len(present) < config.min_stop_words:
            present = stop_words.intersection(map(str.lower, words))
        if len(present) < config.min_stop_words:
            return "few stop words"
    return ""


def _may_repeat(documents: Sequence[Sequence[str]], configs: Sequence[QualityConfig]) -> list[int]:
    """Which documents may have too many repetitions: an upper bound, from hashes of their n-grams.

    A document's number stands in the upper bits of the hashes, so that one sort puts equal n-grams of one document side
    by side.
    """
    numbers: dict[str, int] = {}
    flat = [numbers.setdefault(word, len(numbers) + 1) for words in documents for word in words]
    lengths = np.array([len(words) for words in documents])
    chars = np.array(list(map(len, numbers)), dtype=np.int64)[np.array(flat) - 1]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    total, longest = np.add.reduceat(chars, starts), np.maximum.reduceat(chars, starts)
    ids = np.array(flat + [0] * 5, dtype=np.uint64)
    owner = np.repeat(np.arange(len(documents)), lengths)
    behind = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # words from here to the document's end
    suspect = np.zeros(len(documents), dtype=np.bool_)
    hashes = _mixed(ids[: len(flat)])
    for size in (2, 3, 4, 5):
        hashes = _mixed(hashes * _ODD + ids[size - 1 : size - 1 + len(flat)])
        whole = behind >= size
        keys = np.sort((owner[whole].astype(np.uint64) << _OWNER_SHIFT) | (hashes[whole] >> _HASH_SHIFT))
        same = np.concatenate([[False], keys[1:] == keys[:-1]])
        owners = (keys >> _OWNER_SHIFT).astype(np.int64)
        if size == 5:
            repeats = np.bincount(owners[same], minlength=len(documents))
            # A repeated n-gram covers at most its own words; longer ones are no more than these.
            for longer in range(5, 11):
                most = np.array([getattr(config, f"max_duplicate_{longer}gram_chars") for config in configs])
                suspect |= repeats * longer * longest > most * total
        else:
            firsts = np.flatnonzero(~same)
            runs = np.diff(np.concatenate([firsts, [len(keys)]]))
            most_often = np.zeros(len(documents), dtype=np.int64)
            np.maximum.at(most_often, owners[firsts][runs > 1], runs[runs > 1])
            most = np.array([getattr(config, f"max_top_{size}gram_chars") for config in configs])
            suspect |= most_often * size * longest > most * total
    return np.flatnonzero(suspect).tolist()


_ODD = np.uint64(0xD6E8FEB86659FD93)
_CHUNK = 512  # documents, whose numbers take 9 bits
_OWNER_SHIFT, _HASH_SHIFT = np.uint64(54), np.uint64(10)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(32))) * _ODD
    return x ^ (x >> np.uint64(29))


def _line_reason(text: str, config: QualityConfig) -> str:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if sum(line[0] in "•-*‣" for line in lines) > config.max_bullet_lines * len(lines):
        return "bullet lines"
    if sum(line.endswith(("…", "...")) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "ellipsis lines"
    if _repeats(lines, len(text), config.max_duplicate_lines, config.max_duplicate_line_chars):
        return "duplicate lines"
    paragraphs = [stripped for part in text.split("\n\n") if (stripped := part.strip())]
    if _repeats(paragraphs, len(text), config.max_duplicate_paragraphs, config.max_duplicate_paragraph_chars):
        return "duplicate paragraphs"
    return ""


def _repeats(parts: Sequence[str], chars: int, most: float, most_chars: float) -> bool:
    if len(set(parts)) == len(parts):
        return False
    seen: set[str] = set()
    repeated = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(repeated) > most * len(parts) or sum(map(len, repeated)) > most_chars * chars


def _repetition_reason(words: Sequence[str], config: QualityConfig) -> str:
    total, longest = sum(map(len, words)), max(map(len, words))
    for size, most in (
        (2, config.max_top_2gram_chars),
        (3, config.max_top_3gram_chars),
        (4, config.max_top_4gram_chars),
    ):
        grams = list(zip(*(words[i:] for i in range(size)), strict=False))
        repeats = len(grams) - len(set(grams))
        # No n-gram occurs more than repeats + 1 times, which spares most documents the counting.
        if not repeats or (repeats + 1) * size * longest <= most * total:
            continue
        # The share of characters that the most frequent n-gram covers; one that occurs once repeats nothing.
        gram, count = Counter(grams).most_common(1)[0]
        if count > 1 and count * sum(map(len, gram)) > most * total:
            return f"repeated {size}-gram"
    for size, most in (
        (5, config.max_duplicate_5gram_chars),
        (6, config.max_duplicate_6gram_chars),
        (7, config.max_duplicate_7gram_chars),
        (8, config.max_duplicate_8gram_chars),
        (9, config.max_duplicate_9gram_chars),
        (10, config.max_duplicate_10gram_chars),
    ):
        covered = _duplicate_chars(words, size)
        if covered > most * total:
            return f"repeated {size}-grams"
        if not covered:
            break  # longer ones hold these
    return ""


def _duplicate_chars(words: Sequence[str], size: int) -> int:
    """Characters of words inside any n-gram that occurred before; overlapping ones count once (Gopher, A1.1)."""
    grams = list(zip(*(words[i:] for i in range(size)), strict=False))
    if len(set(grams)) == len(grams):
        return 0
    seen: set[tuple[str, ...]] = set()
    covered = chars = 0
    for start, gram in enumerate(grams):
        if gram in seen:
            first = max(start, covered)
            covered = start + size
            chars += sum(map(len, words[first:covered]))
        else:
            seen.add(gram)
    return chars
