"""Padding reaches the experts and moves no router: losses, gradients, bias and statistics are those without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.config import ModelConfig, MoEConfig
from components.model.moe import MixtureOfExperts, RouterStats
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.rlhf.dpo import response_log_probs
from components.rlhf.pairs import TokenPair
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import pack_responses, token_stats, up_to_last
from components.training.config import TrainConfig
from components.training.language_model import IGNORE, LMBatch, balanced_as_one, micro_batches, summed_loss, train
from components.training.optimizers import Optimizer

EXPERTS = MoEConfig(4, 2, 8, load_balance_coef=0.3, router_z_coef=0.1, shared_d_ff=8, balance_bias_rate=0.01)
CONFIG = ModelConfig(vocab_size=29, d_model=16, num_layers=2, num_heads=2, context_length=160, moe=EXPERTS)
PADDING = 120


def model(seed: int = 0) -> Transformer:
    return Transformer(CONFIG, seed).double().train()


def router_gradients(network: torch.nn.Module) -> list[Tensor]:
    """And a new start for the next gradient."""
    grads = [part.router.weight.grad for part in network.modules() if isinstance(part, MixtureOfExperts)]
    found = [grad.clone() for grad in grads if grad is not None]
    assert len(found) == 2
    network.zero_grad()
    return found


def counts(network: torch.nn.Module) -> list[list[float]]:
    layers = [part for part in network.modules() if isinstance(part, MixtureOfExperts)]
    found = [layer.assigned_E.tolist() for layer in layers if layer.assigned_E is not None]
    for layer in layers:
        layer.forget_assignments()
    return found


def conversations(rows: int = 8, columns: int = 13, lengths: tuple[int, ...] = (10, 13, 4, 7)) -> LMBatch:
    """Rows of two documents each, padded to `columns` tokens."""
    tokens = torch.randint(1, 29, (rows, columns), generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([lengths[row % len(lengths)] for row in range(rows)])
    place = torch.arange(columns).expand(rows, -1)
    documents = torch.where(place < ends[:, None], 1 + (place >= 3).long(), 0)
    targets = torch.where(documents > 0, tokens.roll(-1, 1), IGNORE)
    return LMBatch(tokens * (documents > 0), targets, place * (documents > 0), documents)


def padded(batch: LMBatch) -> LMBatch:
    def wider(x: Tensor | None, value: int = 0) -> Tensor | None:
        return None if x is None else F.pad(x, (0, PADDING), value=value)

    return replace(
        batch,
        tokens_BT=F.pad(batch.tokens_BT, (0, PADDING)),
        targets_BT=F.pad(batch.targets_BT, (0, PADDING), value=IGNORE),
        positions_BT=wider(batch.positions_BT),
        documents_BT=wider(batch.documents_BT),
    )


def of_conversations(network: Transformer, extra: int) -> Tensor:
    batch = padded(conversations()) if extra else conversations()
    cross_entropy, _, auxiliary = summed_loss(network, batch)
    return cross_entropy / batch.loss_weight() + auxiliary


def of_answers(network: Transformer, extra: int) -> Tensor:
    """What PPO, GRPO and DPO ask of a policy."""
    tokens, _, mask = pack_responses([[3, 4], [5], [6, 7, 8]], [[9] * 9, [10, 11], [12, 13, 14, 15]])
    stats = token_stats(network, F.pad(tokens, (0, extra)), F.pad(mask, (0, extra)))
    return -stats.log_probs_BA.sum() + stats.auxiliary_loss


def of_scores(network: Transformer, extra: int) -> Tensor:
    """The pairwise loss of a reward model."""
    tokens, lengths, _ = pack_responses([[3, 4], [5], [6, 7, 8]], [[9] * 9, [10, 11], [12, 13, 14, 15]])
    scores, auxiliary = RewardModel(network, 0).double().head_scores(F.pad(tokens, (0, extra)), lengths)
    return scores.sum() + auxiliary


def of_values(network: Transformer, extra: int) -> Tensor:
    """The value loss of PPO's critic."""
    tokens, _, mask = pack_responses([[3, 4], [5], [6, 7, 8]], [[9] * 9, [10, 11], [12, 13, 14, 15]])
    tokens, mask = F.pad(tokens, (0, extra)), F.pad(mask, (0, extra))
    values, auxiliary = RewardModel(network, 0).double().rewards(tokens[:, :-1], up_to_last(mask))
    return (values * mask).square().sum() + auxiliary


