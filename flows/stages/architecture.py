"""Other architectures on the life's own text: a recurrent net beside the transformer, and experts by source."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from components.model.config import count_params, products_in_a_row, training_flops_per_token
from components.scaling.architectures import LSTM, TRANSFORMER, RecurrentComparisonConfig, SpecializationConfig
from components.statistics import Interval, mean_interval
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.training import follow, resume
from storage.artifacts import Artifact

TOLD = ("num_params", "num_params_non_embedding", "num_tokens", "flops_per_token", "loss", "loss_low", "loss_high", "n")
LOSSES = "held_out_losses.safetensors"


@stage(produces="scaling_run", group="architecture", seconds=12)
def train_architecture(
    work: Work,
    *,
    architecture: str,
    config: RecurrentComparisonConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
) -> dict[str, Any]:
    """One of the two models, trained, and its loss at every position of the held-out windows."""
    from safetensors.torch import save_file

    from components.data.shards import TokenShards
    from components.scaling.on_text import build, losses_by_position, mixed_windows, text_batch
    from components.training.guard import Guard
    from components.training.language_model import train
    from components.training.optimizers import Optimizer

    data, cfg = TokenShards.open(work.open(shards)), config.train
    model = build(config.architectures(data.index.vocab_size, cfg.context_length)[architecture], seed)
    optimizer = Optimizer(model, cfg.optimizer)
    guard = Guard(cfg.non_finite)
    start = resume(work, model, optimizer, guard)
    records = train(model, optimizer, cfg, lambda step: text_batch(data, cfg, weights, seed, step), start, guard=guard)
    for _ in follow(work, records, model, optimizer, cfg.num_steps, guard):
        pass
    losses_WT = losses_by_position(model, mixed_windows(data, weights, config.eval_windows, cfg.context_length))
    save_file({"losses_WT": losses_WT}, work.out / LOSSES)
    counts, tokens = count_params(model.cfg), cfg.num_steps * cfg.batch_size * cfg.context_length
    flops = training_flops_per_token(model.cfg, cfg.context_length)
    loss = mean_interval(losses_WT.mean(1).double().numpy())
    facts = {
        "num_params": counts.total,
        "num_params_non_embedding": counts.non_embedding,
        "num_tokens": tokens,
        "flops_per_token": flops,
        **_named("loss", loss),
        "n": loss.n,
    }
    work.rows("scaling_points", [_point("architecture", architecture, seed, counts.non_embedding, facts, loss.value)])
    return facts


@stage(produces="eval_report", group="architecture", seconds=8)
def compare_recurrent(
    work: Work,
    *,
    config: RecurrentComparisonConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
    trained: dict[str, Artifact],
) -> dict[str, Any]:
    """Training tokens a second against the context, loss against the position in it, and the final losses."""
    from safetensors.torch import load_file

    from components.data.shards import TokenShards
    from components.scaling.on_text import context_gain, position_bands, time_training

    data = TokenShards.open(work.open(shards))
    of = {name: load_file(work.open(run) / LOSSES)["losses_WT"] for name, run in trained.items()}
    bands = position_bands(of[TRANSFORMER], of[LSTM])
    for band in bands:
        work.log(band.last, {f"loss_by_position/{TRANSFORMER}": band.transformer.value})
        work.log(band.last, {f"loss_by_position/{LSTM}": band.lstm.value})
    seconds: dict[tuple[str, int], list[float]] = {}
    total = 2 * len(config.contexts) * config.timed_steps
    for done, step in enumerate(time_training(config, data, weights, seed), 1):
        seconds.setdefault((step.architecture, step.context), []).append(step.seconds)
        speed = config.tokens_per_batch / step.seconds
        work.log(step.repeat, {f"tokens_per_second/{step.architecture}/{step.context}": speed})
        work.usage(tokens=config.tokens_per_batch)
        work.progress(done, total)
    models = config.architectures(data.index.vocab_size, config.contexts[-1])
    gap = (of[LSTM] - of[TRANSFORMER]).mean(1).double().numpy()
    facts = {
        "runs": [
            {
                "architecture": name,
                **{fact: run.facts[fact] for fact in TOLD},
                "products_in_a_row": products_in_a_row(models[name], config.contexts[-1]),
            }
            for name, run in trained.items()
        ],
        "speeds": [_speed(config, seconds, context) for context in config.contexts],
        **_named("kept_gap", _kept_gap(config, seconds)),
        **_named("loss_gap", mean_interval(gap)),
        **_named("context_gain", context_gain(of[TRANSFORMER], of[LSTM])),
        "bands": [
            {
                "first": band.first,
                "last": band.last,
                **_named("transformer", band.transformer),
                **_named("lstm", band.lstm),
                **_named("gap", band.gap),
                "n": band.gap.n,
            }
            for band in bands
        ],
        "context_length": config.train.context_length,
    }
    (work.out / "comparison.json").write_text(json.dumps(facts), encoding="utf-8")
    return facts


def _named(name: str, x: Interval) -> dict[str, Any]:
    return {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high, f"{name}_n": x.n}


def _point(
    sweep: str, variant: str, seed: int, num_params: int, facts: Mapping[str, Any], loss: float
) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "variant": variant,
        "seed": seed,
        "num_params": num_params,
        "num_params_kind": "non_embedding",
        "tokens": facts["num_tokens"],
        "flops": facts["num_tokens"] * facts["flops_per_token"],
        "loss": loss,
        "details_json": json.dumps(facts),
    }


def _speed(
    config: RecurrentComparisonConfig, seconds: Mapping[tuple[str, int], list[float]], context: int
) -> dict[str, Any]:
    """Median tokens a second of both at one context with the slowest and the fastest step, and the ratio of the two
    (geometric mean over the pairs of steps)."""
    facts: dict[str, Any] = {"context": context}
    for name in (TRANSFORMER, LSTM):
        speeds = [config.tokens_per_batch / step for step in seconds[name, context]]
        facts |= _named(name, Interval(statistics.median(speeds), min(speeds), max(speeds), len(speeds)))
    pairs = zip(seconds[TRANSFORMER, context], seconds[LSTM, context], strict=True)
    log = mean_interval([math.log(theirs / ours) for ours, theirs in pairs])
    return facts | _named("ratio", Interval(math.exp(log.value), math.exp(log.low), math.exp(log.high), log.n))


def _kept_gap(config: RecurrentComparisonConfig, seconds: Mapping[tuple[str, int], list[float]]) -> Interval:
    """Of its speed at the shortest context, what share the transformer keeps at the longest, minus the LSTM's share."""
    short, long = config.contexts[0], config.contexts[-1]

    def kept(name: str) -> list[float]:
        return [few / many for few, many in zip(seconds[name, short], seconds[name, long], strict=True)]

    return mean_interval([ours - theirs for ours, theirs in zip(kept(TRANSFORMER), kept(LSTM), strict=True)])


