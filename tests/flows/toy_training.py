"""A world small enough to train in, and the real training stages in it, for a process that is killed."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim imports it at the first optimizer, which would cost each attempt two seconds

from components.data.conversations import Conversation, write_conversations
from components.data.shards import write_shards
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.stage_results import to_facts
from components.training.checkpoints import save_model
from components.training.config import (
    FinetuneConfig,
    LoRAConfig,
    NonFiniteConfig,
    OptimizerConfig,
    PretrainConfig,
)
from components.training.schedules import ScheduleConfig
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages.files import CONVERSATIONS
from flows.stages.training import finetune, pretrain
from storage.artifacts import Artifact, Record, Store

torch.set_num_threads(1)

WORDS = ("one", "two", "three", "red", "blue", "green", "cat", "dog", "bird", "runs", "sits", "sings")
MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=1, context_length=32)
SIZE: dict[str, Any] = {"num_steps": 24, "batch_size": 4, "context_length": 32}
ADAMW = OptimizerConfig(muon_lr=0.0, weight_decay=0.1)
DROPLESS = MoEConfig(num_experts=4, top_k_experts=2, d_ff=16)
LOSS_FREE = MoEConfig(num_experts=4, top_k_experts=2, d_ff=16, load_balance_coef=0.0, balance_bias_rate=0.01)


@dataclass(frozen=True)
class Document:
    text: str
    source: str
    split: str


def make_world(folder: Path) -> dict[str, Artifact]:
    """Tokenizer, shards of two sources, conversations and an untrained base, sealed in a store in `folder`."""
    rng = random.Random(0)
    store = Store(folder / "artifacts")
    made: dict[str, Artifact] = {}

    def sentence(words: int) -> str:
        return " ".join(rng.choices(WORDS, k=words))

    def seal(name: str, write: Any) -> None:
        key = hashlib.sha256(name.encode()).hexdigest()
        with store.writing(key) as out:
            write(out)
            made[name] = store.seal(out, Record(Artifact(name, key, {}), name, {}, {}, {}, "toy"))

    documents = [
        Document(sentence(12), source, "valid" if i % 8 == 0 else "train")
        for source in ("tales", "sums")
        for i in range(120)
    ]
    words = Tokenizer.train([document.text for document in documents], 300)
    chats = [Conversation.turn(sentence(3), sentence(3), "chat") for _ in range(200)]
    seal("tokenizer", words.save)
    seal("shards", lambda out: write_shards(documents, words, out))
    seal("conversations", lambda out: write_conversations(chats, out / CONVERSATIONS))
    model = ModelConfig(**{**vars(MODEL), "vocab_size": words.vocab_size})
    seal("base", lambda out: save_model(out, Transformer(model, 0)))
    return made


def pretraining(
    optimizer: OptimizerConfig, shape: Any, accumulation: int, moe: MoEConfig | None = None, **settings: Any
) -> Any:
    schedule = ScheduleConfig(shape, warmup_steps=4)
    parts = {"optimizer": optimizer, "schedule": schedule, "accumulation": accumulation, "z_loss": 1e-4}
    looks = {"validate_every": 7, "validation_windows": 2, "loss_weights": {"sums": 2.0}}
    config = PretrainConfig(**SIZE | parts | looks | settings)
    return "pretrain", {"model": ModelConfig(**{**vars(MODEL), "moe": moe}), "config": config}


def finetuning(**settings: Any) -> Any:
    return "finetune", {"config": FinetuneConfig(**SIZE | {"replay": 0.25, "validate_every": 5} | settings)}


CASES: dict[str, Any] = {
    "muon, cosine": pretraining(OptimizerConfig(), "cosine", 1),
    "adamw, wsd, accumulation": pretraining(ADAMW, "wsd", 4),
    "muon, linear, dropless experts, accumulation": pretraining(OptimizerConfig(), "linear", 4, DROPLESS),
    "adamw, cosine, loss-free balance": pretraining(ADAMW, "cosine", 1, LOSS_FREE),
    "fine-tuning, replay, noise": finetuning(neftune_alpha=5.0, accumulation=2),
    "fine-tuning, adapters that overfit": finetuning(
        lora=LoRAConfig(rank=2), patience=1, optimizer=OptimizerConfig(muon_lr=0.0, adamw_lr=0.5)
    ),
    # The first update blows the weights up; the guard goes back and trains on at a rate that does not.
    "divergence": finetuning(
        optimizer=OptimizerConfig(muon_lr=0.0, adamw_lr=3e38),
        max_grad_norm=1e9,
        non_finite=NonFiniteConfig(max_in_a_row=3, rate_factor=1e-41, snapshot_every=4),
    ),
}
# The first update blows the weights up, and too few steps are left to go back.
ENDS_IN_DIVERGENCE: dict[str, Any] = {
    "pretraining, blown up": pretraining(replace(ADAMW, adamw_lr=3e38), "cosine", 1, num_steps=4, validate_every=0),
    "fine-tuning, blown up": finetuning(optimizer=replace(ADAMW, adamw_lr=3e38), num_steps=4, validate_every=0),
}
EVERY: dict[str, Any] = {
    f"{kind}, {shape}, {accumulation} parts, {experts}": pretraining(optimizer, shape, accumulation, moe)
    for kind, optimizer in {"muon": OptimizerConfig(), "adamw": ADAMW}.items()
    for shape in ("cosine", "wsd", "linear")
    for accumulation in (1, 4)
    for experts, moe in {"dense": None, "dropless": DROPLESS, "loss-free": LOSS_FREE}.items()
}


def live(case: str, folder: str, world: str, made: dict[str, str]) -> None:
    """One attempt at a stage: what lies in folder/state is resumed; folder/facts.json says that it ended."""
    place = Path(folder)
    (place / "out").mkdir(parents=True, exist_ok=True)
    artifacts = {name: Artifact.from_json(text) for name, text in made.items()}
    execution = ComputeConfig(checkpoint_seconds=0.0)  # a state after every step
    work = Work(place / "out", place / "state", execution, store=Store(Path(world) / "artifacts"))
    name, settings = {**CASES, **ENDS_IN_DIVERGENCE, **EVERY}[case]
    shared = {"weights": {"tales": 0.5, "sums": 0.5}, "seed": 3, "shards": artifacts["shards"]}
    shared["tokenizer"] = artifacts["tokenizer"]
    if name == "pretrain":
        result = pretrain.fn(work, **settings, **shared)
    else:
        more = {name: artifacts[name] for name in ("base", "conversations")} | {"shards": [artifacts["shards"]]}
        result = finetune.fn(work, **settings, **{**shared, **more})
    measured = ("tokens_per_second", "mfu", "peak_memory_bytes")
    metrics = [[step, name, value] for step, name, value, _ in work.metrics() if name not in measured]
    (place / "facts.json").write_text(json.dumps({"facts": to_facts(result), "metrics": metrics}, sort_keys=True))
