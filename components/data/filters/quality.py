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
import pyarrow as pa
import pyarrow.compute as pc

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
    reasons: list[str] = []
    for start in range(0, len(texts), _CHUNK):
        codes = languages[start : start + _CHUNK]
        reasons += _reasons(texts[start : start + _CHUNK], [config.of(code) for code in codes], codes)
    return reasons


def _reasons(texts: Sequence[str], configs: Sequence[QualityConfig], languages: Sequence[str]) -> list[str]:
    """All rules that look at words, for many texts at once: a word's properties are found once, however often it
    stands."""
    words = _Words.of(texts)
    count = np.maximum(words.lengths, 1)

    def limit(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(config, name) for config in configs], dtype=np.float64)

    mean = words.total / count
    unspaced = np.array([is_unspaced(text) for text in texts])
    wrong_length = ((mean < limit("min_mean_word_length")) | (mean > limit("max_mean_word_length"))) & ~unspaced
    marks = np.array([max(text.count("#"), text.count("…") + text.count("...")) for text in texts])
    rules = {
        "too few words": words.lengths < limit("min_words"),
        "too many words": words.lengths > limit("max_words"),
        "mean word length": wrong_length,
        "symbols": marks > limit("max_symbol_ratio") * words.lengths,
        "few alphabetic words": words.alphabetic() < limit("min_alphabetic_words") * words.lengths,
        "placeholder text": np.array(["lorem ipsum" in text.lower() for text in texts]),
        "few stop words": words.stop_words(languages) < limit("min_stop_words"),
    }
    reasons = [""] * len(texts)
    for reason, broken in rules.items():
        for place in np.flatnonzero(broken).tolist():
            reasons[place] = reasons[place] or reason
    may_repeat = words.may_repeat(configs)
    for place, (text, config) in enumerate(zip(texts, configs, strict=True)):
        # Hashes say where there may be enough repetitions; there they are counted exactly.
        reasons[place] = reasons[place] or _line_reason(text, config)
        if not reasons[place] and may_repeat[place]:
            reasons[place] = _repetition_reason(words_of(text), config)
    return reasons


