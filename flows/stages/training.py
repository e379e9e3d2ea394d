"""Pretraining and fine-tuning; `follow` is how every loop of a language model is watched, counted and saved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from components.model.config import ModelConfig, count_params, training_flops_per_token
from components.training.config import TrainConfig
from flows.stage import stage
from flows.stages.data import CONVERSATIONS
from flows.work import Work
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.training.optimizers import Optimizer

LOG_EVERY = 5


def follow(
    work: Work,
    records: Iterator[dict[str, float]],
    model: Transformer,
    optimizer: Optimizer,
    num_steps: int,
    **info: Any,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Pass on (steps done, record) of a loop while logging, counting and saving it.

    A state is saved when one is due, after the caller has seen the step.
    """
    from components.training.language_model import state_tensors

    tokens = 0.0
    for record in records:
        step = int(record["step"])
        tokens += record["tokens"]
        flops = record["tokens"] * training_flops_per_token(model.cfg, model.cfg.context_length)
        work.usage(tokens=record["tokens"], flops=flops)
        speed = record["tokens"] / record["seconds"]
        if step % LOG_EVERY == 0 or step == num_steps:
            work.log(step, {n: record[n] for n in ("loss", "grad_norm", "lr_factor")} | {"tokens_per_second": speed})
        work.progress(step, num_steps, loss=record["loss"], tokens=tokens, **info)
        yield step, record
        if step < num_steps and work.state_due():
            work.save_state(step, state_tensors(model, optimizer), {})


def resume(work: Work, model: Transformer, optimizer: Optimizer) -> int:
    """Load the newest state of a killed attempt into model and optimizer; the steps that it has done."""
    from components.training.language_model import load_state_tensors

    saved = work.load_state()
    if saved is None:
        return 0
    step, tensors, _ = saved
    load_state_tensors(model, optimizer, tensors)
    return step


@stage(produces="checkpoint", group="pretraining", seconds=150)
def pretrain(
    work: Work,
    *,
    model: ModelConfig,
    config: TrainConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """A base model from random weights, on windows of the shards mixed by `weights`."""
    from components.data.batches import batch_at
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.training.checkpoints import save_model
    from components.training.language_model import LMBatch, train
    from components.training.optimizers import Optimizer

    data, words = TokenShards.open(work.open(shards)), Tokenizer.load(work.open(tokenizer))
    network = Transformer(dataclasses.replace(model, vocab_size=words.vocab_size), seed)
    optimizer = Optimizer(network, config.optimizer)

    def batch(step: int) -> LMBatch:
        drawn = batch_at(data, step, config.batch_size, config.context_length, seed, weights)
        return LMBatch(drawn.inputs_BT, drawn.targets_BT)

    records = train(network, optimizer, config, batch, resume(work, network, optimizer))
    last: list[float] = []
    for _, record in follow(work, records, network, optimizer, config.num_steps):
        last = [*last[-49:], record["loss"]]
    save_model(work.out, network)
    by_source = held_out_losses(network, data, words, config.context_length)
    work.log(config.num_steps, {f"valid_loss/{source}": loss for source, (loss, _) in by_source.items()})
    return {
        "num_params": count_params(network.cfg).total,
        "num_params_non_embedding": count_params(network.cfg).non_embedding,
        "num_tokens": config.num_steps * config.batch_size * config.context_length,
        "loss": sum(last) / len(last),
        "losses_by_source": {source: loss for source, (loss, _) in by_source.items()},
        "bits_per_byte": {source: bits for source, (_, bits) in by_source.items()},
    }


def held_out_losses(
    model: Transformer, shards: TokenShards, tokenizer: Tokenizer, context_length: int, max_windows: int = 128
) -> dict[str, tuple[float, float]]:
    """By source, on held-out text: loss in nats a token, and bits per byte (which compares across tokenizers)."""
    from components.data.batches import validation_batches
    from components.training.language_model import LMBatch, mean_loss

    result = {}
    for source in shards.sources:
        if shards.num_tokens(source, "valid") < 2:
            continue
        batches = [
            LMBatch(inputs, targets)
            for inputs, targets in validation_batches(shards, source, 32, context_length, max_windows=max_windows)
        ]
        loss, count = mean_loss(model, batches)
        num_bytes = sum(tokenizer.bytes_of(batch.targets_BT.numpy()) for batch in batches)
        result[source] = (loss, loss * count / max(num_bytes, 1) / math.log(2))
    return result


@stage(produces="checkpoint", group="sft", seconds=40)
def finetune(
    work: Work,
    *,
    config: TrainConfig,
    seed: int,
    base: Artifact,
    conversations: Artifact,
    shards: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """Supervised fine-tuning on packed conversations, with loss on what the assistant says alone."""
    return _finetuned(work, config, seed, base, conversations, shards, tokenizer)


@stage(produces="checkpoint", group="reasoning", seconds=70)
def finetune_on_puzzles(
    work: Work,
    *,
    config: TrainConfig,
    seed: int,
    base: Artifact,
    conversations: Artifact,
    shards: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """The same, for the model that searches: it solves puzzles and judges their states."""
    return _finetuned(work, config, seed, base, conversations, shards, tokenizer)


def _finetuned(
    work: Work,
    config: TrainConfig,
    seed: int,
    base: Artifact,
    conversations: Artifact,
    shards: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    from components.data.conversations import pack_conversations, read_conversations, sft_batch_at, tokenise
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.training.checkpoints import load_model, save_model
    from components.training.language_model import IGNORE, LMBatch, mean_loss, train
    from components.training.optimizers import Optimizer

    words = Tokenizer.load(work.open(tokenizer))
    network = load_model(work.open(base))
    data = TokenShards.open(work.open(shards))
    before = held_out_losses(network, data, words, config.context_length)
    told = list(tokenise(read_conversations(work.open(conversations) / CONVERSATIONS), words))
    num_valid = max(1, len(told) // 33)
    packed = pack_conversations(told[num_valid:], config.context_length, words.pad_id)
    held_out = pack_conversations(told[:num_valid], config.context_length, words.pad_id)

    def as_batch(drawn: Any) -> LMBatch:
        targets = drawn.targets_BT.masked_fill(~drawn.loss_mask_BT, IGNORE)
        return LMBatch(drawn.inputs_BT, targets, drawn.positions_BT, drawn.document_ids_BT)

    optimizer = Optimizer(network, config.optimizer)
    start = resume(work, network, optimizer)
    records = train(
        network, optimizer, config, lambda step: as_batch(sft_batch_at(packed, step, config.batch_size, seed)), start
    )
    for _ in follow(work, records, network, optimizer, config.num_steps):
        pass
    save_model(work.out, network)
    valid = [as_batch(sft_batch_at(held_out, step, 8, seed)) for step in range(max(1, held_out.num_rows // 8))]
    loss, count = mean_loss(network, valid)
    after = held_out_losses(network, data, words, config.context_length)
    return {
        "num_params": count_params(network.cfg).total,
        "num_tokens": config.num_steps * config.batch_size * config.context_length,
        "loss": loss,
        "num_valid_targets": count,
        "packing_fill": packed.fill,
        "num_too_long": packed.num_too_long,
        # What fine-tuning cost the base model, by source of its pretraining text.
        "losses_by_source": {source: loss for source, (loss, _) in after.items()},
        "losses_by_source_before": {source: loss for source, (loss, _) in before.items()},
    }
