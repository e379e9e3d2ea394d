"""A sweep planned from a compute budget: rungs of growing width, each read at several numbers of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.model.config import count_params, training_flops_per_token
from components.scaling.sweep import FactsRunConfig, training_seeds

FIRST = 3  # widths without which no law can be fitted; from the next rung on each is forecast before it is trained
_READS = (0.25, 0.35, 0.5, 0.71, 1.0)  # of a run's tokens
_GROWTH = 1.6  # at least so much more compute from one rung to the next


@dataclass(frozen=True)
class Rung:
    """One size of the sweep. `flops`: training FLOPs of one run, by the model's exact count."""

    config: FactsRunConfig
    num_params: int
    tokens: int
    flops: float


@dataclass(frozen=True)
class SweepPlan:
    """`rungs`: by rising size; `seeds`: of the trainings of each; `flops`: of all of them together."""

    rungs: tuple[Rung, ...]
    seeds: tuple[int, ...]

    @property
    def flops(self) -> float:
        return len(self.seeds) * sum(rung.flops for rung in self.rungs)


def plan_sweep(
    budget: float, run: FactsRunConfig, vocab_size: int, trainings: int = 1, ratio: float = 20.0, seed: int = 0
) -> SweepPlan:
    """The largest ladder whose trainings all fit into `budget` FLOPs.

    Widths rise by whole heads of `run`, at least by a factor of 1.6 in compute; each model sees `ratio` tokens a
    parameter (without embeddings), and is read at a quarter, .35, a half, .71 and all of them, with averaged weights
    in place of a decay of the rate for each (Hägele et al. 2024). Of all ladders the one with the largest top rung
    that leaves room for at least three smaller ones, in which the rungs are about evenly spaced in ln C.

    Raises ValueError where the budget has no room for four sizes.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"the budget must be finite and positive FLOPs, got {budget}")
    if not ratio > 0:
        raise ValueError(f"tokens per parameter must be positive, got {ratio}")
    share = budget / trainings
    rungs: list[Rung] = []
    width = run.head_dim
    while (rung := _rung(run, width, vocab_size, ratio)).flops <= share:
        rungs.append(rung)
        width += run.head_dim
    for top in range(len(rungs) - 1, FIRST - 1, -1):
        chosen = _ladder(rungs[: top + 1], share)
        if len(chosen) > FIRST:
            return SweepPlan(tuple(chosen), training_seeds(seed, trainings))
    first = [_rung(run, run.head_dim * (1 + i), vocab_size, ratio) for i in range(FIRST + 1)]
    least = trainings * sum(rung.flops for rung in first)
    raise ValueError(
        f"a budget of {budget:.3g} FLOPs has no room for {FIRST + 1} sizes, which take {least:.3g} at {ratio:g} tokens "
        "per parameter: raise --budget, or take fewer --seeds or a smaller --ratio"
    )


def _ladder(rungs: Sequence[Rung], share: float) -> list[Rung]:
    """From the largest down, as far as the budget goes; empty where the smallest does not fit in."""
    chosen, left = [rungs[-1]], share - rungs[-1].flops
    for place in range(len(rungs) - 2, -1, -1):
        rung = rungs[place]
        # The smallest ones cost little and hold the law's far end, so they come in whatever their distance.
        apart = chosen[-1].flops >= _GROWTH * rung.flops or place < FIRST - 1
        if apart and rung.flops <= left:
            chosen.append(rung)
            left -= rung.flops
    return chosen[::-1] if chosen[-1] is rungs[0] else []


def _rung(run: FactsRunConfig, width: int, vocab_size: int, ratio: float) -> Rung:
    model = replace(run, d_model=width).model(vocab_size)
    num_params = count_params(model).non_embedding
    step = run.tokens_per_step
    reads = sorted({max(1, round(ratio * num_params * part / step)) * step for part in _READS})
    config = replace(run, d_model=width, checkpoints=tuple(reads))
    return Rung(config, num_params, reads[-1], training_flops_per_token(model, run.context_length) * reads[-1])
