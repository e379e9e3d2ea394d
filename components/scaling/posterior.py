"""Intervals of Chinchilla's law from few runs: the posterior of its parameters, run effects and noise included.

    ln L_ij = ln(E + A/N_i^α + B/D_ij^β) + u_i + e_ij,   u_i ~ N(0, τ²) of run i,   e_ij ~ N(0, σ²) of its point j

Priors: E uniform on (0, 1.02 min L); ln α and ln β ~ N(ln 0.25, 1.5²); each reducible term at the centre of the sweep
log-normal(ln 0.3 of the mean loss, 3²); ln σ uniform on (ln 1e-5, ln 0.5); τ/σ half-Cauchy(1) (Gelman 2006, "Prior
distributions for variance parameters in hierarchical models"). They are wide on purpose: where narrow ones (log-normal
0.4 and 0.7) held, these hold as well, and narrow ones fail for flat laws. u is integrated out in closed form.

A bootstrap over runs is too narrow where runs are few: tests/benchmarks/interval_coverage.py compares the two.

Walkers move in coordinates that the points fix one by one: at the centre of the sweep the whole loss m = E + a + b and
its slopes α a and β b, with a and b the reducible terms there. In E, a and b themselves the posterior is a thin bent
ridge, on which ensembles hardly mix. The change has a Jacobian of 1 from (E, ln a, ln b) to (m, ln α a, ln β b).

Shapes: S sweeps of one design in the batch, W walkers, n points, G runs; coordinates in the order (m, ln α, ln β,
ln α a, ln β b, ln σ, ln τ/σ), or E in place of m where it is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.scaling.ensemble import LogDensity, sample_ensembles
from components.scaling.points import PointArrays
from components.statistics import cluster_rows

FloatArray = NDArray[np.float64]

R_HAT_GATE = 1.2
_TOP_OF_E = 1.02  # of the lowest loss: noise may put a point under the floor
_SIGMA_BOUNDS = (1e-5, 0.5)


@dataclass(frozen=True)
class Posterior:
    """`laws`: shape (S, K, 5), draws of (A, B, E, α, β). `noise`: shape (S, K, 2), of each draw the standard deviation
    of ln loss between runs (τ) and between points of one run (σ). `r_hat`, `replaced`: as in `ensemble.Draws`."""

    laws: FloatArray
    noise: FloatArray
    r_hat: FloatArray
    replaced: NDArray[np.int64]


def sample_posterior(
    design: PointArrays,
    loss_Sn: FloatArray,
    start_S5: FloatArray,
    fixed_E: float | None = None,
    walkers: int = 64,
    steps: int = 6000,
    seed: int = 0,
) -> Posterior:
    """Posteriors of sweeps that share N, D and runs (those of `design`) and have the losses `loss_Sn`.

    `start_S5`: for each sweep an optimum (A, B, E, α, β) around which walkers start, wide.
    """
    x_n, y_n = np.log(design.num_params), np.log(design.tokens)
    x_mean, y_mean = float(x_n.mean()), float(y_n.mean())
    lowest_S = loss_Sn.min(axis=1)
    rng = np.random.default_rng(seed)
    shape = (len(loss_Sn), walkers)
    big_a, big_b, e, alpha, beta = start_S5.T[:, :, None]
    top = 0.98 * lowest_S[:, None]
    # Half of the walkers near the optimum, half of them with any floor at all.
    floor = np.where(np.arange(walkers) % 2, np.clip(e, 0.02 * top, top) * np.exp(-0.2 * rng.random(shape)), 0.0)
    floor = np.where(floor > 0, floor, top * rng.uniform(0.01, 1.0, shape))
    if fixed_E is not None:
        floor = np.full(shape, fixed_E)
    mean_S1 = loss_Sn.mean(axis=1)[:, None]
    term_a, term_b = (
        np.clip(term, 1e-3 * mean_S1, mean_S1)
        for term in (big_a * np.exp(-alpha * x_mean), big_b * np.exp(-beta * y_mean))
    )
    ln_alpha, ln_beta, ln_a, ln_b = (
        np.log(middle) + 0.4 * rng.standard_normal(shape)
        for middle in (np.clip(alpha, 0.03, 2.0), np.clip(beta, 0.03, 2.0), term_a, term_b)
    )
    level = floor if fixed_E is not None else floor + np.exp(ln_a) + np.exp(ln_b)
    ln_sigma = np.clip(math.log(0.02) + rng.standard_normal(shape), math.log(1e-4), math.log(0.3))
    start_SWP = np.stack(
        [level, ln_alpha, ln_beta, ln_alpha + ln_a, ln_beta + ln_b, ln_sigma, rng.standard_normal(shape)], axis=-1
    )
    density = log_posterior(design, loss_Sn, fixed_E)
    drawn = sample_ensembles(density, start_SWP, 7 if fixed_E is None else 6, steps, seed + 1)
    e_SK, ln_alpha, ln_beta, ln_a, ln_b = _parameters(drawn.values, fixed_E)
    ln_sigma, ln_ratio = drawn.values[..., 5], drawn.values[..., 6]
    alpha_SK, beta_SK, sigma_SK = np.exp(ln_alpha), np.exp(ln_beta), np.exp(ln_sigma)
    laws = np.stack(
        [np.exp(ln_a + alpha_SK * x_mean), np.exp(ln_b + beta_SK * y_mean), e_SK, alpha_SK, beta_SK], axis=-1
    )
    return Posterior(laws, np.stack([sigma_SK * np.exp(ln_ratio), sigma_SK], axis=-1), drawn.r_hat, drawn.replaced)


def central_draw(laws_K5: FloatArray, design: PointArrays) -> FloatArray:
    """Of the sampled laws (A, B, E, α, β) the one nearest to the medians of E, of the exponents, and of the predictions
    at the corners of the sweep and at twice its largest N and D, each in its standard deviations; shape (5,)."""
    big_a, big_b, e, alpha, beta = laws_K5.T
    features = [e, alpha, beta]
    n, d = design.num_params, design.tokens
    for at_n in (n.min(), n.max(), 2 * n.max()):
        for at_d in (d.min(), d.max(), 2 * d.max()):
            features.append(np.log(e + big_a * at_n**-alpha + big_b * at_d**-beta))
    table = np.stack(features, axis=1)
    spread = table.std(axis=0)
    distance = (((table - np.median(table, axis=0)) / np.where(spread > 0, spread, 1.0)) ** 2).sum(axis=1)
    return np.asarray(laws_K5[int(distance.argmin())])


def _parameters(at_SwP: FloatArray, fixed_E: float | None) -> tuple[FloatArray, ...]:
    """E, ln α, ln β, ln a, ln b of the walkers' coordinates; each of shape (S, w)."""
    level, ln_alpha, ln_beta, slope_a, slope_b = np.moveaxis(at_SwP[..., :5], -1, 0)
    ln_a, ln_b = slope_a - ln_alpha, slope_b - ln_beta
    with np.errstate(over="ignore"):
        e = level if fixed_E is not None else level - np.exp(ln_a) - np.exp(ln_b)
    return e, ln_alpha, ln_beta, ln_a, ln_b


