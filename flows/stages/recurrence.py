"""A recurrent net beside the transformer, on the life's own text."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping

from components.model.config import count_params, products_in_a_row, training_flops_per_token
from components.scaling.results.recurrence import (
    ArchitectureResult,
    BandLoss,
    ComparedRun,
    ContextSpeed,
    RecurrentComparisonResult,
)
from components.scaling.text_runs import LSTM, TRANSFORMER, RecurrentComparisonConfig
from components.stage_results import from_facts, to_facts
from components.statistics import Interval, mean_interval
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import rough_flops
from flows.stages.files import HELD_OUT_LOSSES
from flows.stages.training import follow, resume
from storage.artifacts import Artifact


@stage(produces="scaling_run", group="architecture", seconds=12)
def train_architecture(
    work: Work,
    *,
    architecture: str,
    config: RecurrentComparisonConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
) -> ArchitectureResult:
    """One of the two models, trained, and its loss at every position of the held-out windows."""
    from safetensors.torch import save_file

    from components.data.shards import TokenShards
    from components.scaling.on_text import build, losses_by_position, mixed_windows, text_batch, text_point
    from components.training.guard import Guard
    from components.training.language_model import train
    from components.training.optimizers import Optimizer

    data, cfg = TokenShards.open(work.open(shards)), config.train
    model = build(config.architectures(data.index.vocab_size, cfg.context_length)[architecture], seed)
    model.to(work.device)
    optimizer = Optimizer(model, cfg.optimizer)
    guard = Guard(cfg.non_finite)
    start = resume(work, model, optimizer, guard)
    records = train(model, optimizer, cfg, lambda step: text_batch(data, cfg, weights, seed, step), start, guard=guard)
    for _ in follow(work, records, model, optimizer, cfg.num_steps, guard):
        pass
    losses_WT = losses_by_position(model, mixed_windows(data, weights, config.eval_windows, cfg.context_length))
    save_file({"losses_WT": losses_WT}, work.out / HELD_OUT_LOSSES)
    counts, tokens = count_params(model.cfg), cfg.num_steps * cfg.batch_size * cfg.context_length
    flops = training_flops_per_token(model.cfg, cfg.context_length)
    loss = mean_interval(losses_WT.mean(1).double().numpy())
    result = ArchitectureResult(counts.total, counts.non_embedding, tokens, flops, loss, loss.n)
    work.rows("scaling_points", [text_point("architecture", architecture, seed, counts.non_embedding, result)])
    return result


@stage(produces="eval_report", group="architecture", seconds=8)
def compare_recurrent(
    work: Work,
    *,
    config: RecurrentComparisonConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
    trained: dict[str, Artifact],
) -> RecurrentComparisonResult:
    """Training tokens per second against the context, loss against the position in it, and the final losses."""
    from safetensors.torch import load_file

    from components.data.shards import TokenShards
    from components.scaling.on_text import context_gain, position_bands, time_training

    data = TokenShards.open(work.open(shards))
    of = {name: load_file(work.open(run) / HELD_OUT_LOSSES)["losses_WT"] for name, run in trained.items()}
    bands = position_bands(of[TRANSFORMER], of[LSTM])
    for band in bands:
        work.log(band.last, {f"loss_by_position/{TRANSFORMER}": band.transformer.value})
        work.log(band.last, {f"loss_by_position/{LSTM}": band.lstm.value})
    models = config.architectures(data.index.vocab_size, config.contexts[-1])
    seconds: dict[tuple[str, int], list[float]] = {}
    total = 2 * len(config.contexts) * config.timed_steps
    for done, step in enumerate(time_training(config, data, weights, seed, work.device), 1):
        seconds.setdefault((step.architecture, step.context), []).append(step.seconds)
        speed = config.tokens_per_batch / step.seconds
        work.log(step.repeat, {f"tokens_per_second/{step.architecture}/{step.context}": speed})
        cfg = models[step.architecture]
        work.usage(
            tokens=config.tokens_per_batch,
            flops=config.tokens_per_batch * training_flops_per_token(cfg, step.context),
            flops_6nd=rough_flops(cfg, config.tokens_per_batch, 3),
        )
        work.progress(done, total)
    gap = (of[LSTM] - of[TRANSFORMER]).mean(1).double().numpy()
    runs = []
    for name, artifact in trained.items():
        run = from_facts(ArchitectureResult, artifact.facts)
        in_a_row = products_in_a_row(models[name], config.contexts[-1])
        runs.append(
            ComparedRun(
                name,
                run.num_params,
                run.num_params_non_embedding,
                run.num_tokens,
                run.flops_per_token,
                run.loss,
                in_a_row,
            )
        )
    result = RecurrentComparisonResult(
        runs=tuple(runs),
        speeds=tuple(_speed(config, seconds, context) for context in config.contexts),
        kept_gap=_kept_gap(config, seconds),
        loss_gap=mean_interval(gap),
        context_gain=context_gain(of[TRANSFORMER], of[LSTM]),
        bands=tuple(BandLoss(b.first, b.last, b.transformer, b.lstm, b.gap, b.gap.n) for b in bands),
        context_length=config.train.context_length,
    )
    (work.out / "comparison.json").write_text(json.dumps(to_facts(result)), encoding="utf-8")
    return result


def _speed(
    config: RecurrentComparisonConfig, seconds: Mapping[tuple[str, int], list[float]], context: int
) -> ContextSpeed:
    def of(name: str) -> Interval:
        speeds = [config.tokens_per_batch / step for step in seconds[name, context]]
        return Interval(statistics.median(speeds), min(speeds), max(speeds), len(speeds))

    pairs = zip(seconds[TRANSFORMER, context], seconds[LSTM, context], strict=True)
    log = mean_interval([math.log(theirs / ours) for ours, theirs in pairs])
    ratio = Interval(math.exp(log.value), math.exp(log.low), math.exp(log.high), log.n)
    return ContextSpeed(context, of(TRANSFORMER), of(LSTM), ratio)


def _kept_gap(config: RecurrentComparisonConfig, seconds: Mapping[tuple[str, int], list[float]]) -> Interval:
    """Of its speed at the shortest context, what share the transformer keeps at the longest, minus the LSTM's share."""
    short, long = config.contexts[0], config.contexts[-1]

    def kept(name: str) -> list[float]:
        return [few / many for few, many in zip(seconds[name, short], seconds[name, long], strict=True)]

    return mean_interval([ours - theirs for ours, theirs in zip(kept(TRANSFORMER), kept(LSTM), strict=True)])