@stage(produces="scaling_run", group="moe", seconds=15)
def specialize_experts(
    work: Work,
    *,
    variant: str,
    config: SpecializationConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
) -> dict[str, Any]:
    """Experts trained on the life's mixture, and which of them take which source's held-out tokens, layer by layer."""
    import numpy as np

    from components.data.shards import TokenShards
    from components.model.specialization import specialization
    from components.model.transformer import Transformer
    from components.scaling.on_text import held_out_windows, losses_by_position, mixed_windows, routing, text_batch
    from components.training.guard import Guard
    from components.training.language_model import train
    from components.training.optimizers import Optimizer

    data, cfg, moe = TokenShards.open(work.open(shards)), config.train, config.variants()[variant]
    decoder = config.model.transformer(data.index.vocab_size, cfg.context_length)
    model = Transformer(replace(decoder, moe=moe), seed)
    optimizer = Optimizer(model, cfg.optimizer)
    guard = Guard(cfg.non_finite)
    start = resume(work, model, optimizer, guard)
    records = train(model, optimizer, cfg, lambda step: text_batch(data, cfg, weights, seed, step), start, guard=guard)
    for _ in follow(work, records, model, optimizer, cfg.num_steps, guard):
        pass
    mixed = mixed_windows(data, weights, config.eval_windows * len(weights), cfg.context_length)
    losses = losses_by_position(model, mixed).mean(1).double().numpy()
    load_LE = [counts.sum(0) / counts.sum() for counts in routing(model, mixed)[0]]
    by_source, sources = held_out_windows(data, dict.fromkeys(data.sources, config.eval_windows), cfg.context_length)
    kept = [name for name in dict.fromkeys(sources) if sources.count(name) > 1]
    rows = np.array([row for row, name in enumerate(sources) if name in kept])
    of_row = np.array([kept.index(sources[row]) for row in rows])
    counts_LWE, entropies = routing(model, by_source)
    layers: list[dict[str, Any]] = []
    for layer, counts_WE in enumerate(counts_LWE):
        found: dict[str, Any] = {"layer": layer, "entropy": entropies[layer], "load": load_LE[layer].tolist()}
        if len(kept) > 1:
            told = specialization(counts_WE[rows], of_row, seed, config.resamples)
            found |= _named("bits", told.bits) | _named("share", told.share)
            found |= {"chance_bits": told.chance_bits, "p_value": told.p_value, "by_source": told.by_source_SE.tolist()}
            work.rows("routing", _routing_rows(variant, seed, layer, kept, counts_WE[rows], of_row))
        layers.append(found)
    counts, loss = count_params(model.cfg), mean_interval(losses)
    facts = {
        "variant": variant,
        "num_params": counts.total,
        "active_params": counts.active,
        "num_tokens": cfg.num_steps * cfg.batch_size * cfg.context_length,
        "flops_per_token": training_flops_per_token(model.cfg, cfg.context_length),
        **_named("loss", loss),
        "sources": kept,
        "layers": layers,
        "max_share": float(max(load.max() for load in load_LE)),
        "n": loss.n,
    }
    (work.out / "routing.json").write_text(json.dumps(facts | {"moe": asdict(moe)}), encoding="utf-8")
    work.rows("scaling_points", [_point("moe_text", variant, seed, counts.non_embedding, facts, loss.value)])
    return facts


def _routing_rows(
    variant: str, seed: int, layer: int, sources: list[str], counts_WE: Any, source_W: Any
) -> list[dict[str, Any]]:
    """One row an expert and source: how many of the source's assignments the expert got."""
    rows = []
    for number, source in enumerate(sources):
        taken_E = counts_WE[source_W == number].sum(0)
        for expert, taken in enumerate(taken_E.tolist()):
            rows.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "layer": layer,
                    "expert": expert,
                    "source": source,
                    "assignments": taken,
                    "share": taken / float(taken_E.sum()),
                    "windows": int((source_W == number).sum()),
                }
            )
    return rows