def log_posterior(design: PointArrays, loss_Sn: FloatArray, fixed_E: float | None = None) -> LogDensity:
    """The log density, without its constant, as a function of parameters (S, w, 7); -inf outside of the priors."""
    x_n, y_n = np.log(design.num_params), np.log(design.tokens)
    x_n, y_n = x_n - x_n.mean(), y_n - y_n.mean()
    target_S1n = np.log(loss_Sn)[:, None, :]
    groups = cluster_rows(design.runs)
    member_nG = np.zeros((len(x_n), len(groups)))
    for g, rows in enumerate(groups):
        member_nG[rows, g] = 1.0
    size_G = member_nG.sum(axis=0)
    n = len(x_n)
    top_S1 = _TOP_OF_E * loss_Sn.min(axis=1)[:, None]
    centre_S1 = np.log(0.3 * loss_Sn.mean(axis=1))[:, None]
    ln_low, ln_high = (math.log(bound) for bound in _SIGMA_BOUNDS)

    def density(at_SwP: FloatArray) -> FloatArray:
        e, ln_alpha, ln_beta, ln_a, ln_b = _parameters(at_SwP, fixed_E)
        ln_sigma, ln_ratio = at_SwP[..., 5], at_SwP[..., 6]
        inside = (ln_sigma > ln_low) & (ln_sigma < ln_high)
        if fixed_E is None:
            inside &= (e > 0.0) & (e < top_S1)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            term_a = np.exp(ln_a[..., None] - np.exp(ln_alpha)[..., None] * x_n)
            term_b = np.exp(ln_b[..., None] - np.exp(ln_beta)[..., None] * y_n)
            error_Swn = target_S1n - np.log(e[..., None] + term_a + term_b)
            ratio = np.exp(2.0 * ln_ratio)[..., None]
            shrunk = ratio / (1.0 + size_G * ratio)  # Sherman-Morrison: the inverse of I + τ²/σ² 11ᵀ of each run
            square = (error_Swn**2).sum(axis=-1) - (shrunk * (error_Swn @ member_nG) ** 2).sum(axis=-1)
            likelihood = (
                -n * ln_sigma - 0.5 * np.log1p(size_G * ratio).sum(axis=-1) - 0.5 * square * np.exp(-2 * ln_sigma)
            )
            prior = (
                -0.5 * ((ln_alpha - math.log(0.25)) ** 2 + (ln_beta - math.log(0.25)) ** 2) / 1.5**2
                - 0.5 * ((ln_a - centre_S1) ** 2 + (ln_b - centre_S1) ** 2) / 3.0**2
                - np.logaddexp(ln_ratio, -ln_ratio)  # half-Cauchy in the ratio, as a density of its logarithm
            )
            total = likelihood + prior
        return np.where(inside & np.isfinite(total), total, -np.inf)

    return density
