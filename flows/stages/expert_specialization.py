"""Experts trained on the life's own text: which of them take which source's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from components.model.config import count_params, training_flops_per_token
from components.scaling.results.specialization import LayerResult, SourceKnowledge, SpecializationResult
from components.scaling.text_runs import SpecializationConfig
from components.stage_results import to_facts
from components.statistics import mean_interval
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.training import follow, resume
from storage.artifacts import Artifact


@stage(produces="scaling_run", group="moe", seconds=15)
def specialize_experts(
    work: Work,
    *,
    variant: str,
    config: SpecializationConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
) -> SpecializationResult:
    """Experts trained on the life's mixture, and which of them take which source's held-out tokens, layer by layer."""
    import numpy as np

    from components.data.shards import TokenShards
    from components.model.specialization import specialization
    from components.model.transformer import Transformer
    from components.scaling.on_text import (
        held_out_windows,
        losses_by_position,
        mixed_windows,
        routing,
        text_batch,
        text_point,
    )
    from components.training.guard import Guard
    from components.training.language_model import train
    from components.training.optimizers import Optimizer

    data, cfg, moe = TokenShards.open(work.open(shards)), config.train, config.variants()[variant]
    decoder = config.model.transformer(data.index.vocab_size, cfg.context_length)
    model = Transformer(replace(decoder, moe=moe), seed).to(work.device)
    optimizer = Optimizer(model, cfg.optimizer)
    guard = Guard(cfg.non_finite)
    start = resume(work, model, optimizer, guard)
    records = train(model, optimizer, cfg, lambda step: text_batch(data, cfg, weights, seed, step), start, guard=guard)
    for _ in follow(work, records, model, optimizer, cfg.num_steps, guard):
        pass
    mixed = mixed_windows(data, weights, config.eval_windows * len(weights), cfg.context_length)
    losses = losses_by_position(model, mixed).mean(1).double().numpy()
    load_LE = [counts.sum(0) / counts.sum() for counts in routing(model, mixed)[0]]
    windows_by_source, sources = held_out_windows(
        data, dict.fromkeys(data.sources, config.eval_windows), cfg.context_length
    )
    kept = [name for name in dict.fromkeys(sources) if sources.count(name) > 1]
    rows = np.array([row for row, name in enumerate(sources) if name in kept])
    of_row = np.array([kept.index(sources[row]) for row in rows])
    counts_LWE, entropies = routing(model, windows_by_source)
    layers = []
    for layer, counts_WE in enumerate(counts_LWE):
        knowledge = None
        if len(kept) > 1:
            told = specialization(counts_WE[rows], of_row, seed, config.resamples)
            by_source = tuple(map(tuple, told.by_source_SE.tolist()))
            knowledge = SourceKnowledge(told.bits, told.share, told.chance_bits, told.p_value, by_source)
            work.rows("routing", _routing_rows(variant, seed, layer, kept, counts_WE[rows], of_row))
        layers.append(LayerResult(layer, entropies[layer], tuple(load_LE[layer].tolist()), knowledge))
    counts, loss = count_params(model.cfg), mean_interval(losses)
    result = SpecializationResult(
        variant=variant,
        num_params=counts.total,
        active_params=counts.active,
        num_tokens=cfg.num_steps * cfg.batch_size * cfg.context_length,
        flops_per_token=training_flops_per_token(model.cfg, cfg.context_length),
        loss=loss,
        sources=tuple(kept),
        layers=tuple(layers),
        max_share=float(max(load.max() for load in load_LE)),
        n=loss.n,
    )
    (work.out / "routing.json").write_text(json.dumps(to_facts(result) | {"moe": asdict(moe)}), encoding="utf-8")
    work.rows("scaling_points", [text_point("moe_text", variant, seed, counts.non_embedding, result)])
    return result


def _routing_rows(
    variant: str, seed: int, layer: int, sources: list[str], counts_WE: Any, source_W: Any
) -> list[dict[str, Any]]:
    """One row for each expert and source: how many of the source's assignments the expert got."""
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
