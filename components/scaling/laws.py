"""The laws themselves: loss as a function of parameters N, tokens D and compute C. Fits are in the files beside.

Losses are in nats per token, N in parameters, D in tokens, C in FLOPs. Every function takes scalars or arrays that
broadcast against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Allocation:
    """A model size and its tokens: N, D, the loss that the law predicts, and training FLOPs."""

    num_params: float
    tokens: float
    loss: float
    flops: float

    @property
    def tokens_per_param(self) -> float:
        """D/N, the measure of over-training (about 20 for Chinchilla)."""
        return self.tokens / self.num_params


@dataclass(frozen=True)
class ChinchillaLaw:
    """L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, eq. 2)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ChinchillaLaw.{name} must be positive, got {getattr(self, name)}")
        if not self.E >= 0:
            raise ValueError(f"ChinchillaLaw.E must be at least 0, got {self.E}")

    def loss(self, num_params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """Predicted loss."""
        n, d = np.asarray(num_params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return np.asarray(self.E + self.A * n**-self.alpha + self.B * d**-self.beta)

    @property
    def params_exponent(self) -> float:
        """a in N* ∝ C^a: beta/(alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    def optimal(self, flops: float, flops_per_token: Callable[[float], float] | None = None) -> Allocation:
        """The N and D of least loss at a training budget in FLOPs.

        With `flops_per_token=None`, C = 6ND and the closed form (Hoffmann et al. 2022, eq. 4). Otherwise
        `flops_per_token(N)` gives the exact training FLOPs per token of a model of N parameters (attention and
        embeddings included), and the optimum is searched for along D = C / flops_per_token(N).
        """
        _positive("flops", flops)
        if flops_per_token is None:
            log_g = (math.log(self.alpha) + math.log(self.A) - math.log(self.beta) - math.log(self.B)) / (
                self.alpha + self.beta
            )
            log_n = log_g + self.params_exponent * math.log(flops / 6.0)
            n, d = _exp(log_n), _exp(math.log(flops / 6.0) - log_n)
            return Allocation(n, d, float(self.loss(n, d)), flops)

        start = math.log(self.optimal(flops).num_params)

        def loss_at(log_n: float) -> float:
            n = math.exp(log_n)
            return float(self.loss(n, flops / flops_per_token(n)))

        found = optimize.minimize_scalar(
            loss_at, bounds=(start - 6, start + 6), method="bounded", options={"xatol": 1e-9}
        )
        n = math.exp(float(found.x))
        return Allocation(n, flops / flops_per_token(n), float(found.fun), flops)

    def optimal_tokens(self, num_params: float) -> float:
        """D for which a model of `num_params` is compute-optimal under C = 6ND: αA/N^α = βB/D^β."""
        _positive("num_params", num_params)
        balance = math.log(self.beta * self.B / (self.alpha * self.A)) + self.alpha * math.log(num_params)
        return _exp(balance / self.beta)

    def tokens_for_loss(self, num_params: float, loss: float) -> float:
        """D at which a model of `num_params` reaches `loss`; inf where it never does."""
        rest = loss - self.E - self.A * num_params**-self.alpha
        if rest <= 0:
            return math.inf
        return _exp(math.log(self.B / rest) / self.beta)

    def smallest_model(self, loss: float) -> float:
        """N below which no amount of data reaches `loss`; inf at or under the irreducible loss."""
        if loss <= self.E:
            return math.inf
        return _exp(math.log(self.A / (loss - self.E)) / self.alpha)

    def to_json(self) -> dict[str, Any]:
        return {"E": self.E, "A": self.A, "B": self.B, "alpha": self.alpha, "beta": self.beta}


@dataclass(frozen=True)
class KaplanLaw:
    """L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D (Kaplan et al. 2020, eq. 1.5); N without embeddings."""

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    def loss(self, num_params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """Predicted loss; `tokens=inf` gives L(N), `num_params=inf` gives L(D)."""
        n, d = np.asarray(num_params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return np.asarray(((self.N_c / n) ** (self.alpha_N / self.alpha_D) + self.D_c / d) ** self.alpha_D)


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = (scale/x)^exponent: Kaplan et al. (2020) eq. 1.1 (x = N), 1.2 (x = D), 1.3 (x = C)."""

    scale: float
    exponent: float

    def loss(self, x: ArrayLike) -> FloatArray:
        """Predicted loss."""
        return np.asarray((self.scale / np.asarray(x, dtype=np.float64)) ** self.exponent)


@dataclass(frozen=True)
class DataConstrainedLaw:
    """Chinchilla's law with diminishing returns of repeated data and of excess parameters (Muennighoff et al. 2023).

    `R_D_star`, `R_N_star`: the numbers of repetitions at which the worth of a further one has fallen to 1/e.
    """

    base: ChinchillaLaw
    R_D_star: float
    R_N_star: float

    def loss(self, num_params: ArrayLike, tokens: ArrayLike, unique_tokens: ArrayLike) -> FloatArray:
        """Loss after `tokens` tokens of which `unique_tokens` are distinct (eq. 5 and 6)."""
        d = np.asarray(tokens, dtype=np.float64)
        unique = np.minimum(np.asarray(unique_tokens, dtype=np.float64), d)
        # U_N: the compute-optimal N for the unique data, of which only the excess decays.
        balance = self.base.alpha * self.base.A * unique**self.base.beta / (self.base.beta * self.base.B)
        n = np.asarray(num_params, dtype=np.float64)
        base_n = np.minimum(n, balance ** (1.0 / self.base.alpha))
        return self.base.loss(_effective(n, base_n, self.R_N_star), _effective(d, unique, self.R_D_star))


def _effective(amount: FloatArray, unique: FloatArray, decay: float) -> FloatArray:
    repeats = np.maximum(amount / unique - 1.0, 0.0)
    return np.asarray(unique * (1.0 + decay * -np.expm1(-repeats / decay)))


@dataclass(frozen=True)
class RoutedLaw:
    """log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d (Clark et al. 2022, eq. 8 and 9).

    N counts the dense parameters (those active without experts), E the experts; Ê saturates between E_start and E_max.
    """

    a: float
    b: float
    c: float
    d: float
    E_start: float
    E_max: float

    def loss(self, num_params: ArrayLike, num_experts: ArrayLike) -> FloatArray:
        """Predicted loss in nats per token."""
        log_n, log_e = np.log10(np.asarray(num_params, dtype=np.float64)), np.log10(self.saturated(num_experts))
        return np.asarray(10.0 ** (self.a * log_n + self.b * log_e + self.c * log_n * log_e + self.d))

    def saturated(self, num_experts: ArrayLike) -> FloatArray:
        """Ê, the effective number of experts."""
        e = np.asarray(num_experts, dtype=np.float64)
        inner = 1.0 / (e - 1.0 + 1.0 / (1.0 / self.E_start - 1.0 / self.E_max))
        return np.asarray(1.0 / (inner + 1.0 / self.E_max))

    def effective_params(self, num_params: float, num_experts: float) -> float:
        """The dense N of equal loss (eq. 11): routing helps while this is above N."""
        log_n, log_e = math.log10(num_params), float(np.log10(self.saturated(num_experts)))
        log_start = float(np.log10(self.saturated(1)))
        total = self.a * log_n + self.b * log_e + self.c * log_n * log_e
        return float(10.0 ** ((total - self.b * log_start) / (self.a + self.c * log_start)))


@dataclass(frozen=True)
class GranularityLaw:
    """L = c + (g/G^gamma + a)/N^alpha + b/D^beta (Krajewski et al. 2024, eq. 9), for fine-grained experts.

    N counts active non-embedding parameters; G is how many parts a feed-forward layer's expert is split into.
    """

    a: float
    alpha: float
    b: float
    beta: float
    g: float
    gamma: float
    c: float

    def loss(self, num_params: ArrayLike, tokens: ArrayLike, granularity: ArrayLike) -> FloatArray:
        """Predicted loss."""
        n, d = np.asarray(num_params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        fine = self.g * np.asarray(granularity, dtype=np.float64) ** -self.gamma
        return np.asarray(self.c + (fine + self.a) * n**-self.alpha + self.b * d**-self.beta)


def _exp(x: float) -> float:
    """exp that saturates near 1e±300: laws of poorly identified resamples may ask for sizes beyond a float."""
    return math.exp(min(max(x, -690.0), 690.0))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and positive, got {value}")
