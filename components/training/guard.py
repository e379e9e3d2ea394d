"""What training does about a loss or a gradient that is not finite: skip the step, and after a run of skips go back.

Going back restores weights and optimizer of the last snapshot (at first, of the start) and lowers the rate for the
rest of the run. The step count, the schedule and the data go on, so that batches which no model survives are passed by
(Chowdhery et al. 2022, §5.1, skipped the batches around a spike in the same way). Snapshots are taken at fixed steps,
never by the clock: a run that was killed and resumed goes back to the same weights as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.training.config import NonFiniteConfig
from components.training.optimizers import Optimizer
from components.training.results.guard import GuardCounts
from components.training.state import load_state_tensors, state_tensors

Trained = tuple[nn.Module, Optimizer]


class TrainingDiverged(FloatingPointError):
    """Loss or gradient stayed non-finite after every rollback that the settings allow."""


@dataclass(frozen=True)
class Update:
    """Whether it was done, not skipped; and where the guard went back, how many steps the restored weights had done."""

    done: bool
    restored_step: int | None = None


@dataclass
class Guard:
    """Counts of one run. skipped: steps that left the weights alone; rollbacks: how often it went back; rate: factor on
    the learning rate since then. `tensors` and `load_tensors` round-trip it, the snapshot included."""

    config: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    rate: float = 1.0
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0
    snapshot_step: int = -1
    snapshot: dict[str, Tensor] = field(default_factory=dict)

    def update(self, step: int, factor: float, loss: float, grad_norm: float, *trained: Trained) -> Update:
        """The update of 0-based `step` from the gradients at hand, rates multiplied by `factor`; or none, where loss or
        gradient is not finite. Models that learn together pass, are skipped and go back together.

        Raises TrainingDiverged when the rollbacks are used up.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._keep(step, trained)
            for _, optimizer in trained:
                optimizer.step(factor)
            return Update(done=True)
        for _, optimizer in trained:
            optimizer.zero_grad()
        return Update(done=False, restored_step=self._failed(step, loss, trained))

    def begin_another(self) -> None:
        """Go on with another model: the counts and the rate stay, the snapshot was of the one before."""
        self.in_a_row, self.snapshot_step, self.snapshot = 0, -1, {}

    def _keep(self, step: int, trained: tuple[Trained, ...]) -> None:
        """The weights are good, and their update is still to come."""
        self.in_a_row = 0
        every = self.config.snapshot_every
        if self.config.max_rollbacks and (self.snapshot_step < 0 or step // every != self.snapshot_step // every):
            self.snapshot = {
                f"{index}.{name}": value.detach().to("cpu", copy=True)
                for index, (model, optimizer) in enumerate(trained)
                for name, value in state_tensors(model, optimizer).items()
            }
            self.snapshot_step = step

    def _failed(self, step: int, loss: float, trained: tuple[Trained, ...]) -> int | None:
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < self.config.max_in_a_row:
            return None
        if self.rollbacks >= self.config.max_rollbacks:
            after = f" after {self.rollbacks} rollbacks, at {self.rate:g} of the rate" if self.rollbacks else ""
            raise TrainingDiverged(
                f"{self.in_a_row} steps in a row up to step {step + 1} had a non-finite loss or gradient{after} "
                f"(the last loss is {loss:g}): lower the learning rate (optimizer.muon_lr, optimizer.adamw_lr), "
                "or look at the data of these steps"
            )
        if self.snapshot:  # else no step was ever good, and these are the weights of the start
            for index, (model, optimizer) in enumerate(trained):
                head = f"{index}."
                own = {k.removeprefix(head): x for k, x in self.snapshot.items() if k.startswith(head)}
                load_state_tensors(model, optimizer, own)
        self.rollbacks += 1
        self.in_a_row = 0
        self.rate *= self.config.rate_factor
        return max(0, self.snapshot_step)

    def check_trained(self, losses: Iterable[float]) -> None:
        """Raises TrainingDiverged where one of the held-out losses of the trained model is not finite: an update made
        the weights useless so late that too few steps were skipped after it to go back."""
        if (bad := next((loss for loss in losses if not math.isfinite(loss)), None)) is not None:
            raise TrainingDiverged(
                f"the trained model's held-out loss is {bad:g}, after {self.skipped} skipped steps, {self.in_a_row} of "
                "them at the end: lower the learning rate (optimizer.muon_lr, optimizer.adamw_lr)"
            )

    def counts(self) -> GuardCounts:
        """For the result of a stage."""
        return GuardCounts(self.skipped, self.rollbacks, self.rate)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, by name."""
        counts = torch.tensor([self.skipped, self.in_a_row, self.rollbacks, self.snapshot_step])
        named = {"guard.counts": counts, "guard.rate": torch.tensor(self.rate, dtype=torch.float64)}
        return named | {f"guard.snapshot.{name}": value for name, value in self.snapshot.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.skipped, self.in_a_row, self.rollbacks, self.snapshot_step = tensors["guard.counts"].tolist()
        self.rate = float(tensors["guard.rate"])
        head = "guard.snapshot."
        self.snapshot = {
            name.removeprefix(head): value.clone() for name, value in tensors.items() if name.startswith(head)
        }
