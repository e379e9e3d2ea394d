"""Peak memory of one step of DPO, reward model, PPO and GRPO at the shapes of a real model, with random weights: all
weights at once as the defaults have it, and LoRA with micro-batches and gradient checkpointing.

    .venv/bin/python tests/benchmarks/rl_memory.py [--size 135m] [--only ppo] [--rows 8] [--economical] [--threads 2]

Each figure is of a process of its own, which loads the model from disk as a stage does; what the sampler and the
snapshot of the guard take is in it. `--economical` leaves out the column of the defaults, which want several times as
much.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from components.model.config import ModelConfig, count_params
from components.model.transformer import Transformer
from components.rlhf.dpo import DPOState, dpo
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo import GRPOState, grpo
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.pairs import TokenPair
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import (
    Ensemble,
    RewardModel,
    RewardState,
    load_reward_model,
    save_reward_model,
    train_reward_model,
)
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rollouts import of_answers, of_sequences
from components.training.checkpoints import load_model, save_model
from components.training.config import LoRAConfig
from components.training.lora import start_copy

# Of SmolLM2-135M and SmolLM2-360M.
SIZES = {
    "135m": ModelConfig(49152, 576, 30, 9, 3, d_ff=1536, context_length=1024, qk_norm=False),
    "360m": ModelConfig(49152, 960, 32, 15, 5, d_ff=2560, context_length=1024, qk_norm=False),
}
PAIR_TOKENS, PROMPT, NEW = 384, 128, 64
ALGORITHMS = ("dpo", "reward_model", "ppo", "grpo")
LORA = LoRAConfig(rank=8)


def settings(algorithm: str, rows: int, economical: bool) -> Any:
    """Of an algorithm: its defaults but for the sizes of a batch, or what saves memory."""
    whole: dict[str, Any] = {
        "dpo": DPOConfig(batch_pairs=rows),
        "reward_model": RewardModelConfig(batch_pairs=rows),
        "ppo": PPOConfig(num_iterations=1, batch_size=rows, num_minibatches=1, max_tokens=NEW),
        "grpo": GRPOConfig(num_iterations=1, num_prompts=1, group_size=rows, max_tokens=NEW, kl_coef=0.05),
    }
    saving = {"lora": LORA, "micro_batch_size": 1, "gradient_checkpointing": True}
    return dataclasses.replace(whole[algorithm], **saving) if economical else whole[algorithm]


def one_step(algorithm: str, folder: Path, rows: int, economical: bool) -> None:
    """Load what a stage would, and do one optimizer step."""
    config = settings(algorithm, rows, economical)
    reference = load_model(folder / "base")
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 49152, (2 * rows, PAIR_TOKENS), generator=draw).tolist()
    pairs = [
        TokenPair(tuple(tokens[2 * i]), tuple(tokens[2 * i][:PROMPT] + tokens[2 * i + 1][PROMPT:]), 0.0, PROMPT)
        for i in range(rows)
    ]
    prompts = [row[:PROMPT] for row in tokens]
    steps: Iterator[Any]
    if algorithm == "dpo":
        steps = dpo(DPOState.start(reference, config), reference, pairs, config, 0)
    elif algorithm == "reward_model":
        steps = train_reward_model(RewardState.start(reference, config, 0), pairs, 0)
    elif algorithm == "ppo":
        judge = load_reward_model(folder / ("adapted" if economical else "whole"), like=reference)
        state = PPOState.start(reference, judge.members[0], config)
        steps = ppo(state, reference, of_sequences(judge.scores), prompts, [0], config, 0)
    else:
        reward = of_answers(lambda _, response: float(response[-1] % 7))
        steps = grpo(GRPOState.start(reference, config), reference, reward, prompts, [0], config, 0)
    next(steps)


def measured(algorithm: str, folder: Path, economical: bool, rows: int, threads: int) -> tuple[float, float]:
    """Peak resident memory in GB (10⁹ bytes) of a process that does this, and the seconds that it took."""
    own = [sys.executable, __file__, "--child", algorithm, "--folder", str(folder)]
    own += ["--rows", str(rows), "--threads", str(threads)]
    began = time.perf_counter()
    done = subprocess.run([*own, *(["--economical"] if economical else [])], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak"]), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="135m")
    parser.add_argument("--only", choices=ALGORITHMS, action="append")
    parser.add_argument("--rows", type=int, default=8, help="pairs or answers a step, at least 2")
    parser.add_argument("--economical", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=ALGORITHMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        one_step(given.child, given.folder, given.rows, given.economical)
        unit = 1 if sys.platform == "darwin" else 1024
        print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}))
        return
    cfg = SIZES[given.size]
    weights = 4 * count_params(cfg).total / 1e9
    print(f"{given.size}: {count_params(cfg).total / 1e6:.0f}M parameters, {weights:.2f} GB in float32")
    print(f"a step: {given.rows} pairs of 2 x {PAIR_TOKENS} tokens, or {given.rows} answers of {PROMPT} + {NEW} tokens")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("base", "adapted", "whole"):
            (folder / name).mkdir()
        base = Transformer(cfg, 0)
        save_model(folder / "base", base)
        save_reward_model(folder / "adapted", Ensemble((RewardModel(start_copy(base, LORA, 1), 1),)))
        save_reward_model(folder / "whole", RewardModel(base, 1))
        del base
        print(f"{'one step of':14}{'LoRA, parts, checkpointing':>28}{'defaults':>22}")
        for algorithm in given.only or ALGORITHMS:
            found = [
                "{:.2f} GB, {:.0f} s".format(*measured(algorithm, folder, economical, given.rows, given.threads))
                for economical in ((True,) if given.economical else (True, False))
            ]
            print(f"{algorithm:14}{found[0]:>28}{'' if given.economical else found[1]:>22}", flush=True)


if __name__ == "__main__":
    main()
