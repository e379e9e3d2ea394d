"""The next-token loss and the loop that pretraining, fine-tuning, sweeps and reward-free stages share.

Shape suffixes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.model.moe import MixtureOfExperts
from components.native.fuse import fuse
from components.training.balance import share_loads
from components.training.checkpointing import checkpoint_blocks
from components.training.config import TrainConfig
from components.training.guard import Guard
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor

if TYPE_CHECKING:  # an annotation alone: the loop does not depend on what each model is
    from components.model.lstm import LanguageModel
    from components.model.transformer import Hidden

IGNORE = -100


@dataclass(frozen=True)
class LMBatch:
    """tokens_BT and targets_BT, int64; targets are already shifted, and `IGNORE` carries no loss. With packed
    documents, positions_BT restart and documents_BT tells the documents of a row apart. weights_BT: how much each
    target's loss counts (None: all alike). noise_BTD: added to the embeddings."""

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    weights_BT: Tensor | None = None
    noise_BTD: Tensor | None = None

    def loss_weight(self) -> float:
        """What the mean loss divides by: the number of targets, or the sum of their weights."""
        counted = self.targets_BT != IGNORE
        total = counted.sum() if self.weights_BT is None else (self.weights_BT * counted).sum()
        return float(total) or 1.0

    def num_tokens(self) -> int:
        """Tokens that are read, without padding (document 0)."""
        return self.tokens_BT.numel() if self.documents_BT is None else int((self.documents_BT > 0).sum())

    def to(self, device: torch.device) -> LMBatch:
        """The same batch on another device."""
        if self.tokens_BT.device == device:
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in held.items()}
        return LMBatch(**moved)


