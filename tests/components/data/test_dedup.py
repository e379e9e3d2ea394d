from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.dedup import DedupConfig, _shingles, _signatures, content_hash, near_duplicates


def words(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def test_content_hash_ignores_case_and_spacing_and_nothing_else() -> None:
    assert content_hash("The  Cat\n sat") == content_hash("the cat sat")
    assert content_hash("3+4=7") != content_hash("3-4=7")


def test_copies_with_small_edits_go_and_the_longest_stays() -> None:
    rng = random.Random(0)
    documents = [words(rng, 300) for _ in range(60)]
    edited = [list(d) for d in documents[:20]]
    for document in edited:
        document[150] = "changed-and-longer"  # at most 4 of 298 shingles differ
    texts = [" ".join(d) for d in documents + edited]
    assert near_duplicates(texts) == {i: 60 + i for i in range(20)}


@given(st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_which_copy_survives_does_not_depend_on_the_order(order: random.Random) -> None:
    rng = random.Random(5)
    texts = []
    for _ in range(20):
        document = words(rng, 120)
        for _ in range(3):
            copy = list(document)
            copy[rng.randrange(120)] = f"w{rng.randrange(5000)}"
            texts.append(" ".join(copy))
    shuffled = order.sample(texts, len(texts))
    gone = [near_duplicates(some) for some in (texts, shuffled)]
    survivors = [
        {t for i, t in enumerate(some) if i not in found} for some, found in zip((texts, shuffled), gone, strict=True)
    ]
    assert survivors[0] == survivors[1] and len(survivors[0]) == 20


def test_three_percent_of_the_words_edited_is_found_and_seventy_percent_shared_is_not() -> None:
    rng = random.Random(4)
    documents = [words(rng, 300) for _ in range(100)]
    edited = [[f"x{rng.randrange(5000)}" if rng.random() < 0.03 else w for w in d] for d in documents]
    assert len(near_duplicates([" ".join(d) for d in documents + edited])) >= 99
    shared = [[*d[:210], *words(rng, 90)] for d in documents]
    assert near_duplicates([" ".join(d) for d in documents + shared]) == {}


def test_chinese_and_thai_copies_are_found() -> None:
    rng = random.Random(3)
    for first, count in ((0x4E00, 3000), (0x0E01, 46)):
        text = [chr(first + rng.randrange(count)) for _ in range(575)]
        copy = list(text)
        for place in (100, 300, 500):
            copy[place] = chr(first + 1)
        other = "".join(chr(first + rng.randrange(count)) for _ in range(575))
        assert len(near_duplicates(["".join(text), "".join(copy), other])) == 1


def test_similarity_below_the_threshold_stays() -> None:
    rng = random.Random(1)
    head = words(rng, 200)
    texts = [" ".join(head + words(rng, 200)) for _ in range(10)]  # Jaccard about 196 / 596
    assert near_duplicates(texts) == {}
    assert len(near_duplicates(texts, DedupConfig(threshold=0.2, bands=64, rows=2))) == 9


def test_chains_form_one_group() -> None:
    rng = random.Random(2)
    chain = [words(rng, 200)]
    for start in range(0, 100, 10):  # each differs from the one before by some 14 shingles, the ends by most
        chain.append([*chain[-1][:start], *words(rng, 10), *chain[-1][start + 10 :]])
    found = near_duplicates([" ".join(w) for w in chain], DedupConfig(bands=32, rows=4))
    assert len(found) == 10 and len(set(found.values())) == 1


@given(st.lists(st.text(alphabet="ab ", max_size=30), max_size=12))
@settings(max_examples=100, deadline=None)
def test_equal_texts_are_always_found(texts: list[str]) -> None:
    found = near_duplicates(texts)
    for text in set(texts):
        assert sum(other == text and i not in found for i, other in enumerate(texts)) <= 1
    assert not set(found) & set(found.values())


def test_shingles_are_those_of_each_document_alone() -> None:
    together = _shingles(["a b c d", "b c d", "x", "a b c d"], 2)
    assert [len(s) for s in together] == [3, 2, 1, 3]
    assert together[1].tolist() == together[0][1:].tolist() and together[0].tolist() == together[3].tolist()
    assert [len(s) for s in _shingles(["a b", "a b c"], 5)] == [1, 1]


def test_signatures_estimate_the_jaccard_similarity() -> None:
    values = np.random.default_rng(0).integers(0, 2**63, 1500).astype(np.uint64)
    a, b = values[:1000], values[500:]  # similarity 500 / 1500
    signatures = _signatures([a, b], 2048, seed=3)
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(1 / 3, abs=4 * (2 / 9 / 2048) ** 0.5)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold must lie in"):
        near_duplicates(["a"], DedupConfig(threshold=0))
