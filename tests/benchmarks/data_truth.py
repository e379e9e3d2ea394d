"""Precision and recall of the steps of data preparation, on planted defects and on public test sets.

    PYTHONPATH=. python tests/benchmarks/data_truth.py

The planted ones are made from the packaged speeches; the public ones are looked for as `tests/public_files.py` says.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from public_files import DATA

from components.data.decontaminate import EvalIndex
from components.data.dedup import DedupConfig, near_duplicates
from components.data.encodings import decoded
from components.data.filters.language import language_reasons, languages_of
from components.data.filters.quality import QualityConfig, quality_reasons
from components.data.filters.web_rules import C4Config, FineWebConfig, c4_lines, c4_reasons, fineweb_reasons
from components.data.normalise import normalise
from components.data.packaged import sotu_speeches
from components.data.passages import cut_passages
from components.data.personal import mask_personal
from components.data.repair import repair

Row = tuple[str, str, int, int, int]  # step, what, found rightly, planted, found wrongly

ENCODINGS = {
    "de": "cp1252 latin-1", "fr": "cp1252", "es": "cp1252", "it": "cp1252", "pt": "cp1252", "nl": "cp1252",
    "sv": "cp1252", "da": "cp1252", "nb": "cp1252", "pl": "cp1250 iso8859-2", "cs": "cp1250 iso8859-2",
    "ru": "cp1251 koi8-r", "uk": "cp1251", "bg": "cp1251", "ar": "cp1256", "tr": "cp1254", "zh": "gb18030 big5",
    "ja": "shift_jis euc-jp", "ko": "euc-kr", "th": "tis-620",
}  # fmt: skip
PERSONAL = {
    "EMAIL_ADDRESS": "email", "CREDIT_CARD": "card", "IP_ADDRESS": "ip", "PHONE_NUMBER": "phone", "IBAN_CODE": "iban",
    "US_SSN": "ssn",
}  # fmt: skip


def passages(count: int) -> list[str]:
    """Passages of the packaged speeches, about 2,000 characters each, spread over the years."""
    found = [p for _, text in sotu_speeches()[0] for p in cut_passages(text.splitlines(keepends=True), 2000)]
    return [p for p in found[:: max(1, len(found) // count)] if len(p.split()) > 200][:count]


# -- near duplicates --------------------------------------------------------------------------------------------------


def near_duplicate_rows() -> Iterator[Row]:
    rng = random.Random(0)
    texts = passages(600)
    vocabulary = sorted({word for text in texts for word in text.split()})

    def words_edited(text: str, share: float) -> str:
        """Each edit replaces, drops or puts in a word."""
        out = []
        for word in text.split():
            edit = rng.random() < share
            kind = rng.randrange(3) if edit else -1
            out += [[rng.choice(vocabulary)], [], [word, rng.choice(vocabulary)]][kind] if edit else [word]
        return " ".join(out)

    def chars_edited(text: str, share: float) -> str:
        return "".join(chr(97 + rng.randrange(26)) if rng.random() < share else char for char in text)

    edits: list[tuple[str, Callable[[str], str]]] = [
        *(
            (f"{share:.0%} of words edited", lambda text, share=share: words_edited(text, share))
            for share in (0.01, 0.02, 0.03)
        ),
        ("1% of characters changed", lambda text: chars_edited(text, 0.01)),
        ("case, punctuation, line breaks", lambda text: re.sub(r"[^\w\s]", "", text.upper()).replace(" ", "\n")),
        ("a sentence put in front", lambda text: "Share this page with your friends and family. " + text),
    ]
    for what, edit in edits:
        copies = [edit(text) for text in texts]
        found = near_duplicates([*texts, *copies])
        right = sum(abs(one - other) == len(texts) for one, other in found.items())
        yield "near duplicates", what, right, len(texts), len(found) - right
    shared = []
    for text in texts:
        other = rng.choice(texts).split()
        words = text.split()
        shared.append(" ".join([*words[: int(0.7 * len(words))], *other[: len(words) - int(0.7 * len(words))]]))
    found = near_duplicates([*texts, *shared])
    yield (
        "near duplicates",
        "70% of the words shared: to stay",
        0,
        0,
        sum(abs(a - b) == len(texts) for a, b in found.items()),
    )


# -- decontamination --------------------------------------------------------------------------------------------------


def decontamination_rows() -> Iterator[Row]:
    rng = random.Random(1)
    rows = [json.loads(line) for line in (DATA / "gsm8k" / "test.jsonl").open()]
    pages = passages(4000)
    questions, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    index = EvalIndex([*questions, *answers])

    def one_number(text: str) -> str:
        numbers = list(re.finditer(r"\d+", text))
        if not numbers:
            return text
        one = rng.choice(numbers)
        return text[: one.start()] + str(int(one[0]) + 1) + text[one.end() :]

    def rewrapped(text: str) -> str:
        words = text.split()
        return "\n".join(" ".join(words[i : i + 8]) for i in range(0, len(words), 8))

    edits: dict[str, Callable[[str], str]] = {
        "verbatim": str,
        "upper case": str.upper,
        "punctuation taken out": lambda text: re.sub(r"[^\w\s]", "", text),
        "punctuation as blanks": lambda text: re.sub(r"[^\w\s]", " ", text),
        "re-wrapped to 8 words": rewrapped,
        "one number changed": one_number,
        "curly quotes": lambda text: text.replace("'", "’").replace('"', "”"),
    }
    chosen = rng.sample(range(len(rows)), 300)
    for name, items in (("questions", questions), ("worked answers", answers)):
        for what, edit in edits.items():
            texts = [f"{rng.choice(pages)[:800]}\n\n{edit(items[i])}\n\n{rng.choice(pages)[:800]}" for i in chosen]
            found = len(index.search([normalise(text) for text in texts]))
            yield "decontamination", f"GSM8K {name}, {what}", found, len(chosen), 0
    yield "decontamination", f"speeches ({len(pages)} passages): to stay", 0, 0, len(index.search(pages))


# -- public sets ------------------------------------------------------------------------------------------------------


def sentences() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with gzip.open(DATA / "language_id" / "lingua_25_languages.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            if row["kind"] == "sentences":
                found.setdefault(row["language"], []).append(row["text"])
    return found


def language_rows() -> Iterator[Row]:
    texts = sentences()
    right = total = 0
    for code, own in sorted(texts.items()):
        kept = sum(not reason for reason in language_reasons(languages_of(own, (code,)), (code,)))
        right, total = right + kept, total + len(own)
        if kept < 0.98 * len(own):
            yield "language", f"{code} wanted", kept, len(own), 0
    yield "language", f"all {len(texts)} languages, each wanted", right, total, 0
    for wanted in ("en", "de", "fr", "zh"):
        others = [text for code, own in texts.items() if code != wanted for text in own]
        through = sum(not reason for reason in language_reasons(languages_of(others, (wanted,)), (wanted,)))
        yield "language", f"{wanted} wanted, {len(others)} of others: to go", 0, 0, through
    short = [text[:19] for code, own in texts.items() if code != "en" for text in own]
    through = sum(not reason for reason in language_reasons(languages_of(short, ("en",)), ("en",)))
    yield "language", f"en wanted, first 19 characters of {len(short)} others: to go", 0, 0, through
    banner = " ".join(texts["en"][:2])
    pages = [f"{banner}\n{' '.join(texts['de'][i : i + 40])}" for i in range(0, 160, 5)]
    through = sum(not reason for reason in language_reasons(languages_of(pages, ("en",)), ("en",)))
    yield "language", f"English banner over German, {len(pages)} pages: to go", 0, 0, through


def encoding_rows() -> Iterator[Row]:
    right = planted = wrong = 0
    for code, own in sentences().items():
        for encoding in ENCODINGS.get(code, "").split():
            for start in range(0, 60, 20):
                raw = "\n".join(own[start : start + 20]).encode(encoding, "ignore")
                if raw.isascii():
                    continue
                planted += 1
                text, reason = decoded(raw)
                right += text == raw.decode(encoding)
                wrong += not reason and text != raw.decode(encoding)
    yield "encodings", "older ones of 20 languages; the rest refused", right, planted, wrong


def mojibake_rows() -> Iterator[Row]:
    from ftfy import fixes

    def plain(text: str) -> str:
        """As ftfy's own files have it: quotation marks, ligatures and widths are matters of style, which we leave."""
        for form in (
            fixes.uncurl_quotes,
            fixes.fix_latin_ligatures,
            fixes.fix_character_width,
            fixes.remove_control_chars,
        ):
            text = form(text)
        return text

    for name in ("in-the-wild", "synthetic"):
        cases = [
            c for c in json.loads((DATA / "ftfy" / f"{name}.json").read_text()) if c.get("expect", "pass") == "pass"
        ]
        broken = [c for c in cases if plain(c["original"]) != plain(c["fixed"])]
        right = sum(plain(repair(c["original"])) == plain(c["fixed"]) for c in broken)
        yield "repair", f"ftfy {name}", right, len(broken), 0
    cases = json.loads((DATA / "ftfy" / "negative.json").read_text())
    wrong = sum(plain(repair(c["original"])) != plain(c["fixed"]) for c in cases if c.get("expect", "pass") == "pass")
    yield "repair", f"ftfy negative ({len(cases)}): to stay", 0, 0, wrong
    texts = passages(600)
    planted = [text.replace("'", "’").encode().decode("cp1252", "replace") for text in texts if "'" in text]
    whole = [text.replace("'", "’") for text in texts if "'" in text]
    yield (
        "repair",
        "speeches with UTF-8 read as cp1252",
        sum(map(str.__eq__, map(repair, planted), whole)),
        len(whole),
        0,
    )


