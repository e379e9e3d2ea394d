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


def _exp(x: float) -> float:
    """exp that saturates near 1e±300: laws of poorly identified resamples may ask for sizes beyond a float."""
    return math.exp(min(max(x, -690.0), 690.0))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and positive, got {value}")
