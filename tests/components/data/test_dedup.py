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


def test_copies_with_small_edits_go_and_the_first_stays() -> None:
    rng = random.Random(0)
    documents = [words(rng, 300) for _ in range(60)]
    edited = [list(d) for d in documents[:20]]
    for document in edited:
        document[150] = "changed"  # 5 of 296 shingles differ: Jaccard 291/301
    texts = [" ".join(d) for d in documents + edited]
    assert near_duplicates(texts) == {60 + i: i for i in range(20)}
    assert near_duplicates(reversed(texts)) == {79 - i: 19 - i for i in range(20)}  # now the edited ones come first


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
    assert found == dict.fromkeys(range(1, 11), 0)


@given(st.lists(st.text(alphabet="ab ", max_size=30), max_size=12))
@settings(max_examples=100, deadline=None)
def test_equal_texts_are_always_found(texts: list[str]) -> None:
    found = near_duplicates(texts)
    for i, text in enumerate(texts):
        if text in texts[:i]:
            assert i in found
    assert all(root < i and root not in found for i, root in found.items())


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
