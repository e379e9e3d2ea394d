"""GRPO and PPO against TRL's: samples a second, the same weights, prompts and settings, iteration by iteration in turn.

    .venv/bin/python tests/benchmarks/rlhf_speed.py [--iterations 5] [--threads 1]

GRPO is that of the installed TRL; PPO that of TRL 1.12, the last that has it, in a process of its own (`make peers`
brings both). Generation is transformers' own there and ours here. The first iteration of each side warms up.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer
from components.rlhf.grpo import GRPOState, grpo
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import of_answers, of_sequences
from components.training.config import OptimizerConfig

PROMPT, NEW, GROUP = 16, 64, 8
END, PAD, VOCAB = 0, 511, 512
ADAM = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-6, beta2=0.999, eps=1e-5)
RESULT = "result: "  # what of the second process's output is meant for people
TRL_WITH_PPO = Path(sys.prefix) / "peers" / "trl-1.12"


@dataclass(frozen=True)
class Size:
    """A model, and how many samples an iteration has."""

    name: str
    d_model: int
    num_layers: int
    samples: int

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            VOCAB, self.d_model, self.num_layers, 2, context_length=128, qk_norm=False, tie_embeddings=False
        )


# TRL's own test models have two layers of 8 to 16; the default life has four of 64.
SIZES = (Size("tiny", 16, 2, 16), Size("tiny, more samples", 16, 2, 64), Size("laptop", 64, 4, 64))


class InTurn:
    """Called at the end of each of TRL's iterations: notes its time, and runs and times one of ours."""

    def __init__(self, ours: Iterator[Any], samples: int) -> None:
        self.ours, self.samples = ours, samples
        self.times: tuple[list[float], list[float]] = ([], [])
        self.began = time.perf_counter()

    def __call__(self) -> None:
        self.times[1].append(time.perf_counter() - self.began)
        began = time.perf_counter()
        next(self.ours)
        self.times[0].append(time.perf_counter() - began)
        self.began = time.perf_counter()

    def line(self, name: str, size: Size, peer: str) -> str:
        """Medians without the first iteration."""
        ours, theirs = (self.samples / statistics.median(times[1:]) for times in self.times)
        what = f"d{size.d_model}, {size.num_layers} layers, {size.samples} samples"
        return f"{name:<5} {what:<28} {ours:>8.1f} {theirs:>8.1f} {ours / theirs:>6.1f}x  samples/s  {peer}"


def callback(in_turn: InTurn) -> Any:
    """`in_turn` as a callback of transformers' trainers."""
    from transformers import TrainerCallback

    class AtTheEnd(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            in_turn()

    return AtTheEnd()


def words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=str(END), pad_token=str(PAD), padding_side="left"
    )


def prompts(count: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(1, PAD, (count, PROMPT)).tolist()


def settings(kind: Any, folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder / "out"),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        adam_epsilon=1e-5,
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


def grpo_race(folder: Path, size: Size, iterations: int) -> str:
    """One update an iteration, no KL term: what both do by default."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    model = Transformer(size.model, seed=0)
    export_folder(folder, size.model, model.state_dict())
    asked = prompts(8 * size.samples)
    config = GRPOConfig(10**6, size.samples // GROUP, GROUP, max_tokens=NEW, clip_high=0.2, optimizer=ADAM)
    state = GRPOState.start(model, config)
    # A reward that differs within every group, so that no row is left out of the update.
    in_turn = InTurn(
        grpo(state, model, of_answers(lambda prompt, answer: sum(answer) % 97), asked, [END], config, seed=0),
        size.samples,
    )
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=lambda completion_ids, **_: [float(sum(ids) % 97) for ids in completion_ids],
        args=settings(
            trl.GRPOConfig,
            folder,
            max_steps=iterations + 1,
            per_device_train_batch_size=size.samples,
            num_generations=GROUP,
            max_completion_length=NEW,
            temperature=1.0,
            beta=0.0,
            logging_steps=10**6,
        ),
        train_dataset=Dataset.from_list([{"prompt": " ".join(map(str, p))} for p in asked]),
        processing_class=words(),
        callbacks=[callback(in_turn)],
    )
    in_turn.began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it logs
        trainer.train()
    return in_turn.line("GRPO", size, f"TRL {trl.__version__}")


def ppo_race(folder: Path, size: Size, iterations: int) -> str:
    """Two epochs of two minibatches, KL penalty, critic and reward model of the policy's size."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig as TheirConfig
    from trl.experimental.ppo import PPOTrainer

    model = Transformer(size.model, seed=0)
    export_folder(folder, size.model, model.state_dict())
    asked = prompts(4 * size.samples)
    reward_model = RewardModel.from_policy(model, seed=1)
    config = PPOConfig(
        10**6, size.samples, 2, 2, max_tokens=NEW, kl_coef=0.05, policy_optimizer=ADAM, critic_optimizer=ADAM
    )
    state = PPOState.start(model, reward_model, config)
    in_turn = InTurn(ppo(state, model, of_sequences(reward_model.score), asked, [END], config, seed=0), size.samples)

    def judge() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=PAD)

    trainer = PPOTrainer(
        args=settings(
            TheirConfig,
            folder,
            per_device_train_batch_size=size.samples // 2,
            gradient_accumulation_steps=2,
            local_rollout_forward_batch_size=size.samples,
            num_mini_batches=2,
            num_ppo_epochs=2,
            total_episodes=size.samples * (iterations + 1),
            num_sample_generations=0,
            response_length=NEW,
            stop_token="eos",
            temperature=1.0,
            missing_eos_penalty=1.0,
            kl_coef=0.05,
            logging_steps=10**6,
        ),
        processing_class=words(),
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        reward_model=judge(),
        value_model=judge(),
        train_dataset=Dataset.from_list([{"input_ids": p} for p in asked]),
        callbacks=[callback(in_turn)],
    )
    in_turn.began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it logs
        trainer.train()
    return in_turn.line("PPO", size, f"TRL {trl.__version__}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ppo", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    race = ppo_race if given.ppo else grpo_race
    if not given.ppo:
        print(f"{'':<34} {'ours':>8} {'peer':>8} {'ratio':>7}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            print((RESULT if given.ppo else "") + race(Path(folder), size, given.iterations), flush=True)
    if given.ppo:
        return
    if not TRL_WITH_PPO.is_dir():
        print(f"PPO: no TRL 1.12 in {TRL_WITH_PPO}: `make peers` unpacks it")
        return
    path = os.pathsep.join((str(TRL_WITH_PPO), str(Path(__file__).parents[2])))
    again = [sys.executable, __file__, "--ppo", f"--iterations={given.iterations}", f"--threads={given.threads}"]
    done = subprocess.run(
        again, env=os.environ | {"PYTHONPATH": path, "TRL_EXPERIMENTAL_SILENCE": "1"}, capture_output=True, text=True
    )
    lines = [line.removeprefix(RESULT) for line in done.stdout.splitlines() if line.startswith(RESULT)]
    print("\n".join(lines) if done.returncode == 0 else f"PPO: {done.stderr[-1500:]}")


if __name__ == "__main__":
    main()
