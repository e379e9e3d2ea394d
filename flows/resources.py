"""What each training stage of a run will take, for `lifespan plan`, before anything is read or made: memory, and on an
accelerator time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.cost.hardware import Hardware
from components.cost.training_shares import training_share
from components.model.config import ModelConfig, training_flops_per_token
from components.training.memory_estimate import MemoryEstimate, Training, training_memory
from flows.engine.graph import Graph


def predicted_memory(graph: Graph, model: ModelConfig | None, device: str) -> dict[str, MemoryEstimate]:
    """By label of each stage that trains a model of the life's size. `model`: what the life trains; None where that is
    not known yet, as of a model of the hub. Answers are taken to fill the context, which they need not."""
    found = {}
    for label, node in graph.nodes.items():
        training = training_of(node.stage.name, node.bound.settings, model)
        if training is not None:
            found[label] = training_memory(training, device)
    return found


def training_of(stage: str, settings: Mapping[str, Any], model: ModelConfig | None) -> Training | None:
    """What the memory of a stage depends on; None for one that trains nothing of the life's size."""
    config: Any = settings.get("config")
    if stage not in ("pretrain", "finetune", "train_reward_model", "ppo", "dpo", "grpo") or model is None:
        return None

    def own(name: str, default: Any) -> Any:
        """A setting that not every algorithm has."""
        return getattr(config, name, default)

    lora, context = own("lora", None), model.context_length
    shared: dict[str, Any] = {
        "non_finite": config.non_finite,
        "lora": lora,
        "checkpointing": own("gradient_checkpointing", False),
    }
    others = 0 if lora else 1  # with adapters the reference is the same weights
    if stage in ("pretrain", "finetune"):
        rows = config.batch_size // config.accumulation
        return Training(
            model,
            rows,
            config.context_length,
            config.optimizer,
            config.precision,
            accumulates=config.accumulation > 1,
            **shared,
        )
    size = own("micro_batch_size", 0)
    if stage in ("dpo", "train_reward_model"):
        pairs = min(size or config.batch_pairs, config.batch_pairs)
        return Training(
            model,
            2 * pairs,
            context,
            config.optimizer,
            targets=None if stage == "dpo" else 0,
            accumulates=pairs < config.batch_pairs,
            frozen=others if stage == "dpo" else others + own("num_members", 1) - 1,
            **shared,
        )
    answers = config.batch_size if stage == "ppo" else config.num_prompts * config.group_size
    whole = -(-answers // config.num_minibatches)
    rows = min(size or whole, whole)
    optimizer = config.policy_optimizer if stage == "ppo" else config.optimizer
    return Training(
        model,
        rows,
        context,
        optimizer,
        targets=rows * min(config.max_tokens, context),
        accumulates=rows < whole,
        copies=2 if stage == "ppo" else 1,
        frozen=(1 + others) if stage == "ppo" else others,
        **shared,
    )


def predicted_seconds(stage: str, settings: Mapping[str, Any], model: ModelConfig, on: Hardware) -> float | None:
    """Seconds of a training on text on one accelerator, at the share of its peak that half of the public trainings
    reach; None for a stage that samples answers, or whose number of steps depends on data that are not there yet."""
    config: Any = settings.get("config")
    if stage in ("pretrain", "finetune"):
        tokens = config.num_steps * config.batch_size * config.context_length
        share = training_share(on.name, "bf16", "causal").middle
        return tokens * training_flops_per_token(model, config.context_length) / (on.peak_flops * share)
    return None
