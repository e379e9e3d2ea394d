"""Comparisons of architectures on the life's own text: speed by context, loss by position, experts by source.

Shape suffixes: B rows, T positions, W windows, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.data.batches import batch_at, validation_batches
from components.data.shards import TokenShards
from components.model.config import LSTMConfig, ModelConfig
from components.model.lstm import LanguageModel, RecurrentModel
from components.model.transformer import Transformer
from components.scaling.results.recurrence import ArchitectureResult
from components.scaling.results.specialization import SpecializationResult
from components.scaling.text_runs import RecurrentComparisonConfig
from components.stage_results import to_facts
from components.statistics import Interval, mean_interval
from components.training.config import TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer
from components.training.validation import target_losses


def build(cfg: ModelConfig | LSTMConfig, seed: int) -> LanguageModel:
    """The model that a config describes."""
    return RecurrentModel(cfg, seed) if isinstance(cfg, LSTMConfig) else Transformer(cfg, seed)


def text_batch(shards: TokenShards, config: TrainConfig, weights: Mapping[str, float], seed: int, step: int) -> LMBatch:
    """The batch of a step: of the step, the mixture and the seed alone, whatever model trains."""
    drawn = batch_at(shards, step, config.batch_size, config.context_length, seed, weights)
    return LMBatch(drawn.inputs_BT, drawn.targets_BT)


def held_out_windows(shards: TokenShards, windows: Mapping[str, int], context_length: int) -> tuple[LMBatch, list[str]]:
    """Full held-out windows, at most `windows` of each source, spread evenly over it; and the source of each.

    A source that is too short for one window gives none.
    """
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    sources: list[str] = []
    for source, most in windows.items():
        for x_BT, y_BT in validation_batches(shards, source, most or 1, context_length, max_windows=most):
            if x_BT.shape[1] == context_length:
                inputs.append(x_BT)
                targets.append(y_BT)
                sources += [source] * len(x_BT)
    if not inputs:
        raise ValueError(
            f"no source has {context_length} held-out tokens in a row: add text, or shorten train.context_length"
        )
    return LMBatch(torch.cat(inputs), torch.cat(targets)), sources


def mixed_windows(shards: TokenShards, weights: Mapping[str, float], count: int, context_length: int) -> LMBatch:
    """About `count` held-out windows in the shares of the training mixture."""
    total = sum(weights.values())
    return held_out_windows(
        shards, {name: round(count * weight / total) for name, weight in weights.items()}, context_length
    )[0]


@torch.no_grad()
def losses_by_position(model: LanguageModel, windows: LMBatch, rows: int = 64) -> Tensor:
    """Loss in nats of every target of every window, [W, T]."""
    model.eval()
    device, parts = next(iter(model.parameters())).device, []
    for tokens_BT, targets_BT in zip(windows.tokens_BT.split(rows), windows.targets_BT.split(rows), strict=True):
        parts.append(target_losses(model, tokens_BT.to(device), targets_BT.to(device)).cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class PositionBand:
    """Mean loss over positions first … last (counted from 1: how many tokens are in sight), over windows; `gap` is the
    LSTM's loss minus the transformer's on the same windows."""

    first: int
    last: int
    transformer: Interval
    lstm: Interval
    gap: Interval


def position_bands(transformer_WT: Tensor, lstm_WT: Tensor) -> list[PositionBand]:
    """Bands that double: 1, 2, 3–4, 5–8, … up to the window's length."""
    length = transformer_WT.shape[1]
    edges = [0, *(2**power for power in range(length.bit_length()) if 2**power < length), length]
    bands = []
    for start, stop in pairwise(edges):
        ours, theirs = (x[:, start:stop].mean(1).double().numpy() for x in (transformer_WT, lstm_WT))
        bands.append(
            PositionBand(start + 1, stop, mean_interval(ours), mean_interval(theirs), mean_interval(theirs - ours))
        )
    return bands