def personal_rows() -> Iterator[Row]:
    right, planted, wrong = Counter[str](), Counter[str](), Counter[str]()
    for case in json.loads((DATA / "pii" / "synth_dataset_v2.json").read_text()):
        text = case["full_text"]
        pieces = re.split(r"\[(EMAIL|CARD|IBAN|SSN|IP|PHONE|KEY)\]", mask_personal(text)[0])
        found, at = [], len(pieces[0])
        for kind, behind in zip(pieces[1::2], pieces[2::2], strict=True):
            end = text.index(behind, at) if behind else len(text)
            found.append((kind.lower(), at, end))
            at = end + len(behind)
        used = set()
        for span in case["spans"]:
            kind = PERSONAL.get(span["entity_type"])
            if kind is None:
                continue
            planted[kind] += 1
            hits = [f for f in found if f[0] == kind and f[1] < span["end_position"] and span["start_position"] < f[2]]
            right[kind] += bool(hits)
            used |= set(hits)
        wrong.update(f[0] for f in found if f not in used)
    for kind, count in planted.items():
        yield "personal data", f"presidio-research, {kind}", right[kind], count, wrong[kind]
    masked = Counter[str]()
    for text in passages(5000):
        masked.update(mask_personal(text)[1])
    yield "personal data", "speeches (5000 passages): to stay", 0, 0, sum(masked.values())


