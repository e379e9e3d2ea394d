"""Fine-tuning's batches: packed is as good as alone, replay and noise are as the settings say."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from components.data.conversations import PackedConversations, Tokenised, pack_conversations
from components.data.shards import TokenShards, write_shards
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import FinetuneConfig, PretrainConfig
from components.training.early_stop import EarlyStop
from components.training.finetuning import FinetuneBatches, held_out_batches, neftune_noise
from components.training.language_model import IGNORE, LMBatch, source_weights, summed_loss
from components.training.results.finetuning import EarlyStopResult
from components.training.validation import held_out

T, D = 16, 32
MODEL = ModelConfig(vocab_size=300, d_model=D, num_layers=2, num_heads=2, context_length=T)


class Document(NamedTuple):
    text: str
    source: str
    split: str


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat and the dog ran to the hill"], 300)


@pytest.fixture(scope="module")
def shards(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    texts = {"tales": "the cat sat on the mat", "notes": "the dog ran to the hill, né 木"}
    documents = [
        Document(f"{text} {i}", source, "valid" if i % 5 == 0 else "train")
        for source, text in texts.items()
        for i in range(40)
    ]
    folder = tmp_path_factory.mktemp("shards")
    write_shards(documents, words, folder)
    return TokenShards.open(folder)


def conversations(count: int = 30) -> list[Tokenised]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 10, count)
    return [Tokenised(rng.integers(8, 290, n).tolist(), [0] * (n // 2) + [1] * (n - n // 2)) for n in lengths]


def packed() -> PackedConversations:
    return pack_conversations(conversations(), T, pad_id=0)


def batches(shards: TokenShards, **settings: float) -> FinetuneBatches:
    config = FinetuneConfig(num_steps=9, batch_size=8, context_length=T, **settings)  # type: ignore[arg-type]
    return FinetuneBatches(config, packed(), shards, {"tales": 1.0}, D, seed=5)


def test_packed_loss_and_gradients_are_those_of_the_conversations_alone() -> None:
    rows = held_out_batches(packed(), 4)
    assert all(int(row.documents_BT.max()) > 1 for row in rows if row.documents_BT is not None)
    together, alone = Transformer(MODEL, 0), Transformer(MODEL, 0)
    total = torch.stack([summed_loss(together, row)[0] for row in rows]).sum()
    total.backward()
    single = torch.zeros(())
    for ids, mask in conversations():
        targets = [token if learn else IGNORE for token, learn in zip(ids[1:], mask[1:], strict=True)]
        single = single + summed_loss(alone, LMBatch(torch.tensor([ids[:-1]]), torch.tensor([targets])))[0]
    single.backward()
    count = sum(row.loss_weight() for row in rows)
    assert float(total.detach() - single.detach()) / count == pytest.approx(0.0, abs=1e-5)
    for (name, one), (_, other) in zip(together.named_parameters(), alone.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad / count, other.grad / count, atol=1e-5, rtol=0, msg=name)


def test_a_share_of_each_batch_is_pretraining_text_of_the_weighted_sources(shards: TokenShards) -> None:
    mixed = batches(shards, replay=0.25)
    tales = shards.stream("tales")
    stream = torch.from_numpy(tales.read(0, len(tales)).astype(np.int64))
    windows = stream.unfold(0, T, 1)
    for step in range(5):
        batch = mixed.at(step)
        assert batch.tokens_BT.shape == (8, T)
        for row in range(6, 8):  # the last quarter: a window that stands so in the shards, every token a target
            assert (windows == batch.tokens_BT[row]).all(1).any()
            assert torch.equal(batch.targets_BT[row, :-1], batch.tokens_BT[row, 1:])
            assert batch.positions_BT is not None
            assert batch.positions_BT[row].tolist() == list(range(T))
        assert (batch.targets_BT[:6] == IGNORE).any()
    assert batches(shards, replay=0.0).at(0).tokens_BT.shape == (8, T)


@pytest.mark.parametrize(("share", "said"), [(0.05, "0 of the 8 rows"), (0.97, "8 of the 8 rows"), (1.0, "below 1")])
def test_a_share_that_gives_no_row_or_all_is_refused(share: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FinetuneConfig(batch_size=8, replay=share)


def test_noise_has_the_size_of_the_paper_and_depends_on_the_step_alone(shards: TokenShards) -> None:
    noisy = batches(shards, neftune_alpha=5.0, replay=0.25)
    batch = noisy.at(3)
    assert batch.noise_BTD is not None
    assert batch.documents_BT is not None
    assert torch.equal(batch.noise_BTD, batches(shards, neftune_alpha=5.0, replay=0.25).at(3).noise_BTD)
    assert not torch.equal(batch.noise_BTD, noisy.at(4).noise_BTD)
    assert not batch.noise_BTD[6:].any()  # replayed text has none
    for row in range(6):
        for document in batch.documents_BT[row].unique().tolist():
            here = batch.documents_BT[row] == document
            size = batch.noise_BTD[row, here].abs().max()
            bound = 5.0 / math.sqrt(int(here.sum()) * D)
            assert size == 0 if document == 0 else 0.9 * bound < size <= bound
    # Uniform: mean 0, variance bound²/3.
    noise = neftune_noise(torch.ones(4, 1000, dtype=torch.long), D, 1.0, 0, 0) * math.sqrt(1000 * D)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(noise.var()) == pytest.approx(1 / 3, rel=0.02)


def test_noise_goes_onto_the_embeddings(shards: TokenShards) -> None:
    model = Transformer(MODEL, 0)
    batch = batches(shards, neftune_alpha=5.0, replay=0.0).at(0)
    assert batch.noise_BTD is not None
    plain = batches(shards, replay=0.0).at(0)
    assert float(summed_loss(model, batch)[0].detach()) != float(summed_loss(model, plain)[0].detach())
    # Noise that turns every embedding into that of token 9 makes all rows those of token 9.
    nine = model.embedding.weight[9].detach() - model.embedding.weight[plain.tokens_BT].detach()
    moved = model.hidden(plain.tokens_BT, plain.positions_BT, plain.documents_BT, noise_BTD=nine).x_BTD
    asked = model.hidden(torch.full_like(plain.tokens_BT, 9), plain.positions_BT, plain.documents_BT).x_BTD
    torch.testing.assert_close(moved, asked)


def test_weighted_loss_by_hand() -> None:
    model, rows = Transformer(MODEL, 0), torch.randint(0, 300, (3, T + 1), generator=torch.Generator().manual_seed(0))
    by_source = source_weights(("a", "b", "c"), {"c": 3.0, "a": 0.0})
    assert by_source is not None
    assert by_source.tolist() == [0.0, 1.0, 3.0]
    targets = rows[:, 1:].clone()
    targets[1, :4] = IGNORE
    batch = LMBatch(rows[:, :-1], targets, weights_BT=by_source[:, None].expand(3, T))
    with torch.no_grad():
        log_probs = model(rows[:, :-1]).double().log_softmax(-1)
        each = -log_probs.gather(-1, rows[:, 1:, None])[..., 0]
    expected = float(each[1, 4:].sum() + 3 * each[2].sum())
    assert float(summed_loss(model, batch)[0].detach()) == pytest.approx(expected, rel=1e-5)
    assert batch.loss_weight() == 12 + 3 * T
    assert source_weights(("a", "b"), {"a": 1.0}) is None
    with pytest.raises(ValueError, match="loss_weights names 'x'; the sources are a, b"):
        source_weights(("a", "b"), {"x": 2.0})
    with pytest.raises(ValueError, match=r"loss_weights\.a is -1"):
        PretrainConfig(loss_weights={"a": -1.0})


def test_bits_a_byte_by_hand(shards: TokenShards, words: Tokenizer) -> None:
    model = Transformer(MODEL, 0).train()
    found = held_out(model, shards, words, T)
    assert model.training
    for source in shards.sources:
        stream = shards.stream(source, "valid")
        tokens = torch.from_numpy(stream.read(0, len(stream)).astype(np.int64))
        nats = 0.0
        for start in range(0, len(tokens) - 1, T):
            window = tokens[start : start + T + 1]
            with torch.no_grad():
                log_probs = model(window[None, :-1]).double().log_softmax(-1)
            nats -= float(log_probs.gather(-1, window[None, 1:, None]).sum())
        # Bytes of the text itself: every document but the bos that begins it.
        num_bytes = shards.index.count("num_bytes", source, "valid")
        assert found[source].bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
        assert found[source].loss == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)
        assert float(np.mean(found[source].bits_by_window)) == pytest.approx(found[source].bits_per_byte)


def test_early_stop_keeps_the_weights_of_the_lowest_look() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    watch, said = EarlyStop(patience=2), []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.0, math.nan, 1.0], start=1):
        torch.nn.init.constant_(model.weight, step)
        said.append(watch.look(step, loss, model))
    assert said == [False, False, False, False, False, True]
    watch.restore(model)
    assert model.weight.item() == 4
    assert watch.result() == EarlyStopResult(4, 1.0, 6, 1.0, 0.0)
    endless = EarlyStop(patience=0)
    assert not any(endless.look(step, 1.0 + step, model) for step in range(9))
