from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.document import whole_of
from components.data.pipeline import (
    DataConfig,
    Prepared,
    prepare,
    prepare_to,
    read_corpus,
    split_of,
    write_corpus,
)
from components.data.repeated import RepeatedConfig
from components.data.sources import SourceConfig, SourceError

WORDS = [
    "river",
    "mountain",
    "village",
    "harbour",
    "forest",
    "castle",
    "garden",
    "market",
    "bridge",
    "island",
    "people",
    "children",
    "summer",
    "winter",
    "morning",
    "evening",
    "walked",
    "carried",
    "found",
    "remembered",
    "opened",
    "followed",
    "quiet",
    "heavy",
    "bright",
    "broken",
    "ancient",
    "small",
    "beyond",
    "under",
    "until",
]


def prose(i: int) -> str:
    """English words in an order of its own for each i, so that no two texts share an n-gram that matters."""
    rng = random.Random(i)
    sentences = [
        f"The {' '.join(rng.choices(WORDS, k=6))} of the {' '.join(rng.choices(WORDS, k=6))}." for _ in range(8)
    ]
    return " ".join(sentences)


def corpus(tmp_path: Path, texts: list[str], name: str = "web", broken: int = 0) -> SourceConfig:
    rows = [json.dumps({"text": t}) for t in texts] + ["{"] * broken
    (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return SourceConfig(name, "jsonl", str(tmp_path / f"{name}.jsonl"))


def kept(prepared: Prepared, source: str, step: str) -> int:
    return next(r.num_documents for r in prepared.funnel if (r.source, r.step) == (source, step))


def removed(prepared: Prepared, source: str) -> dict[str, int]:
    return {reason: n for r in prepared.funnel if r.source == source for reason, n in r.removed.items()}


def sums(seed: int) -> Iterator[str]:
    return (f"{10 + i}+{seed}=? {10 + i + seed}" for i in count())


@pytest.fixture
def messy(tmp_path: Path) -> Prepared:
    german = (
        "Im Jahr 1200 bauten die Leute vom Fluss eine Straße zum Schloss, und sie waren stolz darauf, denn es war " * 2
    )
    texts = [prose(i) for i in range(40)]
    texts += [
        prose(3).upper(),
        prose(4) + " Indeed.",
        "The text is short.",
        german,
        "\u200b",
        prose(99) + " a@b.org",
    ]
    web = corpus(tmp_path, texts, broken=2)
    problems = SourceConfig("sums", "problems", max_bytes=300, seed=3)
    evaluation = ["12+3=?", "ok", " ".join(prose(7).split()[5:25])]
    return prepare(DataConfig((web, problems)), evaluation, generators={"problems": sums})


def test_every_removal_is_counted_with_its_reason(messy: Prepared) -> None:
    assert removed(messy, "web") == {
        "empty": 1,
        "too few words": 1,
        "language de": 1,
        "duplicate": 1,
        "near duplicate": 1,
        "holds an evaluation prompt": 1,
    }
    assert removed(messy, "sums") == {"holds an evaluation prompt": 1}
    assert messy.masked == {"email": 1}
    assert [q.line for q in messy.quarantined] == [47, 48]
    assert messy.num_items_too_short == 1
    assert {o.item for o in messy.overlaps} >= {"12+3=?"}


def test_the_funnel_adds_up(messy: Prepared) -> None:
    for source in ("web", "sums"):
        rows = [r for r in messy.funnel if r.source == source]
        assert tuple(r.step for r in rows) == (
            "read",
            "normalise",
            "language",
            "quality",
            "exact duplicates",
            "near duplicates",
            "decontaminate",
        )
        for before, after in pairwise(rows):
            assert before.num_documents == after.num_documents + sum(after.removed.values())
        documents = [d for d in messy.documents if d.source == source]
        assert rows[-1].num_documents == len(documents)
        assert rows[-1].num_bytes == sum(len(d.text.encode()) for d in documents)


def test_what_stays_is_clean(messy: Prepared) -> None:
    texts = [d.text for d in messy.documents]
    assert any(t.endswith("[EMAIL]") for t in texts) and not any("@" in t for t in texts)
    assert len(set(texts)) == len(texts) and prose(3) in texts and prose(7) not in texts


def test_the_split_of_a_document_survives_other_sources_coming_and_going(tmp_path: Path) -> None:
    a, b = (
        corpus(tmp_path, [prose(i) for i in range(60)], "a"),
        corpus(tmp_path, [prose(i) for i in range(60, 90)], "b"),
    )
    settings = {"quality": None, "languages": (), "near_duplicates": None, "valid_share": 0.3}
    one = prepare(DataConfig((a,), **settings))  # type: ignore[arg-type]
    both = prepare(DataConfig((b, a), **settings))  # type: ignore[arg-type]
    splits = {d.id: d.split for d in both.documents}
    assert len(one.documents) == 60 and all(splits[d.id] == d.split for d in one.documents)
    assert {d.split for d in one.documents} == {"train", "valid"}


@given(st.floats(0, 0.99), st.integers(0, 10**6))
def test_a_larger_share_only_adds_documents_to_validation(share: float, number: int) -> None:
    if split_of(f"id-{number}", share) == "valid":
        assert split_of(f"id-{number}", min(share + 0.01, 1)) == "valid"
    assert split_of(f"id-{number}", 0) == "train"


def test_the_valid_share_is_met() -> None:
    share = sum(split_of(f"{i:016x}", 0.1) == "valid" for i in range(10_000)) / 10_000
    assert share == pytest.approx(0.1, abs=4 * (0.09 / 10_000) ** 0.5)


def test_a_source_of_which_nothing_is_left_says_what_removed_it(tmp_path: Path) -> None:
    web = corpus(tmp_path, ["short one", "short two"])
    with pytest.raises(ValueError, match=r"'web': of 2 documents none is left .too few words: 2.; loosen the filter"):
        prepare(DataConfig((web,)))


def test_an_empty_source_raises(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SourceError, match="nothing usable"):
        prepare(DataConfig((SourceConfig("a", "text", str(tmp_path / "a.txt")),)))


def test_a_source_that_falls_to_validation_as_a_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(1))
    config = DataConfig((SourceConfig("a", "text", str(tmp_path / "a.txt")),), valid_share=0.999999)
    with pytest.raises(ValueError, match=r"'a': all of it fell to validation, .* give it as more than one document"):
        prepare(config)