# -- time -------------------------------------------------------------------------------------------------------------

UNITS = (
    " ", "\t", "a", "a ", "1", "1 ", "1-", "1.", "(1)", "+1", "@", "a@", "a@a.", ":", "a:", "é", "é\u200d", "\u200d",
    "Ã", "&", "\n", " \n", "...", "。", "中", "eyJ", "-----BEGIN PRIVATE KEY-----", "sk-", "GB12 ",
)  # fmt: skip


def print_slowest(size: int = 1 << 20) -> None:
    """The slowest of the texts of 1 MB that repeat one piece, by step."""
    items = EvalIndex(["one two three four five six seven eight nine ten eleven twelve thirteen fourteen"])
    steps: dict[str, Callable[[str], object]] = {
        "normalise": normalise,
        "repair": repair,
        "personal data": mask_personal,
        "language": lambda text: languages_of([text]),
        "quality": lambda text: quality_reasons([text], QualityConfig(max_words=10**9), ["en"]),
        "C4": lambda text: (c4_lines([text], C4Config()), c4_reasons([text], C4Config(), ["en"])),
        "FineWeb": lambda text: fineweb_reasons([text], FineWebConfig(), ["en"]),
        "passages": lambda text: list(cut_passages([text], 2000)),
        "decontamination": items.search,
    }
    print(f"\n{'CPU seconds on 1 MB of one piece, the slowest of ' + str(len(UNITS)) + ' pieces':60}")
    for name, step in steps.items():
        step("warm up")
        slowest = (0.0, "")
        for unit in UNITS:
            text = (unit * size)[:size]
            started = time.process_time()
            step(f"x\n{text}y")
            slowest = max(slowest, (time.process_time() - started, unit))
        print(f"{name:20} {slowest[0]:6.2f}  {slowest[1]!r}")


def main() -> None:
    print(f"near duplicates: {DedupConfig()}\n")
    print(f"{'step':16} {'what':62} {'recall':>16} {'wrong':>6} {'precision':>9}")
    for rows in (
        near_duplicate_rows, decontamination_rows, language_rows, encoding_rows, mojibake_rows, personal_rows,
    ):  # fmt: skip
        for step, what, right, planted, wrong in rows():
            recall = f"{right}/{planted} {right / planted:.3f}" if planted else ""
            precision = f"{right / (right + wrong):.3f}" if right else ""
            print(f"{step:16} {what:62} {recall:>16} {wrong:6} {precision:>9}", flush=True)
    print_slowest()


if __name__ == "__main__":
    main()
