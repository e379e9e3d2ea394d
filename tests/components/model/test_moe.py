from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.model.config import ModelConfig, MoEConfig
from components.model.moe import MixtureOfExperts, routing
from components.model.transformer import Transformer
from components.training.checkpoints import load_model, save_model
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer
from components.training.state import load_state_tensors, state_tensors

LOSS_FREE = MoEConfig(4, 1, 16, load_balance_coef=0.0, balance_bias_rate=0.01)


def layer(cfg: MoEConfig, width: int = 8, seed: int = 0) -> MixtureOfExperts:
    made, generator = MixtureOfExperts(width, cfg), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0, 0.4, generator=generator)
    return made


def model(seed: int = 0) -> Transformer:
    return Transformer(ModelConfig(vocab_size=17, d_model=16, num_layers=2, context_length=12, moe=LOSS_FREE), seed)


def batch(step: int, rows: int = 8) -> LMBatch:
    tokens = torch.randint(0, 17, (rows, 13), generator=torch.Generator().manual_seed(step))
    return LMBatch(tokens[:, :-1], tokens[:, 1:])


def biases(network: Transformer) -> list[Tensor]:
    return [value.clone() for name, value in network.state_dict().items() if name.endswith("balance_bias")]


def test_the_bias_chooses_and_does_not_weigh() -> None:
    biased = layer(LOSS_FREE)
    assert biased.balance_bias is not None
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    biased.balance_bias[3] = 2.0  # above any difference of probabilities: all go to expert 3
    mixed, stats = biased(x)
    assert stats.chosen_NA.flatten().tolist() == [3] * 6
    probs = biased.router(x).softmax(-1)[..., 3:]
    gate, up = (x @ biased.gate_up[3].T).chunk(2, -1)
    expected = probs * ((torch.nn.functional.silu(gate) * up) @ biased.down[3].T)
    torch.testing.assert_close(mixed, expected)


def test_the_bias_moves_one_step_towards_an_even_load() -> None:
    biased = layer(LOSS_FREE)
    biased.assigned_E = torch.tensor([7.0, 3.0, 2.0, 4.0])  # mean 4
    biased.move_balance_bias()
    torch.testing.assert_close(biased.balance_bias, torch.tensor([-0.01, 0.01, 0.01, 0.0]))
    biased.move_balance_bias()  # no token since
    torch.testing.assert_close(biased.balance_bias, torch.tensor([-0.01, 0.01, 0.01, 0.0]))


def test_what_training_tells_of_its_routers() -> None:
    network = Transformer(ModelConfig(32, 16, 2, 2, context_length=8, moe=MoEConfig(4, 1, 8)), 0)
    assert routing(network) == {}
    with torch.no_grad():
        for block in network.blocks:
            block.mlp.router.weight.zero_()
        network(torch.zeros(2, 8, dtype=torch.long))  # not a batch of training
    assert routing(network) == {}
    network(torch.zeros(2, 8, dtype=torch.long))
    # All probabilities are equal, and every token goes to one expert of the four.
    assert routing(network) == {"router_max_share": 1.0, "router_entropy": pytest.approx(math.log(4))}


def test_only_steps_of_training_count() -> None:
    network = model()
    optimizer = Optimizer(network, OptimizerConfig())
    network.train()
    with torch.no_grad():
        network(batch(0).tokens_BT)
    network.eval()
    network(batch(0).tokens_BT)
    assert not any(block.mlp.assigned_E.any() for block in network.blocks)
    network.train()
    network(batch(0).tokens_BT)
    assert [int(block.mlp.assigned_E.sum()) for block in network.blocks] == [96, 96]
    optimizer.zero_grad()  # a step that is skipped
    assert not any(block.mlp.assigned_E.any() for block in network.blocks)


def test_micro_batches_move_the_bias_as_the_whole_batch_does() -> None:
    trained = []
    for accumulation in (1, 4):
        network = model()
        cfg = TrainConfig(num_steps=5, batch_size=8, context_length=12, accumulation=accumulation)
        list(train(network, Optimizer(network, cfg.optimizer), cfg, batch))
        trained.append(biases(network))
    assert all(torch.equal(whole, parts) for whole, parts in zip(*trained, strict=True))
    assert all(whole.abs().max() >= 0.01 for whole in trained[0])


def test_a_resumed_run_ends_with_the_same_bias_bit_for_bit() -> None:
    cfg = TrainConfig(num_steps=8, batch_size=8, context_length=12)
    straight = model()
    list(train(straight, Optimizer(straight, cfg.optimizer), cfg, batch))
    killed = model()
    optimizer = Optimizer(killed, cfg.optimizer)
    for record in train(killed, optimizer, cfg, batch):
        if record.step == 3:
            state = {name: value.clone() for name, value in state_tensors(killed, optimizer).items()}
            break
    resumed = model(seed=1)
    optimizer = Optimizer(resumed, cfg.optimizer)
    load_state_tensors(resumed, optimizer, state)
    list(train(resumed, optimizer, cfg, batch, start_step=3))
    ours, theirs = straight.state_dict(), resumed.state_dict()
    assert any(name.endswith("balance_bias") and value.any() for name, value in ours.items())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_bias_is_saved_with_the_model(tmp_path: Path) -> None:
    network = model()
    network.blocks[1].mlp.balance_bias.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
    save_model(tmp_path, network)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded.blocks[1].mlp.balance_bias, network.blocks[1].mlp.balance_bias)
    torch.testing.assert_close(loaded(batch(1).tokens_BT), network.eval()(batch(1).tokens_BT))