def test_passages_of_one_text_are_in_one_split_and_a_row_put_first_moves_none(tmp_path: Path) -> None:
    for name in range(30):
        text = "\n\n".join(prose(100 * name + i) for i in range(12))
        (tmp_path / f"{name:02d}.txt").write_text(text)
    settings = {"near_duplicates": None, "valid_share": 0.3}
    one = prepare(DataConfig((SourceConfig("t", "text", str(tmp_path), passage_chars=900),), **settings))  # type: ignore[arg-type]
    splits: dict[str, set[str]] = {}
    for document in one.documents:
        splits.setdefault(whole_of(document.id), set()).add(document.split)
    assert len(splits) == 30 < len(one.documents) and all(len(found) == 1 for found in splits.values())
    assert {"train", "valid"} == set().union(*splits.values())
    (tmp_path / "00-first.txt").write_text(prose(5000))
    more = prepare(DataConfig((SourceConfig("t", "text", str(tmp_path), passage_chars=900),), **settings))  # type: ignore[arg-type]
    assert {(d.id, d.split) for d in one.documents} < {(d.id, d.split) for d in more.documents}


def test_the_same_documents_stay_whatever_their_order(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(30)] + [prose(i).upper() for i in range(10)]
    texts += [prose(i).replace(" the ", " a ", 1) for i in range(20)]
    kept = []
    for order in (texts, texts[::-1], random.Random(1).sample(texts, len(texts))):
        prepared = prepare(DataConfig((corpus(tmp_path, order),)))
        kept.append({(d.id, d.text, d.split) for d in prepared.documents})
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) == 30


def test_removals_say_what_went_and_why_without_personal_data(messy: Prepared) -> None:
    found = {(r.step, r.reason): r for r in messy.removals if r.source == "web"}
    assert set(found) >= {
        ("language", "language de"),
        ("quality", "too few words"),
        ("near duplicates", "near duplicate"),
    }
    assert found["quality", "too few words"].excerpt == "The text is short."
    assert found["quality", "too few words"].origin == "web/web.jsonl#43"
    detail = found["decontaminate", "holds an evaluation prompt"].detail
    assert len(detail.split()) == 10 and detail in prose(7).lower().replace(".", "")


def test_a_card_tells_what_is_left_and_shows_a_sample_that_does_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(300)]
    first, other = (prepare(DataConfig((corpus(tmp_path, order),))).cards[0] for order in (texts, texts[::-1]))
    assert (first.num_documents, first.num_whole, first.languages) == (300, 300, {"en": 300})
    assert sum(first.lengths) == 300 and first.num_bytes == sum(len(text) for text in texts)
    assert len(first.sample) == 100
    assert {row.document_id for row in first.sample} == {row.document_id for row in other.sample}
    chars = sum(row.chars for row in first.sample) / 100
    assert chars == pytest.approx(sum(map(len, texts)) / 300, rel=0.05)


