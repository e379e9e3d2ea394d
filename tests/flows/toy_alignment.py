"""A world small enough to align a model in, and the real alignment stages in it, for a process that is killed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim imports it at the first optimizer, which would cost each attempt two seconds

from components.data.prompt_files import user_says, write_prompts
from components.data.shards import write_shards
from components.data.stories import story
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.reasoning.tasks import SuiteConfig, chain_problem, prompt
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.gold import gold_score
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.overoptimization_config import WatchConfig
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.preferences import Preference, write_preferences
from components.rlhf.requests import story_requests
from components.rlhf.reward_model import Ensemble, RewardModel, save_reward_model
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.pattern import PatternReward
from components.rlhf.rewards.settings import RewardSettings
from components.rlhf.verifier_task_config import VerifierTaskConfig
from components.stage_results import to_facts
from components.training.checkpoints import save_model
from components.training.config import LoRAConfig
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages.dpo import dpo
from flows.stages.files import GOLD_SCALE, PREFERENCES, PROMPTS
from flows.stages.grpo import grpo
from flows.stages.ppo import ppo
from flows.stages.reward_model import train_reward_model
from storage.artifacts import Artifact, Record, Store

torch.set_num_threads(1)


@dataclass(frozen=True)
class Document:
    text: str
    source: str = "stories"
    split: str = "train"


def make_world(folder: Path) -> dict[str, Artifact]:
    """Tokenizer, text, an untrained model, pairs of stories and an ensemble, sealed in a store in `folder`."""
    rng = random.Random(0)
    store = Store(folder / "artifacts")
    made: dict[str, Artifact] = {}

    def seal(name: str, write: Callable[[Path], Any]) -> None:
        key = hashlib.sha256(name.encode()).hexdigest()
        with store.writing(key) as out:
            write(out)
            made[name] = store.seal(out, Record(Artifact(name, key, {}), name, {}, {}, {}, "toy"))

    requests, _ = story_requests()
    sums = [prompt(chain_problem(rng, 2), "worked") for _ in range(40)]
    told = [story(rng) for _ in range(60)]
    words = Tokenizer.train([*told, *requests, *sums], 400)
    cfg = ModelConfig(vocab_size=words.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=96)
    model = Transformer(cfg, 0)
    pairs = []
    for i in range(48):
        a, b, request = story(rng), story(rng), requests[i % 12]  # four pairs of each
        margin = gold_score(request, a) - gold_score(request, b)
        if margin:
            better, worse = (a, b) if margin > 0 else (b, a)
            pairs.append(Preference(request, better, worse, f"p{i}", gold_margin=abs(margin), source="gold"))

    def preferences(out: Path) -> None:
        write_preferences(out / PREFERENCES, pairs)
        (out / GOLD_SCALE).write_text(json.dumps({"mean": 2.0, "std": 1.0}), encoding="utf-8")

    judges = Ensemble(tuple(RewardModel.from_policy(model, seed, 2) for seed in range(2)))
    seal("tokenizer", words.save)
    seal("shards", lambda out: write_shards([Document(text) for text in told], words, out))
    seal("sft", lambda out: save_model(out, model))
    seal("preferences", preferences)
    asked = [user_says(f"{a}+{a}=?", str(2 * a)) for a in range(12)]
    seal("prompts", lambda out: write_prompts(out / PROMPTS, asked[:9], asked[9:]))
    seal("reward_model", lambda out: save_reward_model(out, judges))
    return made


JUDGING = JudgingConfig(num_eval=4, max_tokens=6)
PPO = PPOConfig(
    num_iterations=8,
    batch_size=8,
    num_epochs=2,
    num_minibatches=2,
    max_tokens=8,
    kl_target=0.5,
    kl_horizon=50,
    score_scaling=True,
    combine="worst",
    replay_coef=0.1,
)
GRPO = GRPOConfig(num_iterations=8, num_prompts=4, group_size=4, num_minibatches=2, max_tokens=6, kl_coef=0.05)
LORA = LoRAConfig(rank=2)
JUDGED = ("sft", "reward_model", "preferences", "tokenizer")
CASES: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "reward model, two members of two heads": (
        train_reward_model,
        {"config": RewardModelConfig(epochs=2, batch_pairs=8, num_members=2, num_heads=2)},
        ("sft", "preferences", "tokenizer"),
    ),
    "ppo, best kept, adaptive penalty, replay": (
        ppo,
        {"config": PPO, "watch": WatchConfig(every=2, on_alarm="stop"), "judging": JUDGING, "mitigation": "worst"},
        (*JUDGED, "shards"),
    ),
    "dpo": (dpo, {"config": DPOConfig(epochs=2, batch_pairs=8), "judging": JUDGING}, JUDGED),
    "reward model, adapters": (
        train_reward_model,
        {"config": RewardModelConfig(epochs=2, batch_pairs=8, num_members=2, lora=LORA, micro_batch_size=3)},
        ("sft", "preferences", "tokenizer"),
    ),
    "ppo, adapters, best kept": (
        ppo,
        {
            "config": replace(PPO, lora=LORA, micro_batch_size=3, gradient_checkpointing=True),
            "watch": WatchConfig(every=2, on_alarm="stop"),
            "judging": JUDGING,
            "mitigation": "worst",
        },
        (*JUDGED, "shards"),
    ),
    "grpo, rewards of one's own": (
        grpo,
        {
            "config": GRPO,
            "task": VerifierTaskConfig(num_watch=2),
            "suite": SuiteConfig(),
            "reward": RewardSettings((NumberReward(), PatternReward("[aeiou]", weight=0.5)), (PatternReward("e"),)),
        },
        ("sft", "prompts", "tokenizer"),
    ),
    "grpo": (
        grpo,
        {
            "config": GRPO,
            "task": VerifierTaskConfig(num_problems=20, min_difficulty=2, max_difficulty=2, num_watch=2),
            "suite": SuiteConfig(difficulties=(2,), per_difficulty=2),
        },
        ("sft", "tokenizer"),
    ),
}


def inputs_of(case: str, made: Mapping[str, Artifact]) -> dict[str, Any]:
    """The artifacts that a case's stage takes; what a life without prompts and rewards of one's own has is empty."""
    stage, settings, names = CASES[case]
    given: dict[str, Any] = {name: made[name] for name in names if name != "shards"}
    if "shards" in names:
        given["replay"] = [made["shards"]]
    if stage is not train_reward_model:
        given |= {"prompts": []} | ({} if "reward" in settings else {"reward": RewardSettings()})
        given |= {name: [made[name]] for name in ("reward_model", "preferences", "prompts") if name in names}
    return given | ({"reward_model": []} if stage is grpo else {})


def live(case: str, folder: str, world: str, made: dict[str, str]) -> None:
    """One attempt at a stage: what lies in folder/state is resumed; folder/facts.json says that it ended."""
    place = Path(folder)
    (place / "out").mkdir(parents=True, exist_ok=True)
    artifacts = {name: Artifact.from_json(text) for name, text in made.items()}
    execution = ComputeConfig(checkpoint_seconds=0.0)  # a state after every step
    work = Work(place / "out", place / "state", execution, store=Store(Path(world) / "artifacts"))
    stage, settings, _ = CASES[case]
    result = stage.fn(work, seed=3, **settings, **inputs_of(case, artifacts))
    metrics = [[step, name, value] for step, name, value, _ in work.metrics() if not name.startswith("seconds")]
    (place / "facts.json").write_text(json.dumps({"facts": to_facts(result), "metrics": metrics}, sort_keys=True))
