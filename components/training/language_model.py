"""The next-token loss and the loop that pretraining, fine-tuning, sweeps and reward-free stages share.

Shape suffixes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import Transformer
from components.training.config import TrainConfig
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor

IGNORE = -100


@dataclass(frozen=True)
class LMBatch:
    """tokens_BT and targets_BT, int64; targets are already shifted, and `IGNORE` carries no loss. With packed
    documents, positions_BT restart and documents_BT tells the documents of a row apart."""

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None


def summed_loss(model: Transformer, batch: LMBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the batch's targets: cross-entropy in nats, and squared log-normalizer; and the routers' mean loss."""
    hidden = model.hidden(batch.tokens_BT, batch.positions_BT, batch.documents_BT)
    logits_NV = model.logits(hidden.x_BTD).flatten(0, 1).float()
    targets_N = batch.targets_BT.flatten()
    cross_entropy = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="sum")
    z = (logits_NV.logsumexp(-1)[targets_N != IGNORE] ** 2).sum() if model.training else cross_entropy.new_zeros(())
    return cross_entropy, z, hidden.auxiliary_loss()


def train(
    model: Transformer,
    optimizer: Optimizer,
    config: TrainConfig,
    batch_at: Callable[[int], LMBatch],
    start_step: int = 0,
    loss: Callable[[Transformer, LMBatch], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Iterator[dict[str, float]]:
    """Train in place; yields after each step: step (steps done), loss (nats a target token), grad_norm, lr_factor,
    tokens, seconds, and skipped (1 when a non-finite loss or gradient left the weights alone).

    The batch of a step must depend on the step alone, so that a run that starts at `start_step` with the weights and
    optimizer state of that step is the same run. Pass a compiled `summed_loss` as `loss` to run that.
    Raises FloatingPointError after ten skipped steps in a row.
    """
    compute = loss or summed_loss
    model.train()
    bad_in_a_row = 0
    for step in range(start_step, config.num_steps):
        began = time.perf_counter()
        whole = batch_at(step)
        num_targets = int((whole.targets_BT != IGNORE).sum())
        total = 0.0
        for batch in micro_batches(whole, config.accumulation):
            cross_entropy, z, auxiliary = compute(model, batch)
            # Dividing by the whole batch's targets makes the accumulated gradient that of the whole batch.
            objective = cross_entropy / num_targets + auxiliary / config.accumulation
            if config.z_loss:
                objective = objective + config.z_loss * z / num_targets
            objective.backward()
            total += float(cross_entropy.detach())
        grad_norm = clip_gradients(optimizer.params, config.max_grad_norm)
        factor = lr_factor(config.schedule, step, config.num_steps)
        finite = bool(torch.isfinite(torch.tensor([grad_norm, total])).all())
        if finite:
            optimizer.step(factor)
            bad_in_a_row = 0
        else:
            optimizer.zero_grad()
            bad_in_a_row += 1
            if bad_in_a_row == 10:
                raise FloatingPointError(
                    f"ten steps in a row up to step {step} had a non-finite loss or gradient "
                    f"(loss {total / num_targets}): lower the learning rate"
                )
        yield {
            "step": step + 1,
            "loss": total / num_targets,
            "grad_norm": grad_norm,
            "lr_factor": factor,
            "tokens": whole.tokens_BT.numel(),
            "seconds": time.perf_counter() - began,
            "skipped": float(not finite),
        }


def micro_batches(batch: LMBatch, count: int) -> Iterator[LMBatch]:
    """The rows of a batch in `count` equal parts."""
    if count == 1:
        yield batch
        return
    parts: list[Sequence[Any]] = [
        [None] * count if x is None else x.chunk(count)
        for x in (batch.tokens_BT, batch.targets_BT, batch.positions_BT, batch.documents_BT)
    ]
    for index in range(count):
        yield LMBatch(*(part[index] for part in parts))


@torch.no_grad()
def mean_loss(model: Transformer, batches: Iterator[LMBatch] | Sequence[LMBatch]) -> tuple[float, int]:
    """Cross-entropy in nats a target token over all batches, and the number of targets."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        total += float(summed_loss(model, batch)[0])
        count += int((batch.targets_BT != IGNORE).sum())
    model.train(was_training)
    if not count:
        raise ValueError("no target token to evaluate: the validation split is empty")
    return total / count, count


def state_tensors(model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All tensors that resuming needs."""
    return {f"model.{k}": v for k, v in model.state_dict().items()} | {
        f"optimizer.{k}": v for k, v in optimizer.state_tensors().items()
    }


def load_state_tensors(model: torch.nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `state_tensors`."""
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    optimizer.load_state_tensors(
        {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
    )
