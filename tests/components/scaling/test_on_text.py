from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from components.data.shards import FORMAT, ShardFile, ShardIndex, TokenShards
from components.model.config import count_params
from components.model.transformer import Transformer
from components.scaling.on_text import (
    build,
    context_gain,
    held_out_windows,
    losses_by_position,
    mixed_windows,
    position_bands,
    routing,
    text_batch,
    time_training,
)
from components.scaling.text_runs import (
    LSTM,
    TRANSFORMER,
    RecurrentComparisonConfig,
    SpecializationConfig,
    TextModelConfig,
)
from components.training.config import TrainConfig
from components.training.language_model import LMBatch, mean_loss

SMALL = TextModelConfig(d_model=16, num_layers=1, head_dim=8)
COMPARED = RecurrentComparisonConfig(
    model=SMALL,
    lstm_layers=1,
    train=TrainConfig(num_steps=2, batch_size=4, context_length=16),
    contexts=(8, 32),
    tokens_per_batch=64,
    timed_steps=2,
)


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    """Source a: 2,000 tokens to train on and 300 held out; b the same; c holds out less than a window."""
    rng, files = np.random.default_rng(0), []
    for source, held_out in (("a", 300), ("b", 300), ("c", 10)):
        for split, length in (("train", 2000), ("valid", held_out)):
            name = f"{source}-{split}.safetensors"
            tokens = rng.integers(0, 40, length).astype(np.uint16)
            save_file({"tokens": tokens, "offsets": np.array([0, length])}, tmp_path / name)
            files.append(ShardFile(name, source, split, 1, length, length))
    return TokenShards(tmp_path, ShardIndex(FORMAT, "uint16", 40, 0, ("a", "b", "c"), tuple(files)))


def test_both_models_have_one_size_and_see_the_same_batches(shards: TokenShards) -> None:
    models = COMPARED.architectures(40, 16)
    ours, theirs = (count_params(models[name]) for name in (TRANSFORMER, LSTM))
    assert theirs.total == pytest.approx(ours.total, rel=0.02)
    assert theirs.embedding == ours.embedding
    weights = {"a": 0.5, "b": 0.5}
    one, again = (text_batch(shards, COMPARED.train, weights, 0, 7) for _ in range(2))
    assert torch.equal(one.tokens_BT, again.tokens_BT)
    assert torch.equal(one.tokens_BT[:, 1:], one.targets_BT[:, :-1])


def test_windows_are_held_out_full_and_named(shards: TokenShards) -> None:
    batch, sources = held_out_windows(shards, {"a": 5, "b": 100, "c": 5}, 16)
    assert sources == ["a"] * 5 + ["b"] * 18  # 299 targets make 18 windows of 16; c has none
    assert batch.tokens_BT.shape == batch.targets_BT.shape == (23, 16)
    assert len(mixed_windows(shards, {"a": 3.0, "b": 1.0, "c": 0.0}, 20, 16).tokens_BT) == 15 + 5
    with pytest.raises(ValueError, match="no source has 400 held-out tokens"):
        held_out_windows(shards, {"a": 5}, 400)


def test_losses_by_position_average_to_the_mean_loss(shards: TokenShards) -> None:
    batch, _ = held_out_windows(shards, {"a": 9}, 16)
    for cfg in COMPARED.architectures(40, 16).values():
        model = build(cfg, 0)
        losses_WT = losses_by_position(model, batch, rows=4)
        assert losses_WT.shape == (9, 16)
        assert float(losses_WT.mean()) == pytest.approx(mean_loss(model, [batch])[0], rel=1e-5)


def test_bands_double_and_compare_the_same_windows_by_hand() -> None:
    ours = torch.arange(8.0).repeat(3, 1)
    theirs = ours + torch.tensor([[1.0], [2.0], [3.0]])  # differs by window, not by position
    bands = position_bands(ours, theirs)
    assert [(b.first, b.last) for b in bands] == [(1, 1), (2, 2), (3, 4), (5, 8)]
    assert [b.transformer.value for b in bands] == [0.0, 1.0, 2.5, 5.5]
    assert bands[2].transformer.low == bands[2].transformer.high == 2.5
    assert [b.gap.value for b in bands] == pytest.approx([2.0] * 4)
    assert bands[0].gap.low == pytest.approx(2 - 4.302653 / 3**0.5)  # Student's t of 2 degrees, sd 1
    assert position_bands(torch.zeros(2, 6), torch.zeros(2, 6))[-1].last == 6


def test_context_gain_by_hand() -> None:
    """Positions 2 and 3 of 16 against 9 to 16: one falls by 1, the other by a quarter."""
    ours, theirs = torch.zeros(4, 16), torch.zeros(4, 16)
    ours[:, 2:4], theirs[:, 2:4] = 1.0, 0.25
    ours[:, :2] = 100.0  # before any context there is nothing to gain from
    gain = context_gain(ours, theirs)
    assert (gain.value, gain.low, gain.high, gain.n) == (0.75, 0.75, 0.75, 4)


def test_every_context_is_timed_in_turns_and_the_first_step_is_not_counted(shards: TokenShards) -> None:
    steps = list(time_training(COMPARED, shards, {"a": 1.0}, 0))
    names = [TRANSFORMER, LSTM] * 4
    assert [(s.architecture, s.context) for s in steps] == list(zip(names, [8] * 4 + [32] * 4, strict=True))
    assert [s.repeat for s in steps] == [1, 1, 2, 2] * 2
    assert all(s.seconds > 0 for s in steps)


def test_settings_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the context 48 does not divide"):
        replace(COMPARED, contexts=(8, 48))
    with pytest.raises(ValueError, match="timed_steps is 1"):
        replace(COMPARED, timed_steps=1)
    with pytest.raises(ValueError, match="head_dim = 16"):
        TextModelConfig(d_model=24)


def test_routing_counts_every_assignment_of_every_window_once() -> None:
    study = SpecializationConfig(model=SMALL, num_experts=4, top_k_experts=2)
    moe = study.variants()["moe_loss_free"]
    model = Transformer(replace(SMALL.transformer(40, 16), moe=moe), 1)
    tokens = torch.randint(0, 40, (7, 16), generator=torch.Generator().manual_seed(0))
    [counts_WE], [entropy] = routing(model, LMBatch(tokens, tokens), rows=3)
    assert counts_WE.sum(1).tolist() == [32] * 7
    [alone], _ = routing(model, LMBatch(tokens[4:5], tokens[4:5]))
    assert counts_WE[4].tolist() == alone[0].tolist()
    assert 0 < entropy <= np.log(4)
    assert routing(Transformer(SMALL.transformer(40, 16)), LMBatch(tokens, tokens)) == ([], [])


def test_the_two_ways_to_balance_differ_in_nothing_else() -> None:
    by_loss, by_bias = SpecializationConfig().variants().values()
    assert by_loss.load_balance_coef > 0 == by_loss.balance_bias_rate
    assert by_bias.balance_bias_rate > 0 == by_bias.load_balance_coef
    assert replace(by_loss, load_balance_coef=0.0, balance_bias_rate=by_bias.balance_bias_rate) == by_bias
