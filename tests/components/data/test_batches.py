from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from components.data.batches import CYCLE, batch_at, cycle_counts, permute, validation_batches
from components.data.shards import FORMAT, ShardFile, ShardIndex, TokenShards

T = 8


def make_shards(folder: Path, lengths: dict[str, int], split: str = "train") -> TokenShards:
    """Token i of source k is 1000 k + i, so that a batch says where it was read."""
    files = []
    for k, (source, length) in enumerate(lengths.items()):
        tokens = (np.arange(length) + 1000 * k).astype(np.uint16)
        save_file({"tokens": tokens, "offsets": np.array([0, length])}, folder / f"{source}.safetensors")
        files.append(ShardFile(f"{source}.safetensors", source, split, 1, length, length))
    return TokenShards(folder, ShardIndex(FORMAT, "uint16", 1 << 16, 0, tuple(lengths), tuple(files)))


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    return make_shards(tmp_path, {"a": 101, "b": 407, "c": 50})


def test_targets_follow_inputs_and_tokens_belong_to_the_named_source(shards: TokenShards) -> None:
    for step in range(20):
        inputs, targets, sources = batch_at(shards, step, 6, T, seed=3)
        assert inputs.shape == targets.shape == (6, T) and inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, inputs + 1)  # consecutive integers by construction
        assert torch.equal(inputs[:, 0] // 1000, sources)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path, shards: TokenShards) -> None:
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    forwards = [batch_at(shards, step, 5, T, 7, weights).inputs_BT for step in range(300)]
    again = TokenShards(shards.folder, shards.index)
    for step in (299, 206, 0, 205):  # 205 crosses a cycle of 1,024 slots
        resumed = batch_at(again, step, 5, T, 7, dict(reversed(weights.items()))).inputs_BT
        assert torch.equal(resumed, forwards[step])
    assert not torch.equal(batch_at(shards, 0, 5, T, 8, weights).inputs_BT, forwards[0])


def test_each_epoch_visits_each_window_once_and_in_a_new_order(shards: TokenShards) -> None:
    size = (len(shards.stream("b")) - 1) // T
    assert size == 50
    visits = torch.cat([batch_at(shards, step, 10, T, 1, {"b": 1.0}).inputs_BT[:, 0] for step in range(20)])
    epochs = [((visits[e * size : (e + 1) * size] - 1000) // T).tolist() for e in range(4)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_every_source_of_a_mixture_also_visits_each_window_once_an_epoch(shards: TokenShards) -> None:
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(256):
        batch = batch_at(shards, step, 8, T, 5, {"a": 2.0, "b": 1.0, "c": 1.0})
        for source, first in zip(batch.source_ids_B.tolist(), batch.inputs_BT[:, 0].tolist(), strict=True):
            seen[source].append((first - 1000 * source) // T)
    assert {s: len(v) for s, v in seen.items()} == {0: 1024, 1: 512, 2: 512}  # two exact cycles
    for source, size in enumerate((len(shards.stream(name)) - 1) // T for name in shards.sources):
        for start in range(0, len(seen[source]) - size + 1, size):
            assert sorted(seen[source][start : start + size]) == list(range(size))


def test_ranks_share_the_one_global_batch(shards: TokenShards) -> None:
    whole = batch_at(shards, 4, 6, T, 0)
    for rank in range(3):
        part = batch_at(shards, 4, 6, T, 0, rank=rank, world_size=3)
        assert torch.equal(part.inputs_BT, whole.inputs_BT[rank::3])


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_shares_of_a_cycle_are_within_one_window_of_the_weights(weights: list[float]) -> None:
    counts = np.array(cycle_counts(tuple(weights)))
    assert counts.sum() == CYCLE and counts.min() >= 1
    ideal = 1 + np.array(weights) / sum(weights) * (CYCLE - len(weights))
    assert np.abs(counts - ideal).max() < 1 + 1e-6


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=100, deadline=None)
def test_permute_is_a_bijection_of_any_size(size: int, key: int) -> None:
    image = permute(np.arange(size), np.full(size, size), np.full(size, key, dtype=np.uint64))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permute_spreads_like_a_random_order() -> None:
    size, keys = 12, np.random.default_rng(0).integers(0, 2**63, 6000).astype(np.uint64)
    for position in (0, 5, 11):
        image = permute(np.full(6000, position), np.full(6000, size), keys)
        counts = np.array([Counter(image.tolist())[w] for w in range(size)])
        # chi-square with 11 degrees of freedom: 31.3 is its 99.9% point
        assert ((counts - 500) ** 2 / 500).sum() < 31.3


def test_validation_predicts_every_token_once_in_order(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, {"a": 101, "b": 5}, "valid")
    batches = list(validation_batches(shards, "a", 5, T))
    assert torch.cat([t.flatten() for _, t in batches]).tolist() == list(range(1, 101))
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in batches)
    assert [t.tolist() for _, t in validation_batches(shards, "b", 5, T)] == [[[1001, 1002, 1003, 1004]]]
    some = torch.cat([i[:, 0] for i, _ in validation_batches(shards, "a", 5, T, max_windows=3)])
    assert some.tolist() == [0, 32, 64]


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"z": 1.0}, "names 'z'.*a, b, c"),
        ({"a": -1.0}, r"\['a'\] is -1.0"),
        ({"a": float("nan")}, r"\['a'\] is nan"),
        ({"a": 0.0}, "leaves no source"),
    ],
)
def test_bad_weights_are_refused(shards: TokenShards, weights: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        batch_at(shards, 0, 2, T, 0, weights)


def test_a_source_shorter_than_a_window_is_refused(shards: TokenShards) -> None:
    with pytest.raises(ValueError, match=r"source 'c' has 50 train tokens, fewer than one window of 64 \+ 1"):
        batch_at(shards, 0, 2, 64, 0)
    with pytest.raises(ValueError, match="world_size divides"):
        batch_at(shards, 0, 5, T, 0, world_size=2)