def context_gain(transformer_WT: Tensor, lstm_WT: Tensor) -> Interval:
    """How much more the transformer's loss falls than the LSTM's from the second eighth of the window to its second
    half, nats; over windows. Where all have a few tokens in sight the local context no longer counts."""
    length = transformer_WT.shape[1]
    early, late = slice(length // 8, length // 4), slice(length // 2, length)
    ours, theirs = (x[:, early].mean(1) - x[:, late].mean(1) for x in (transformer_WT, lstm_WT))
    return mean_interval((ours - theirs).double().numpy())


@dataclass(frozen=True)
class TimedStep:
    """One training step: forward, backward, update."""

    architecture: str
    context: int
    repeat: int
    seconds: float


def time_training(
    config: RecurrentComparisonConfig,
    shards: TokenShards,
    weights: Mapping[str, float],
    seed: int,
    device: torch.device | None = None,
) -> Iterator[TimedStep]:
    """Steps of both models at every context, taken in turns so that a busy machine slows both alike.

    Every context gets the same tokens, cut into rows of its length; the first step of each is not counted.
    """
    cfg = config.train
    drawn = batch_at(
        shards,
        0,
        -(-config.tokens_per_batch // cfg.context_length),
        cfg.context_length,
        seed,
        weights,
    )
    tokens, targets = (x.flatten()[: config.tokens_per_batch] for x in (drawn.inputs_BT, drawn.targets_BT))
    models = {
        name: build(model, seed).to(device or torch.device("cpu"))
        for name, model in config.architectures(shards.index.vocab_size, config.contexts[-1]).items()
    }
    optimizers = {name: Optimizer(model, cfg.optimizer) for name, model in models.items()}
    for context in config.contexts:
        batch = LMBatch(tokens.view(-1, context), targets.view(-1, context))
        steps = replace(
            cfg,
            num_steps=config.timed_steps + 1,
            batch_size=len(batch.tokens_BT),
            context_length=context,
            accumulation=1,
        )
        loops = {name: train(model, optimizers[name], steps, lambda _: batch) for name, model in models.items()}  # noqa: B023
        for repeat in range(steps.num_steps):
            for name, loop in loops.items():
                record = next(loop)
                if repeat:
                    yield TimedStep(name, context, repeat, record.seconds)


@torch.no_grad()
def routing(model: Transformer, windows: LMBatch, rows: int = 64) -> tuple[list[NDArray[np.int64]], list[float]]:
    """Of every layer with experts: assignments by window and expert [W, E], and the router's mean entropy in nats."""
    model.eval()
    moe = model.cfg.moe
    if moe is None:
        return [], []
    counts: list[list[NDArray[np.int64]]] = []
    entropies: list[list[float]] = []
    for tokens_BT in windows.tokens_BT.split(rows):
        routers = model.hidden(tokens_BT.to(model.embedding.weight.device)).routers
        counts.append(
            [F.one_hot(r.chosen_NA.view(len(tokens_BT), -1), moe.num_experts).sum(1).cpu().numpy() for r in routers]
        )
        entropies.append([float(r.entropy) * len(tokens_BT) for r in routers])
    by_layer = [np.concatenate(parts) for parts in zip(*counts, strict=True)]
    return by_layer, [sum(parts) / len(windows.tokens_BT) for parts in zip(*entropies, strict=True)]


def text_point(
    sweep: str, variant: str, seed: int, num_params: int, result: ArchitectureResult | SpecializationResult
) -> dict[str, Any]:
    """A run on the life's own text as a row of the table `scaling_points`; num_params: without embeddings."""
    return {
        "sweep": sweep,
        "variant": variant,
        "seed": seed,
        "num_params": num_params,
        "num_params_kind": "non_embedding",
        "tokens": result.num_tokens,
        "flops": result.num_tokens * result.flops_per_token,
        "loss": result.loss.value,
        "details_json": json.dumps(to_facts(result)),
    }
