"""Losses and gradients beside those of TRL 1.16, from the same weights on the same tokens, over random masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components.model.transformer import Transformer
from components.rlhf.dpo import dpo_loss, response_log_probs
from components.rlhf.dpo_config import DPOLoss
from components.rlhf.grpo import token_losses, token_weights
from components.rlhf.grpo_config import GRPOConfig, Variant
from components.rlhf.pairs import TokenPair
from components.rlhf.reward_model import RewardModel, pairwise_loss
from components.rlhf.rollouts import pad_right, token_stats

pytestmark = pytest.mark.slow
trl = pytest.importorskip("trl", reason="`make peers` installs what is compared with")
transformers = pytest.importorskip("transformers", reason="`make peers` installs what is compared with")

Peer = Callable[[int], tuple[Transformer, Path]]
InOurNames = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
PAD = 23


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _settings(kind: Any, folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, **more
    )


def _pairs(seed: int, count: int = 6) -> list[TokenPair]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt = rng.integers(1, 22, rng.integers(2, 6)).tolist()
        chosen, rejected = (rng.integers(1, 22, rng.integers(1, 9)).tolist() for _ in range(2))
        made.append(
            TokenPair((*prompt, *chosen, 0), (*prompt, *rejected, 0), float(rng.normal()), num_prompt=len(prompt))
        )
    return made


def _same_gradients(ours: torch.nn.Module, theirs: Mapping[str, Tensor]) -> None:
    named = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert named.keys() >= theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(named[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float(g.abs().max()) for g in theirs.values()) > 1e-3  # there was something to compare


@pytest.mark.parametrize(
    ("loss", "beta", "smoothing"),
    [("sigmoid", 0.3, 0.0), ("ipo", 0.3, 0.0), ("hinge", 0.05, 0.0), ("robust", 0.3, 0.2)],
)
def test_dpo(
    loss: DPOLoss, beta: float, smoothing: float, peer: Peer, in_our_names: InOurNames, words: Any, tmp_path: Path
) -> None:
    from datasets import Dataset

    policy, folder = peer(1)
    reference, reference_folder = peer(2)
    pairs = _pairs(3)

    chosen_B, rejected_B, _ = response_log_probs(policy, pairs, per_token=loss == "ipo")
    with torch.no_grad():
        ref_chosen_B, ref_rejected_B, _ = response_log_probs(reference, pairs, per_token=loss == "ipo")
    mine = dpo_loss((chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B), loss, beta, smoothing).mean()
    mine.backward()

    causal = transformers.AutoModelForCausalLM
    trainer = trl.DPOTrainer(
        model=causal.from_pretrained(folder),
        ref_model=causal.from_pretrained(reference_folder),
        args=_settings(trl.DPOConfig, tmp_path / "out", loss_type=[loss], beta=beta, label_smoothing=smoothing),
        train_dataset=Dataset.from_list([{"prompt": "2", "chosen": "3", "rejected": "4"}]),
        processing_class=words,
    )
    answers = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    tokens_BT, lengths_B = pad_right(answers)
    position_T = torch.arange(tokens_BT.shape[1])
    attended = position_T < lengths_B[:, None]
    starts_B = torch.tensor([p.num_prompt for p in pairs] * 2)
    inputs = {
        "input_ids": tokens_BT.masked_fill(~attended, PAD),
        "attention_mask": attended.long(),
        "completion_mask": (attended & (position_T >= starts_B[:, None])).long(),
    }
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    _same_gradients(policy, in_our_names({name: p.grad for name, p in trainer.model.named_parameters()}))


def test_reward_model(peer: Peer, in_our_names: InOurNames, words: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    trunk, folder = peer(1)
    model, pairs = RewardModel(trunk, seed=4), _pairs(5)
    tokens_BT, lengths_B = pad_right([p.chosen for p in pairs] + [p.rejected for p in pairs])
    chosen_B1, rejected_B1 = model.head_scores(tokens_BT, lengths_B)[0].chunk(2)
    margin_B1 = torch.tensor([[p.margin] for p in pairs])
    mine = pairwise_loss(chosen_B1, rejected_B1, margin_B1, centering_coef=0.05)
    mine.backward()

    judge = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=PAD)
    with torch.no_grad():
        judge.score.weight.copy_(model.head.weight)
    trainer = trl.RewardTrainer(
        model=judge,
        args=_settings(trl.RewardConfig, tmp_path / "out", center_rewards_coefficient=0.05),
        train_dataset=Dataset.from_list([{"chosen": "2 3", "rejected": "2 4"}]),
        processing_class=words,
    )
    attended = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    inputs = {
        "input_ids": tokens_BT.masked_fill(~attended, PAD),
        "attention_mask": attended.long(),
        "margin": margin_B1[:, 0],
    }
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    torch.testing.assert_close(model.head.weight.grad, trainer.model.score.weight.grad, atol=1e-5, rtol=1e-4)
    found = {name: p.grad for name, p in trainer.model.named_parameters() if name != "score.weight"}
    whole = in_our_names(found | {"lm_head.weight": torch.zeros(24, 16)})
    _same_gradients(model.trunk, {name: g for name, g in whole.items() if name != "unembedding.weight"})


VARIANTS: dict[Variant, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
}


@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_grpo_under_accumulation(
    variant: Variant, kl_coef: float, peer: Peer, in_our_names: InOurNames, words: Any, tmp_path: Path
) -> None:
    """Two micro-batches of four answers, of unequal lengths and with holes in the mask."""
    from datasets import Dataset

    policy, folder = peer(1)
    rng = np.random.default_rng(6)
    prompt, answer, rows = 4, 9, 8
    tokens_BT = torch.from_numpy(rng.integers(1, 22, (rows, prompt + answer)))
    lengths_B = torch.from_numpy(rng.integers(2, answer + 1, rows))
    lengths_B[0] = answer
    real_BA = torch.arange(answer) < lengths_B[:, None]
    holes_BA = torch.from_numpy(rng.random((rows, answer)) < 0.8) | (torch.arange(answer) == 0)
    mask_BA = torch.cat([torch.zeros(rows, prompt - 1, dtype=torch.bool), real_BA & holes_BA], 1)
    advantages_B = torch.from_numpy(rng.normal(size=rows)).float()
    with torch.no_grad():
        log_probs_BA = token_stats(policy, tokens_BT, mask_BA).log_probs_BA
    old_BA = (log_probs_BA + 0.3 * torch.from_numpy(rng.normal(size=mask_BA.shape)).float()) * mask_BA
    ref_BA = (log_probs_BA + 0.3 * torch.from_numpy(rng.normal(size=mask_BA.shape)).float()) * mask_BA

    config = GRPOConfig(variant=variant, clip_low=0.2, clip_high=0.28, kl_coef=kl_coef, max_tokens=12)
    weights_BA = token_weights(mask_BA, variant, config.max_tokens)
    mine = torch.zeros(())
    for part in torch.arange(rows).split(4):
        new = token_stats(policy, tokens_BT[part], mask_BA[part])
        each = token_losses(new.log_probs_BA, old_BA[part], ref_BA[part], advantages_B[part], mask_BA[part], config)
        loss = (each.loss_BA * weights_BA[part]).sum()
        loss.backward()
        mine = mine + loss.detach()
    assert float((each.clipped_BA & mask_BA[part]).sum()) > 0  # the clip is part of what is compared

    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=_settings(
            trl.GRPOConfig,
            tmp_path / "out",
            beta=kl_coef,
            epsilon=0.2,
            epsilon_high=0.28,
            max_completion_length=12,
            num_generations=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            **VARIANTS[variant],
        ),
        train_dataset=Dataset.from_list([{"prompt": "2 3"}] * 2),
        processing_class=words,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    theirs = torch.zeros(())
    for part in torch.arange(rows).split(4):
        inputs = {
            "prompt_ids": tokens_BT[part, :prompt],
            "prompt_mask": torch.ones(4, prompt, dtype=torch.long),
            "completion_ids": tokens_BT[part, prompt:],
            "completion_mask": real_BA[part].long(),
            "tool_mask": holes_BA[part].long(),
            "advantages": advantages_B[part],
            "old_per_token_logps": old_BA[part, prompt - 1 :],
            "ref_per_token_logps": ref_BA[part, prompt - 1 :],
            "num_items_in_batch": mask_BA.sum(),
        }
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        theirs = theirs + loss.detach()
    assert float(mine) == pytest.approx(float(theirs), abs=1e-5)
    _same_gradients(policy, in_our_names({name: p.grad for name, p in trainer.model.named_parameters()}))
