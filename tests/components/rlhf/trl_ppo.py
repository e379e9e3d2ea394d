"""One rollout and two epochs of TRL 1.12's experimental PPO, for `test_trl_ppo.py`: python trl_ppo.py FOLDER.

A script of its own, since it needs another TRL than the other tests: the unpacked wheel stands first on PYTHONPATH. In
FOLDER lie `policy`, `reference` and `reward` (transformers' layout, with `head.safetensors` in `reward`); what was
sampled and what came of it goes to `result.safetensors`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

PAD, END, VOCAB = 23, 0, 24


def words() -> Any:
    backend = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="0", pad_token="23", padding_side="left")


def judge(folder: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=PAD)
    with torch.no_grad():
        model.score.weight.copy_(load_file(folder / "head.safetensors")["head"])
    return model


def main(folder: Path) -> None:
    prompts = [[int(x) for x in line.split()] for line in (folder / "prompts.txt").read_text().splitlines()]
    args = PPOConfig(
        output_dir=str(folder / "out"),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=7,
        per_device_train_batch_size=len(prompts),
        local_rollout_forward_batch_size=len(prompts),
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=2,
        total_episodes=len(prompts),
        num_sample_generations=0,
        response_length=12,
        stop_token="eos",
        temperature=0.7,
        missing_eos_penalty=1.0,
        kl_coef=0.2,
        vf_coef=1.0,  # policy and critic share nothing, so under Adam any other value would only scale its epsilon
        cliprange=0.2,
        cliprange_value=0.2,
        gamma=0.98,
        lam=0.9,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_epsilon=1e-5,
        weight_decay=0.0,
        save_strategy="no",
    )
    kept: dict[str, torch.Tensor] = {}
    plain = ppo_trainer.batch_generation

    def remembered(*given: Any, **named: Any) -> Any:
        sampled = plain(*given, **named)
        kept["sampled"] = sampled[0].clone()
        return sampled

    ppo_trainer.batch_generation = remembered
    trainer = PPOTrainer(
        args=args,
        processing_class=words(),
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "reference"),
        reward_model=judge(folder / "reward"),
        value_model=judge(folder / "reward"),
        train_dataset=Dataset.from_list([{"input_ids": prompt} for prompt in prompts]),
    )
    trainer.train()
    for name, model in (("policy", trainer.policy_model), ("value", trainer.value_model)):
        kept |= {f"{name}.{key}": p.detach().clone() for key, p in model.named_parameters()}
    save_file({name: x.contiguous() for name, x in kept.items()}, folder / "result.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