def summed_loss(model: LanguageModel, batch: LMBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums over the batch's targets: cross-entropy in nats, and squared log-normalizer; and the routers' mean
    loss."""
    hidden = _hidden(model, batch)
    cross_entropy, z = model.cross_entropy(hidden.x_BTD, batch.targets_BT, IGNORE, batch.weights_BT)
    return cross_entropy, z, hidden.auxiliary_loss()


def _hidden(model: LanguageModel, batch: LMBatch) -> Hidden:
    rows = batch.tokens_BT, batch.positions_BT, batch.documents_BT
    return model.hidden(*rows) if batch.noise_BTD is None else model.hidden(*rows, noise_BTD=batch.noise_BTD)


def loss_in(precision: str, device: torch.device) -> Callable[[Any, LMBatch], tuple[Tensor, Tensor, Tensor]]:
    """`summed_loss` as a device runs it fastest: compiled on a GPU, as it is on a CPU, where the layers of
    `components.native.fuse` are faster than what a compiler makes of it; with products in bfloat16 if asked for."""

    def in_bfloat16(model: LanguageModel, batch: LMBatch) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            return summed_loss(model, batch)

    compute = in_bfloat16 if precision == "bfloat16" else summed_loss
    return torch.compile(compute, dynamic=False) if device.type == "cuda" else compute


@dataclass(frozen=True)
class StepRecord:
    """One step of training. step: steps done; loss: nats per target token, weighted if the batch is; lr_factor: on the
    peak rates; tokens: read in the step; seconds: it took. skipped: loss or gradient was not finite, and the weights
    were left alone; skipped_steps: so far; restored_step: the steps that the weights had done where the guard went
    back; rate_factor: what is left of the rate after going back."""

    step: int
    loss: float
    grad_norm: float
    lr_factor: float
    tokens: int
    seconds: float
    skipped: bool
    skipped_steps: int
    restored_step: int | None
    rate_factor: float

    @property
    def metrics(self) -> dict[str, float]:
        """What a log takes every few steps."""
        return {"loss": self.loss, "grad_norm": self.grad_norm, "lr_factor": self.lr_factor}

    @property
    def incidents(self) -> dict[str, float]:
        """What a log takes at once; empty for a step that went well."""
        found: dict[str, float] = {"skipped": 1.0, "skipped_steps": self.skipped_steps} if self.skipped else {}
        if self.restored_step is not None:
            found |= {"restored_step": self.restored_step, "rate_factor": self.rate_factor}
        return found


def train(
    model: LanguageModel,
    optimizer: Optimizer,
    config: TrainConfig,
    batch_at: Callable[[int], LMBatch],
    start_step: int = 0,
    loss: Callable[[Any, LMBatch], tuple[Tensor, Tensor, Tensor]] | None = None,
    guard: Guard | None = None,
) -> Iterator[StepRecord]:
    """Train in place; yields after each step.

    The batch of a step must depend on the step alone, so that a run that starts at `start_step` with the weights,
    optimizer state and guard of that step is the same run. `loss` takes the place of `summed_loss`.
    Raises TrainingDiverged when the guard gives up.
    """
    device = next(iter(model.parameters())).device
    compute = loss or loss_in(config.precision, device)
    guard = guard or Guard(config.non_finite)
    fuse(model)
    if config.gradient_checkpointing:
        checkpoint_blocks(model)
    model.train()
    for step in range(start_step, config.num_steps):
        began = time.perf_counter()
        whole = batch_at(step).to(device)
        loss_weight, num_tokens = whole.loss_weight(), whole.num_tokens() or 1
        total = 0.0
        parts = list(micro_batches(whole, config.accumulation))
        with balanced_as_one(model, parts, config.precision):
            for batch in parts:
                cross_entropy, z, auxiliary = compute(model, batch)
                # Dividing by the weight of the whole batch makes the accumulated gradient that of the whole batch.
                objective = cross_entropy / loss_weight + auxiliary * (batch.num_tokens() / num_tokens)
                if config.z_loss:
                    objective = objective + config.z_loss * z / loss_weight
                objective.backward()
                total += float(cross_entropy.detach())
        grad_norm = clip_gradients(optimizer.params, config.max_grad_norm)
        factor = lr_factor(config.schedule, step, config.num_steps) * guard.rate
        update = guard.update(step, factor, total / loss_weight, grad_norm, (model, optimizer))
        yield StepRecord(
            step=step + 1,
            loss=total / loss_weight,
            grad_norm=grad_norm,
            lr_factor=factor,
            tokens=whole.tokens_BT.numel(),
            seconds=time.perf_counter() - began,
            skipped=not update.done,
            skipped_steps=guard.skipped,
            restored_step=update.restored_step,
            rate_factor=guard.rate,
        )


@contextmanager
def balanced_as_one(model: LanguageModel, parts: Sequence[LMBatch], precision: str) -> Iterator[None]:
    """Routers balance the load of all parts together meanwhile, as they would in one batch (Qiu et al. 2025).

    Which experts the last part chooses has a say in the gradient of the first, so this takes a forward pass more.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MixtureOfExperts)]
    if len(parts) > 1 and any(layer.cfg.load_balance_coef for layer in layers):
        device = parts[0].tokens_BT.device.type
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            routed = [_hidden(model, batch).routers for batch in parts]
        share_loads(layers, routed)
    try:
        yield
    finally:
        for layer in layers:
            layer.whole_load_E = None


def micro_batches(batch: LMBatch, count: int) -> Iterator[LMBatch]:
    """The rows of a batch in `count` equal parts."""
    if count == 1:
        yield batch
        return
    parts: list[Sequence[Any]] = [
        [None] * count if x is None else x.chunk(count) for x in (getattr(batch, f.name) for f in fields(batch))
    ]
    for index in range(count):
        yield LMBatch(*(part[index] for part in parts))


def source_weights(sources: Sequence[str], weights: Mapping[str, float]) -> Tensor | None:
    """The loss weight of each source, in the order of `sources`; None where all count alike.

    Raises ValueError for a weight of a source that is not there.
    """
    if unknown := [name for name in weights if name not in sources]:
        raise ValueError(f"loss_weights names {unknown[0]!r}; the sources are {', '.join(sources)}")
    if all(weight == 1 for weight in weights.values()):
        return None
    return torch.tensor([weights.get(name, 1.0) for name in sources])


@torch.no_grad()
def mean_loss(model: LanguageModel, batches: Iterator[LMBatch] | Sequence[LMBatch]) -> tuple[float, int]:
    """Cross-entropy in nats per target token over all batches, and the number of targets."""
    was_training, device = model.training, next(iter(model.parameters())).device
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        total += float(summed_loss(model, batch.to(device))[0])
        count += int((batch.targets_BT != IGNORE).sum())
    model.train(was_training)
    if not count:
        raise ValueError("no target token to evaluate: the validation split is empty")
    return total / count, count
