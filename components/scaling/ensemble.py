"""Sampling of many small posteriors at once, by ensembles of walkers.

Each ensemble is split into halves that propose from each other (Foreman-Mackey et al. 2013, 1202.3665, section 3), by
stretch moves (Goodman and Weare 2010, "Ensemble samplers with affine invariance", eq. 7) and by differential evolution
(ter Braak 2006, "A Markov chain Monte Carlo version of the genetic algorithm Differential Evolution", eq. 2).

A walker that started far from the rest may stay where it is while all others mix: a few such walkers double the tails
of a posterior, and R-hat over many chains hardly sees them. They are looked for by the share of their proposals that
is accepted and by their density, and begin again from a healthy walker's place.

Shapes: S posteriors in the batch, W walkers each, P parameters, T kept steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LogDensity = Callable[[FloatArray], FloatArray]  # (S, w, P) -> (S, w), -inf outside of the support

_STRETCH = 2.0  # a of Goodman and Weare
_WARM_ROUNDS = 5
_KEPT = 64  # steps kept of each walker
_STILL = 0.2  # of the ensemble's median share of accepted proposals
_FAR = 16.0  # nats under the ensemble's median density; of 7 Gaussian parameters, 1 draw in 10^5 lies as low


@dataclass(frozen=True)
class Draws:
    """`values`: shape (S, T·W, P). `r_hat`: shape (S,), the largest split R-hat of the parameters, a chain a walker
    (Gelman et al. 2013, "Bayesian Data Analysis", eq. 11.4). `replaced`: shape (S,), stuck walkers that began again."""

    values: FloatArray
    r_hat: FloatArray
    replaced: NDArray[np.int64]


def sample_ensembles(log_density: LogDensity, start_SWP: FloatArray, num_free: int, steps: int, seed: int) -> Draws:
    """Draws from `log_density`: the first half of the steps warms up, of the second 64 are kept of each walker.

    `num_free`: parameters that differ between walkers; what all walkers share stays as it is.

    Raises ValueError for an odd or too small number of walkers, for fewer than 128 steps, and for a posterior in which
    no walker starts within the support.
    """
    num_walkers = start_SWP.shape[1]
    if num_walkers % 2 or num_walkers < 2 * (num_free + 1):
        raise ValueError(
            f"an ensemble of {num_free} parameters needs an even number of at least {2 * (num_free + 1)} walkers, "
            f"got {num_walkers}"
        )
    if steps < 2 * _KEPT:
        raise ValueError(f"an ensemble needs at least {2 * _KEPT} steps, got {steps}")
    ensemble = _Ensembles(log_density, start_SWP.copy(), num_free, np.random.default_rng(seed))
    if not np.isfinite(ensemble.density_SW).any(axis=1).all():
        raise ValueError("no walker of an ensemble starts within the support of its posterior")
    replaced = np.zeros(len(start_SWP), dtype=np.int64)
    for _ in range(_WARM_ROUNDS):
        ensemble.walk(steps // 2 // _WARM_ROUNDS)
        stuck_SW = ensemble.stuck()
        replaced += stuck_SW.sum(axis=1)
        ensemble.replace(stuck_SW)
    chain_TSWP = ensemble.walk(steps // 2, keep=_KEPT)
    # What got stuck only now is left out: its chain is that of a healthy walker.
    stuck_SW = ensemble.stuck()
    replaced += stuck_SW.sum(axis=1)
    for problem, walkers in enumerate(stuck_SW):
        if walkers.any():
            healthy = ensemble.rng.choice(np.flatnonzero(~walkers), int(walkers.sum()))
            chain_TSWP[:, problem, walkers] = chain_TSWP[:, problem, healthy]
    num_problems, num_params = start_SWP.shape[0], start_SWP.shape[2]
    values = chain_TSWP.transpose(1, 0, 2, 3).reshape(num_problems, -1, num_params)
    return Draws(values, _split_r_hat(chain_TSWP), replaced)


class _Ensembles:
    """Walkers with their densities, and what each did since `walk` began."""

    def __init__(self, log_density: LogDensity, start_SWP: FloatArray, num_free: int, rng: np.random.Generator) -> None:
        self.log_density, self.num_free, self.rng = log_density, num_free, rng
        self.at_SWP, self.density_SW = start_SWP, log_density(start_SWP)
        self.accepted_SW = np.zeros(self.density_SW.shape)
        self.mean_density_SW = np.zeros(self.density_SW.shape)

    def walk(self, steps: int, keep: int = 0) -> FloatArray:
        """Take `steps` steps; the `keep` last of an even spacing: shape (keep, S, W, P)."""
        self.accepted_SW[:], self.mean_density_SW[:] = 0.0, 0.0
        every, kept = steps // keep if keep else 0, []
        half = self.at_SWP.shape[1] // 2
        for step in range(steps):
            for mine, others in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
                self._move(mine, self.at_SWP[:, others])
            if 2 * step >= steps:
                self.mean_density_SW += self.density_SW / (steps - (steps + 1) // 2)
            if keep and (steps - 1 - step) % every == 0 and (steps - 1 - step) // every < keep:
                kept.append(self.at_SWP.copy())
        self.accepted_SW /= max(steps, 1)
        return np.array(kept)

    def _move(self, mine: slice, others_SHP: FloatArray) -> None:
        rng, here_SHP = self.rng, self.at_SWP[:, mine]
        num_problems, half, _ = here_SHP.shape
        row = np.arange(num_problems)[:, None]
        first = rng.integers(0, half, (num_problems, half))
        if rng.random() < 0.5:
            z_SH = ((_STRETCH - 1.0) * rng.random((num_problems, half)) + 1.0) ** 2 / _STRETCH
            partner_SHP = others_SHP[row, first]
            proposed_SHP = partner_SHP + z_SH[..., None] * (here_SHP - partner_SHP)
            bonus_SH = (self.num_free - 1) * np.log(z_SH)
        else:
            second = (first + rng.integers(1, half, (num_problems, half))) % half
            scale = 1.0 if rng.random() < 0.1 else 2.38 / math.sqrt(2 * self.num_free)  # 1: from mode to mode
            proposed_SHP = here_SHP + scale * (others_SHP[row, first] - others_SHP[row, second])
            bonus_SH = np.zeros((num_problems, half))
        density_SH = self.log_density(proposed_SHP)
        with np.errstate(invalid="ignore"):  # -inf - -inf: a walker outside of the support that stays there
            taken_SH = np.log(rng.random((num_problems, half))) < bonus_SH + density_SH - self.density_SW[:, mine]
        self.at_SWP[:, mine][taken_SH] = proposed_SHP[taken_SH]
        self.density_SW[:, mine][taken_SH] = density_SH[taken_SH]
        self.accepted_SW[:, mine] += taken_SH

    def stuck(self) -> NDArray[np.bool_]:
        """Walkers (S, W) that hardly moved in the last `walk`, or were far below the others in its second half."""
        still = self.accepted_SW < _STILL * np.median(self.accepted_SW, axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            near = self.mean_density_SW >= np.median(self.mean_density_SW, axis=1, keepdims=True) - _FAR
        stuck = still | ~near
        return stuck & ~stuck.all(axis=1, keepdims=True)

    def replace(self, stuck_SW: NDArray[np.bool_]) -> None:
        """Put these walkers where healthy ones of their ensemble are."""
        for problem, walkers in enumerate(stuck_SW):
            if walkers.any():
                healthy = self.rng.choice(np.flatnonzero(~walkers), int(walkers.sum()))
                self.at_SWP[problem, walkers] = self.at_SWP[problem, healthy]
                self.density_SW[problem, walkers] = self.density_SW[problem, healthy]


def _split_r_hat(chain_TSWP: FloatArray) -> FloatArray:
    half = len(chain_TSWP) // 2
    chains = np.concatenate([chain_TSWP[:half], chain_TSWP[half : 2 * half]], axis=2)
    within = chains.var(axis=0, ddof=1).mean(axis=1)
    between = half * chains.mean(axis=0).var(axis=1, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r_hat = np.sqrt((half - 1) / half + between / within / half)
    return np.asarray(np.where(within > 0, r_hat, 1.0).max(axis=-1))