def test_shared_lines_and_paragraphs_and_runs_of_words_are_cut(tmp_path: Path) -> None:
    banner, notice = "Subscribe to our newsletter today", "All rights reserved by the people of this page\nand others."
    quote = prose(700)
    texts = [f"{banner}\n{prose(i)}\n\n{notice}" for i in range(8)] + [f"{prose(20)} {quote}", f"{quote} {prose(21)}"]
    config = DataConfig((corpus(tmp_path, texts),), repeated=RepeatedConfig(), near_duplicates=None)
    prepared = prepare(config)
    left = [d.text for d in prepared.documents]
    assert left[:8] == [prose(i) for i in range(8)]
    assert sum(quote in text for text in left[8:]) == 1 and all(prose(20 + i) in left[8 + i] for i in range(2))
    row = next(row for row in prepared.funnel if row.step == "repeated spans")
    assert (row.num_documents, row.num_changed) == (10, 9)
    kept = {d.text for d in prepare(replace(config, sources=(corpus(tmp_path, texts[::-1]),))).documents}
    assert kept == set(left)


def test_a_reading_that_was_killed_goes_on_behind_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = corpus(tmp_path, [prose(i) for i in range(40)] + ["short"], broken=3)
    config = DataConfig((source, SourceConfig("sums", "problems", max_bytes=300, seed=3)))
    generators = {"problems": sums}
    whole = prepare(config, generators=generators)
    monkeypatch.setattr("components.data.pipeline._BATCH", 8)
    monkeypatch.setattr("components.data.pipeline._PART_DOCUMENTS", 16)
    read: list[str] = []

    def dying(text: str) -> str:
        read.append(text)
        if len(read) == 30:
            raise KeyboardInterrupt
        return text

    monkeypatch.setattr("components.data.pipeline.repair", dying)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        prepare_to(tmp_path / "out", tmp_path / "scratch", config, generators=generators)
    resumed = prepare_to(tmp_path / "out", tmp_path / "scratch", config, generators=generators)
    assert len(read) < 30 + 41 - 15  # the first parts were not read again
    assert tuple(read_corpus(tmp_path / "out" / "documents.parquet")) == whole.documents
    for name in ("funnel", "quarantined", "removals", "masked", "cards", "num_bytes"):
        assert getattr(resumed, name) == getattr(whole, name), name


def test_the_corpus_file_gives_back_what_was_written(tmp_path: Path, messy: Prepared) -> None:
    assert write_corpus(messy.documents, tmp_path / "c.parquet", rows_per_group=7) == len(messy.documents)
    assert tuple(read_corpus(tmp_path / "c.parquet")) == messy.documents
    some = [d for d in messy.documents if d.source == "sums" and d.split == "train"]
    assert list(read_corpus(tmp_path / "c.parquet", "sums", "train")) == some


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'s' is named twice"):
        DataConfig((SourceConfig("s", "sotu"), SourceConfig("s", "bible")))
    with pytest.raises(ValueError, match=r"valid_share is 1.0"):
        DataConfig((SourceConfig("s", "sotu"),), valid_share=1.0)
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        prepare(DataConfig((SourceConfig("s", "sotu"),), languages=("xx",)))


def test_own_text_becomes_sources_named_after_its_files(tmp_path: Path) -> None:
    config = DataConfig((SourceConfig("stories", "stories", max_bytes=9),), own=("x/mail/*.jsonl", "./notes", "r.txt"))
    own = config.all_sources[1:]
    assert [(s.name, s.kind, s.path) for s in own] == [
        ("mail", "files", "x/mail/*.jsonl"),
        ("notes", "files", "./notes"),
        ("r", "files", "r.txt"),
    ]
    assert config.weights_by_source == {"stories": 1.0, "mail": 0.25, "notes": 0.25, "r": 0.25}
    with pytest.raises(ValueError, match="'notes' is named twice"):
        DataConfig((), own=("a/notes", "b/notes"))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://me:pass@word@127.0.0.1:80/a/notes.jsonl?token=secret", "notes"),
        ("s3://key:secret@bucket/mail/*.jsonl", "mail"),
        ("s3://key:secret@bucket/*", "bucket"),
        ("zip://notes.txt::https://secret@example.org/all.zip#secret", "all"),
    ],
)
def test_a_source_is_not_named_after_a_secret(address: str, name: str) -> None:
    (source,) = DataConfig((), own=(address,)).all_sources
    assert (source.name, source.path) == (name, address)
