"""Pretraining and fine-tuning; `follow` is how every loop of a language model is watched, counted and saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.model.config import ModelConfig, count_params, training_flops_per_token
from components.training.config import FinetuneConfig, PretrainConfig
from components.training.results.finetuning import FinetuneResult
from components.training.results.pretraining import PretrainResult
from flows.engine.stage import stage
from flows.engine.utilization import peak_flops, peak_memory_bytes
from flows.engine.work import Work
from flows.stages.counting import rough_flops
from flows.stages.files import CONVERSATIONS
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.model.lstm import LanguageModel
    from components.training.distributed import Group
    from components.training.language_model import StepRecord
    from components.training.optimizers import Optimizer
    from components.training.state import Savable

LOG_EVERY = 5


def follow(
    work: Work,
    records: Iterator[StepRecord],
    model: LanguageModel,
    optimizer: Optimizer,
    num_steps: int,
    *also: Savable,
    group: Group | None = None,
    **info: Any,
) -> Iterator[StepRecord]:
    """Pass on the records of a loop while logging, counting and saving it.

    What the loop names as metrics is logged every `LOG_EVERY` steps, its incidents at once. A state of model, optimizer
    and `also` is saved when one is due, after the caller has seen the step. `group`: the ranks that train together; a
    record tells of this one's rows.
    """
    from components.model.moe import routing
    from components.training.state import state_tensors

    tokens = 0
    peak = peak_flops(work.execution)
    for record in records:
        step, read = record.step, record.tokens * (group.size if group else 1)
        tokens += read
        flops = read * training_flops_per_token(model.cfg, model.cfg.context_length)
        work.usage(tokens=read, flops=flops, flops_6nd=rough_flops(model.cfg, read, 3))
        if step % LOG_EVERY == 0 or step == num_steps:
            speed = {
                "tokens_per_second": read / record.seconds,
                "mfu": flops / record.seconds / (peak * (group.size if group else 1)),
                "peak_memory_bytes": peak_memory_bytes(work.execution.device),
            }
            work.log(step, record.metrics | speed | routing(model))
        work.log(step, record.incidents)
        if record.skipped:
            info["skipped"] = record.skipped_steps
            print(f"step {step} skipped: loss {record.loss:g}, gradient norm {record.grad_norm:g}")
        if record.restored_step is not None:
            info["note"] = f"not finite: back to step {record.restored_step}, {record.rate_factor:g} of the rate"
            print(f"step {step}: {info['note']}")
        work.progress(step, num_steps, loss=record.loss, tokens=tokens, **info)
        yield record
        if step >= num_steps or not work.state_due():
            continue
        if group:
            work.save_state_of_ranks(step, group.rank, partial(group.save, optimizer=optimizer, also=also))
        else:
            tensors = state_tensors(model, optimizer)
            for part in also:
                tensors |= part.tensors()
            work.save_state(step, tensors, {})


def spread(work: Work, model: LanguageModel, precision: str) -> Group | None:
    """The ranks that train this model with this process, which then has its part of it; None for one process."""
    if work.execution.ranks == 1:
        return None
    from components.training.distributed import Group

    return Group(model, work.execution.parallel, precision)


def resume(work: Work, model: LanguageModel, optimizer: Optimizer, *also: Savable) -> int:
    """Load the newest state of a killed attempt into model, optimizer and `also`; the steps that it has done.

    One process goes on with what many ranks saved, and any number of ranks with what another number saved; many ranks
    do not go on with what one process saved, and begin anew.
    """
    from components.training.state import load_state_tensors

    saved = work.load_state()
    if saved is None:
        return 0
    step, tensors, meta = saved
    if "folder" in meta:
        from components.training.distributed import load_sharded

        load_sharded(Path(meta["folder"]), model, optimizer, also)
        return step
    if work.execution.ranks > 1:
        print(f"the state at step {step} was saved by one process: {work.execution.ranks} ranks begin anew")
        work.forget_rows()
        return 0
    load_state_tensors(model, optimizer, tensors)
    for part in also:
        part.load_tensors(tensors)
    return step


@stage(produces="checkpoint", group="pretraining", seconds=150)
def pretrain(
    work: Work,
    *,
    model: ModelConfig,
    config: PretrainConfig,
    weights: Mapping[str, float],
    seed: int,
    shards: Artifact,
    tokenizer: Artifact,
) -> PretrainResult:
    """A base model from random weights, on windows of the shards mixed by `weights`."""
    from components.data.batches import batch_at
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.training.checkpoints import save_model
    from components.training.guard import Guard
    from components.training.language_model import LMBatch, source_weights, train
    from components.training.optimizers import Optimizer
    from components.training.transfer import scale_output
    from components.training.validation import held_out

    data, words = TokenShards.open(work.open(shards)), Tokenizer.load(work.open(tokenizer))
    network = Transformer(dataclasses.replace(model, vocab_size=words.vocab_size), seed)
    scale_output(network, config.optimizer)
    network.to(work.device)
    group = spread(work, network, config.precision)
    optimizer, guard = Optimizer(network, config.optimizer), Guard(config.non_finite)
    weight_of_source = source_weights(data.sources, config.loss_weights)

    def batch(step: int) -> LMBatch:
        drawn = batch_at(data, step, config.batch_size, config.context_length, seed, weights)
        if weight_of_source is None:
            return LMBatch(drawn.inputs_BT, drawn.targets_BT)
        weights_BT = weight_of_source[drawn.source_ids_B][:, None].expand_as(drawn.targets_BT)
        return LMBatch(drawn.inputs_BT, drawn.targets_BT, weights_BT=weights_BT)

    batches, loss = (group.batches(batch), group.loss) if group else (batch, None)
    if group:
        group.adopt(optimizer)
    start = resume(work, network, optimizer, guard)
    records = train(network, optimizer, config, batches, start, loss, guard=guard)
    for record in follow(work, records, network, optimizer, config.num_steps, guard, group=group):
        if config.validate_every and record.step % config.validate_every == 0 and record.step < config.num_steps:
            looks = held_out(network, data, words, config.context_length, config.validation_windows)
            work.log(
                record.step, {f"valid_bits_per_byte/{source}": look.bits_per_byte for source, look in looks.items()}
            )
    final = held_out(network, data, words, config.context_length)
    guard.check_trained(look.loss for look in final.values())
    save_model(work.out, group.whole() if group else network)
    work.log(config.num_steps, {f"valid_bits_per_byte/{source}": look.bits_per_byte for source, look in final.items()})
    work.log(config.num_steps, {f"valid_loss/{source}": look.loss for source, look in final.items()})
    last = [value for _, name, value, _ in work.metrics() if name == "loss"][-10:]
    return PretrainResult(
        num_params=count_params(network.cfg).total,
        num_params_non_embedding=count_params(network.cfg).non_embedding,
        num_tokens=config.num_steps * config.batch_size * config.context_length,
        loss=sum(last) / len(last),
        losses_by_source={source: look.loss for source, look in final.items()},
        bits_per_byte={source: look.bits_per_byte for source, look in final.items()},
        guard=guard.counts(),
    )


@stage(produces="checkpoint", group="sft", seconds=60)
def finetune(
    work: Work,
    *,
    config: FinetuneConfig,
    weights: Mapping[str, float],
    seed: int,
    base: Artifact,
    conversations: Artifact,
    shards: list[Artifact],
    tokenizer: Artifact,
) -> FinetuneResult:
    """Supervised fine-tuning on packed conversations, with loss on what the assistant says alone.

    `shards`: the pretraining text, if there is any; `weights` mix what of it is replayed. Of the looks at validation
    conversations the best is kept; the reported loss is of test conversations, whose prompts neither training nor these
    looks have seen.
    """
    from components.data.conversations import pack_conversations, read_conversations, tokenise
    from components.data.prompt_split import split_by_prompt
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.training.checkpoints import load_adapted, load_model, save_model
    from components.training.early_stop import EarlyStop
    from components.training.finetuning import FinetuneBatches, held_out_batches
    from components.training.guard import Guard
    from components.training.language_model import mean_loss, train
    from components.training.lora import ADAPTERS, adapters, add_lora, merge_lora, save_lora
    from components.training.optimizers import Optimizer
    from components.training.validation import held_out

    if config.replay and not shards:
        raise ValueError(
            f"replay is {config.replay}, and there is no text to replay: give [[data.sources]], or set it 0"
        )
    words = Tokenizer.load(work.open(tokenizer))
    data = TokenShards.open(work.open(shards[0])) if shards else None
    load = load_adapted if config.lora else load_model
    network = load(work.open(base)).to(work.device)
    kept = bool(adapters(network))  # those of an imported adapter go on, and stay apart from their base
    before = held_out(network, data, words, config.context_length) if data else {}
    split = split_by_prompt(read_conversations(work.open(conversations) / CONVERSATIONS), config.held_out)
    packed, watched, tested = (
        pack_conversations(tokenise(part, words), config.context_length, words.pad_id)
        for part in (split.train, split.valid, split.test)
    )
    if config.lora and work.execution.ranks > 1 and work.execution.parallel == "fsdp2":
        raise ValueError(
            'finetune.lora trains adapters beside a frozen model, which "fsdp2" does not shard: take "ddp"'
        )
    adapted = add_lora(network, config.lora, seed) if config.lora else []

    batches = FinetuneBatches(config, packed, data, weights, network.cfg.d_model, seed)
    looks = held_out_batches(watched, 8, max_rows=64)
    group = spread(work, network, config.precision)
    optimizer, guard = Optimizer(network, config.optimizer), Guard(config.non_finite)
    drawn, own_loss = (group.batches(batches.at), group.loss) if group else (batches.at, None)
    if group:
        group.adopt(optimizer)
    best = EarlyStop(config.patience)
    start = resume(work, network, optimizer, guard, best)
    records = train(network, optimizer, config, drawn, start, own_loss, guard=guard)
    steps_done = start
    for record in follow(work, records, network, optimizer, config.num_steps, guard, best, group=group):
        steps_done = step = record.step
        if config.validate_every and (step % config.validate_every == 0 or step == config.num_steps):
            loss, _ = mean_loss(network, looks)
            work.log(step, {"valid_loss": loss})
            if best.look(step, loss, network):
                print(f"step {step}: no lower held-out loss since step {best.best_step}: fine-tuning ends here")
                break
    best.restore(network)
    if config.lora and not kept:
        save_lora(work.out / ADAPTERS, network)  # for who wants them without the base
        merge_lora(network)
    loss, count = mean_loss(network, held_out_batches(tested, 8))
    guard.check_trained([loss])
    save_model(work.out, group.whole() if group else network)
    after = held_out(network, data, words, config.context_length) if data else {}
    return FinetuneResult(
        num_params=count_params(network.cfg).total,
        num_adapters=len(adapted),
        num_steps=steps_done,
        replay=config.replay,
        num_tokens=steps_done * config.batch_size * config.context_length,
        loss=loss,
        num_test_targets=count,
        packing_fill=packed.fill,
        num_too_long=packed.num_too_long,
        losses_by_source={source: look.loss for source, look in after.items()},
        losses_by_source_before={source: look.loss for source, look in before.items()},
        bits_per_byte={source: look.bits_per_byte for source, look in after.items()},
        guard=guard.counts(),
        num_conversations={"training": len(split.train), "validation": len(split.valid), "test": len(split.test)},
        early_stop=best.result(),
    )