def test_the_bias_alone_evens_out_a_router_that_prefers_one_expert() -> None:
    """All but the bias stands still, as at a rate of zero."""
    network = Transformer(ModelConfig(vocab_size=17, d_model=16, num_layers=1, context_length=12, moe=LOSS_FREE), 3)
    network.blocks[0].mlp.balance_bias[2] = 0.5
    optimizer = Optimizer(network.train(), OptimizerConfig())
    shares = []
    for step in range(120):
        hidden = network.hidden(batch(step, rows=48).tokens_BT)
        shares.append(float(hidden.routers[0].load_E.max()))
        hidden.x_BTD.sum().backward()
        optimizer.step(0.0)
    assert shares[0] > 0.8
    assert sum(shares[-20:]) / 20 < 0.33


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="balance_bias_rate is -0"):
        MoEConfig(balance_bias_rate=-0.1)


def test_the_first_layers_stay_dense() -> None:
    cfg = ModelConfig(vocab_size=17, d_model=16, num_layers=3, context_length=12, moe=MoEConfig(4, 2, 8, first_dense=2))
    network = Transformer(cfg)
    assert [isinstance(block.mlp, MixtureOfExperts) for block in network.blocks] == [False, False, True]
    assert len(network.hidden(batch(0).tokens_BT).routers) == 1


def test_no_token_is_dropped_when_all_want_one_expert() -> None:
    crowded = layer(MoEConfig(4, 1, 16, shared_d_ff=4))
    with torch.no_grad():
        crowded.router.weight.zero_()
        crowded.router.weight[1] = 1.0
    x = torch.rand(2, 9, 8) + 0.1
    mixed, stats = crowded(x)
    assert stats.load_E.tolist() == [0.0, 1.0, 0.0, 0.0]
    alone = torch.cat([crowded(row.view(1, 1, 8))[0] for row in x.view(-1, 8)]).view_as(x)
    torch.testing.assert_close(mixed, alone)


def _peer_weights(ours: MixtureOfExperts, theirs: torch.nn.Module) -> None:
    """Fill our layer from a block of transformers: its experts in one stack, or as a list of projections."""
    state = theirs.state_dict()
    own = {"router.weight": state["gate.weight"]}
    if "experts.gate_up_proj" in state:
        own |= {"gate_up": state["experts.gate_up_proj"], "down": state["experts.down_proj"]}
    else:
        names = [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")]
        gate, up, down = next(n for n in names if f"experts.0.{n[0]}.weight" in state)
        count = ours.cfg.num_experts
        stacked = [torch.stack([state[f"experts.{e}.{n}.weight"] for e in range(count)]) for n in (gate, up, down)]
        own |= {"gate_up": torch.cat(stacked[:2], 1), "down": stacked[2]}
    if "shared_expert.down_proj.weight" in state:
        parts = [state[f"shared_expert.{n}_proj.weight"] for n in ("gate", "up")]
        own |= {
            "shared_gate_up.weight": torch.cat(parts),
            "shared_down.weight": state["shared_expert.down_proj.weight"],
        }
        own["shared_gate.weight"] = state["shared_expert_gate.weight"]
    ours.load_state_dict(own)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["mixtral", "qwen3_moe", "qwen3_moe_unnormalized", "qwen2_moe"])
def test_a_layer_equals_the_block_of_transformers(peer: str) -> None:
    pytest.importorskip("transformers", reason="a peer, in the extra `peers`")
    from transformers.models.mixtral import modeling_mixtral as mixtral
    from transformers.models.qwen2_moe import modeling_qwen2_moe as qwen2
    from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3

    shared = {"hidden_size": 16, "num_experts_per_tok": 2}
    theirs: torch.nn.Module
    if peer == "mixtral":
        theirs = mixtral.MixtralSparseMoeBlock(
            mixtral.MixtralConfig(**shared, intermediate_size=24, num_local_experts=6)
        )
        cfg = MoEConfig(6, 2, 24, softmax_after_top_k=True)
    elif peer == "qwen2_moe":
        settings = {"num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 20}
        theirs = qwen2.Qwen2MoeSparseMoeBlock(qwen2.Qwen2MoeConfig(**shared, **settings, norm_topk_prob=False))
        cfg = MoEConfig(6, 2, 24, shared_d_ff=20, shared_gate=True)
    else:
        normalized = peer == "qwen3_moe"
        settings = {"num_experts": 6, "moe_intermediate_size": 24, "norm_topk_prob": normalized}
        theirs = qwen3.Qwen3MoeSparseMoeBlock(qwen3.Qwen3MoeConfig(**shared, **settings))
        cfg = MoEConfig(6, 2, 24, normalize_top_k=normalized)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0, 0.4, generator=generator)
    ours = MixtureOfExperts(16, cfg)
    _peer_weights(ours, theirs)
    x = torch.randn(2, 7, 16, generator=generator)
    found = theirs(x)
    expected = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(ours(x)[0], expected, atol=1e-5, rtol=1e-5)
