"""How sure a figure is: quasi-random draws of what it depends on, and a tornado of what moves it most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
DRAWS = 2048
_NORMAL_95 = 1.6448536269514722  # standard deviations from the middle to 95%


@dataclass(frozen=True)
class Factor:
    """Something that is not known: `middle` with 5% below `low` and 5% above `high`, lognormal on either side; or
    `samples`, each as likely, in place of the three. `why`: where the range is from."""

    name: str
    low: float = 1.0
    middle: float = 1.0
    high: float = 1.0
    why: str = ""
    samples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.samples:
            if not all(math.isfinite(value) and value > 0 for value in self.samples):
                raise ValueError(f"factor {self.name!r}: samples must be finite and above 0")
        elif not 0 < self.low <= self.middle <= self.high < math.inf:
            raise ValueError(
                f"factor {self.name!r}: takes 0 < low <= middle <= high, got {self.low}, {self.middle}, {self.high}"
            )

    def at(self, probability: Floats | float) -> Floats:
        """The values below which it lies with these probabilities, 0 to 1."""
        p = np.asarray(probability, dtype=np.float64)
        if self.samples:
            ordered = np.sort(np.array(self.samples))
            return np.asarray(ordered[np.minimum((p * len(ordered)).astype(int), len(ordered) - 1)])
        z = special.ndtri(np.clip(p, 1e-9, 1 - 1e-9)) / _NORMAL_95
        side = np.where(z < 0, math.log(self.middle / self.low), math.log(self.high / self.middle))
        return np.asarray(self.middle * np.exp(z * side))


@dataclass(frozen=True)
class Bar:
    """One factor of a tornado: the result with the factor at its 5% and at its 95%, all others at their middle."""

    name: str
    at_low: float
    at_high: float
    why: str

    @property
    def swing(self) -> float:
        """How far it moves the result, as a factor of at least 1."""
        ends = sorted((self.at_low, self.at_high))
        return ends[1] / ends[0] if ends[0] > 0 else math.inf


@dataclass(frozen=True)
class Uncertain:
    """A result with 5%, 50% and 95% over `draws` draws, and what moves it, the most first."""

    low: float
    middle: float
    high: float
    draws: int
    tornado: tuple[Bar, ...]


def propagate(
    result: Callable[[Mapping[str, Floats]], Floats], factors: Sequence[Factor], draws: int = DRAWS, seed: int = 0
) -> Uncertain:
    """`result` over draws of all factors together, by a scrambled Sobol' sequence (Owen 1997), whose error falls nearly
    with 1/n instead of 1/√n. `draws`: a power of two. `result` takes arrays by name and returns one of their length."""
    if draws < 2 or draws & (draws - 1):
        raise ValueError(f"draws must be a power of two, got {draws}")
    points = stats.qmc.Sobol(len(factors), scramble=True, seed=seed).random(draws)
    found = np.asarray(result({one.name: one.at(points[:, i]) for i, one in enumerate(factors)}))
    low, middle, high = (float(value) for value in np.quantile(found, [0.05, 0.5, 0.95]))
    ends = np.array([0.05, 0.95])
    bars = []
    for factor in factors:
        values = {one.name: one.at(ends if one is factor else np.full(2, 0.5)) for one in factors}
        at_low, at_high = np.asarray(result(values)).tolist()
        bars.append(Bar(factor.name, at_low, at_high, factor.why))
    return Uncertain(low, middle, high, draws, tuple(sorted(bars, key=lambda bar: -bar.swing)))