@dataclass(frozen=True)
class _Words:
    """The words of several texts, end to end, as numbers of a vocabulary.

    lengths: words of each text; total, longest: characters of all its words and of the longest.
    """

    ids: npt.NDArray[np.int64]
    vocabulary: list[str]
    lengths: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    longest: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]  # of each word, the number of its text
    chars: npt.NDArray[np.int64]  # of each word

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Words:
        if any(map(is_unspaced, texts)):
            lists = pa.array([words_of(text) for text in texts], pa.list_(pa.string()))
        else:
            spaced = [text.strip() if text.isascii() else " ".join(text.split()) for text in texts]
            lists = pc.ascii_split_whitespace(pa.array([text or " " for text in spaced], pa.string()))
        lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
        flat = lists.flatten().dictionary_encode()
        ids = flat.indices.to_numpy().astype(np.int64)
        chars = np.concatenate([pc.utf8_length(flat.dictionary).to_numpy()[ids].astype(np.int64), [0]])
        ends = np.cumsum(lengths)
        sums = np.concatenate([[0], np.cumsum(chars)])
        starts = ends - lengths
        longest = np.where(lengths > 0, np.maximum.reduceat(chars, starts), 0)
        owner = np.repeat(np.arange(len(texts)), lengths)
        total = sums[ends] - sums[starts]
        return cls(ids, flat.dictionary.to_pylist(), lengths, total, longest, owner, chars[:-1])

    def _count(self, marked: Sequence[bool]) -> npt.NDArray[np.int64]:
        """How many words of each text are marked in the vocabulary."""
        chosen = np.array(marked, dtype=np.bool_)[self.ids]
        return np.bincount(self.owner[chosen], minlength=len(self.lengths))

    def alphabetic(self) -> npt.NDArray[np.int64]:
        """Words with a letter, of each text."""
        return self._count([word.isalpha() or _has_letter(word) for word in self.vocabulary])

    def stop_words(self, languages: Sequence[str]) -> npt.NDArray[np.float64]:
        """How many of its language's stop words each text has; infinitely many where there is no list."""
        found = np.full(len(self.lengths), np.inf)
        lowered = [word.lower() for word in self.vocabulary]
        for language in set(languages) & STOP_WORDS.keys():
            number = {word: place for place, word in enumerate(sorted(STOP_WORDS[language]))}
            numbers = np.array([number.get(word, -1) for word in lowered], dtype=np.int64)[self.ids]
            present = np.unique(self.owner[numbers >= 0] * len(number) + numbers[numbers >= 0]) // len(number)
            counts = np.bincount(present, minlength=len(self.lengths))
            own = np.array([code == language for code in languages])
            found[own] = counts[own]
        return found

    def may_repeat(self, configs: Sequence[QualityConfig]) -> npt.NDArray[np.bool_]:
        """Which texts may have too many repetitions, from hashes of their n-grams: a bound from how many repeat, and
        for the few that it does not clear the characters that they cover."""
        suspects = np.flatnonzero(self._repeat_often(configs))
        found = np.zeros(len(self.lengths), dtype=np.bool_)
        found[suspects] = self._covered_too_much(suspects, [configs[place] for place in suspects.tolist()])
        return found

    def _repeat_often(self, configs: Sequence[QualityConfig]) -> npt.NDArray[np.bool_]:
        limits = _limits(configs)
        size_of_all = len(self.ids)
        ids = np.concatenate([self.ids, np.zeros(5, dtype=np.int64)]).astype(np.uint64) + np.uint64(1)
        behind = np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(size_of_all)  # words to the text's end
        suspect = np.zeros(len(self.lengths), dtype=np.bool_)
        full = np.flatnonzero(self.lengths)
        starts = (np.cumsum(self.lengths) - self.lengths)[full]
        owners = self.owner.astype(np.uint64) << _OWNER_SHIFT
        hashes = _mixed(ids[:size_of_all])
        for size in (2, 3, 4, 5):
            hashes = _mixed(hashes * _ODD + ids[size - 1 : size - 1 + size_of_all])
            # A text's number stands in the upper bits.
            keys = owners | (hashes >> _HASH_SHIFT)
            if size == 5:
                whole = behind >= size
                keys = np.sort(keys[whole])
                same = keys[1:] == keys[:-1]
                repeats = np.bincount((keys[1:][same] >> _OWNER_SHIFT).astype(np.int64), minlength=len(self.lengths))
                # A repeated n-gram covers at most its own words; longer ones are no more than these.
                for longer in range(5, 11):
                    suspect |= repeats * longer * self.longest > limits[longer] * self.total
            else:
                # Counts in a table of fixed size, which can only be too high; so can those across a text's end.
                places = ((keys ^ (keys >> _OWNER_SHIFT) * _ODD) & _TABLE_MASK).astype(np.int64)
                often = np.bincount(places, minlength=1 << _TABLE_BITS)[places]
                most_often = np.zeros(len(self.lengths), dtype=np.int64)
                if len(full):
                    most_often[full] = np.maximum.reduceat(often, starts)
                enough = (most_often > 1) & (most_often * size * self.longest > limits[size] * self.total)
                suspect |= enough
        return suspect

    def _covered_too_much(
        self, places: npt.NDArray[np.int64], configs: Sequence[QualityConfig]
    ) -> npt.NDArray[np.bool_]:
        """Whether repeated n-grams of these texts cover more characters than they may, but for colliding hashes."""
        limits = _limits(configs)
        chosen = np.isin(self.owner, places)
        chars = self.chars[chosen]
        lengths, total = self.lengths[places], self.total[places]
        owner = np.repeat(np.arange(len(places)), lengths)
        behind = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(chars))
        ids = np.concatenate([self.ids[chosen], np.zeros(10, dtype=np.int64)]).astype(np.uint64) + np.uint64(1)
        sums = np.concatenate([[0], np.cumsum(chars)])
        hashes = _mixed(ids[: len(chars)])
        found = np.zeros(len(places), dtype=np.bool_)
        for size in range(2, 11):
            hashes = _mixed(hashes * _ODD + ids[size - 1 : size - 1 + len(chars)])
            starts = np.flatnonzero(behind >= size)
            keys = (owner[starts].astype(np.uint64) << _OWNER_SHIFT) | (hashes[starts] >> _HASH_SHIFT)
            order = np.argsort(keys, kind="stable")
            again = keys[order][1:] == keys[order][:-1]
            if size < 5:
                firsts = np.flatnonzero(np.concatenate([[True], ~again])[: len(keys)])
                counts = np.diff(np.concatenate([firsts, [len(keys)]]))
                at = starts[order][firsts]
                over = counts * (sums[at + size] - sums[at]) > limits[size][owner[at]] * total[owner[at]]
                found[owner[at[over & (counts > 1)]]] = True
            else:
                edges = np.zeros(len(chars) + 1, dtype=np.int64)
                repeated = starts[order][1:][again]
                np.add.at(edges, repeated, 1)
                np.add.at(edges, repeated + size, -1)
                covered = np.cumsum(edges[:-1]) > 0
                found |= np.bincount(owner, covered * chars, minlength=len(places)) > limits[size] * total
        return found


def _limits(configs: Sequence[QualityConfig]) -> dict[int, npt.NDArray[np.float64]]:
    """The share of characters that repeated n-grams may cover, by n."""
    names = {size: f"max_{'top' if size < 5 else 'duplicate'}_{size}gram_chars" for size in range(2, 11)}
    return {size: np.array([getattr(config, name) for config in configs]) for size, name in names.items()}


_ODD = np.uint64(0xD6E8FEB86659FD93)
_CHUNK = 512  # documents, whose numbers take 9 bits
_OWNER_SHIFT, _HASH_SHIFT = np.uint64(54), np.uint64(10)
_TABLE_BITS = 20
_TABLE_MASK = np.uint64((1 << _TABLE_BITS) - 1)


def _has_letter(word: str) -> bool:
    return word.lower() != word.upper() if word.isascii() else _LETTER.search(word) is not None


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