@pytest.mark.parametrize("loss", [of_conversations, of_answers, of_scores, of_values])
def test_padding_changes_no_gradient_of_a_router_and_no_count(loss: Callable[[Transformer, int], Tensor]) -> None:
    network = model()
    found = []
    for extra in (0, PADDING):
        value = loss(network, extra)
        value.backward()
        found.append((float(value.detach()), router_gradients(network), counts(network)))
    (plain, gradients, assigned), (with_padding, same, as_many) = found
    assert with_padding == pytest.approx(plain, abs=1e-12)
    assert as_many == assigned
    assert all(float(g.abs().max()) > 1e-4 for g in gradients)
    for one, other in zip(gradients, same, strict=True):
        torch.testing.assert_close(other, one, atol=1e-12, rtol=0)


def test_the_statistics_are_those_of_the_tokens_alone() -> None:
    network = model()
    batch = conversations()
    assert batch.documents_BT is not None
    is_token = batch.documents_BT > 0
    tokens = int(is_token.sum())

    def routers(batch: LMBatch) -> list[RouterStats]:
        return network.hidden(batch.tokens_BT, batch.positions_BT, batch.documents_BT).routers

    for one, other in zip(routers(batch), routers(padded(batch)), strict=True):
        assert int(one.num_tokens) == int(other.num_tokens) == tokens < batch.tokens_BT.numel()
        assert float(one.load_E.sum()) == pytest.approx(1.0)
        torch.testing.assert_close(one.load_E, other.load_E, atol=1e-12, rtol=0)
        torch.testing.assert_close(one.entropy, other.entropy, atol=1e-12, rtol=0)
    # By hand: the assignments of the first layer's tokens, without those of padding.
    first = network.blocks[0].mlp
    assert isinstance(first, MixtureOfExperts) and first.last_load_E is not None
    chosen = routers(batch)[0].chosen_NA[is_token.flatten()]
    by_hand = torch.bincount(chosen.flatten(), minlength=4) / (2 * tokens)
    torch.testing.assert_close(first.last_load_E.float(), by_hand)


def test_parts_with_unlike_padding_give_the_gradient_of_the_whole() -> None:
    network, whole = model(), conversations(lengths=(13, 13, 13, 13, 3, 2, 3, 4))
    found = []
    for count in (1, 4):
        parts = list(micro_batches(whole, count))
        with balanced_as_one(network, parts, "float32"):
            for part in parts:
                cross_entropy, _, auxiliary = summed_loss(network, part)
                weight = part.num_tokens() / whole.num_tokens()
                (cross_entropy / whole.loss_weight() + auxiliary * weight).backward()
        found.append((router_gradients(network), counts(network)))
    assert found[0][1] == found[1][1]
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(other, one, atol=1e-12, rtol=0)


def test_training_with_padding_ends_with_the_weights_of_training_without() -> None:
    trained = []
    for widen in (lambda batch: batch, padded):
        network = model()
        cfg = TrainConfig(num_steps=3, batch_size=8, context_length=13, accumulation=2)
        list(train(network, Optimizer(network, cfg.optimizer), cfg, lambda _: widen(conversations())))  # noqa: B023
        trained.append(network.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, atol=1e-9, rtol=0, msg=name)


def test_the_fused_layers_leave_padding_out_too() -> None:
    plain, fused = Transformer(CONFIG, 0).train(), Transformer(CONFIG, 0).train()
    fuse(fused)
    gradients = []
    for network in (plain, fused):
        of_conversations(network, PADDING).backward()
        gradients.append((router_gradients(network), counts(network)))
    assert gradients[0][1] == gradients[1][1]
    for one, other in zip(gradients[0][0], gradients[1][0], strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_shapes_stay_static_under_a_compiler() -> None:
    """A mask that chose rows would make a shape of its own for every batch; a product with it does not."""
    layer = MixtureOfExperts(16, EXPERTS).double().train()
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.arange(6) < torch.tensor([[6], [2]])
    shapes = {tuple(value.shape) for mask in (real, ~real) for value in vars(layer(x, mask)[1]).values()}
    assert shapes == {(), (4,), (12, 2)}
    empty = layer(x, torch.zeros(2, 6, dtype=torch.bool))[1]  # a part that is all padding
    assert float(empty.loss.detach()) == 0.0 and int(empty.num_tokens) == 0 and not empty.load_E.any()


def test_the_pairs_of_dpo_are_passed_with_their_mask() -> None:
    pair = TokenPair(chosen=(3, 4, 5, 6), rejected=(3, 4, *[7] * 30), num_prompt=2, margin=0.0)
    network = model()
    response_log_probs(network, [pair, pair])
    # Inputs that predict something: 3 of the chosen answer and 31 of the rejected one, each twice, to two experts.
    assert [sum(layer) for layer in counts(network)] == [2 * 2 * (3 + 31)] * 2


def test_up_to_last_includes_the_prompt_and_nothing_behind() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
    assert up_to_last(mask).int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
