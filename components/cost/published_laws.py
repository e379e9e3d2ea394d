"""Scaling laws that others published, for whoever has no run of their own; with ranges and what they leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from components.cost.entries import toml_entries
from components.cost.hardware import unknown_name
from components.scaling.laws import ChinchillaLaw

CATALOGUE = Path(__file__).parent / "catalogue/laws.toml"
DEFAULT = "besiroglu2024"
WITH_ACCURACY = "gadre2024"
_LAW = ("E", "A", "B", "alpha", "beta")
_RANGE = ("min_params", "max_params", "min_tokens", "max_tokens")
_ACCURACY = ("accuracy_floor", "accuracy_k", "accuracy_gamma")


@dataclass(frozen=True)
class PublishedLaw:
    """A law with the N and D of the runs behind it. `accuracy`: floor, k and gamma of accuracy = floor +
    k·exp(-gamma·L) (Gadre et al. 2024), None where none was published. `limits`, `source`: in words."""

    name: str
    law: ChinchillaLaw
    params: tuple[float, float]
    tokens: tuple[float, float]
    limits: str
    source: str
    date: str
    accuracy: tuple[float, float, float] | None = None

    def accuracy_at(self, loss: float) -> float:
        """Accuracy that goes with a loss. Raises ValueError where the law has none."""
        floor, k, gamma = self._accuracy()
        return floor + k * math.exp(-gamma * loss)

    def loss_for(self, accuracy: float) -> float:
        """The loss that this accuracy takes. Raises ValueError where the law has none, or no loss reaches it."""
        floor, k, gamma = self._accuracy()
        best = self.accuracy_at(self.law.E)
        if not floor < accuracy < best:
            raise ValueError(
                f"--target-accuracy is {accuracy:g}: by {self.name} models lie between {floor:.3f} and {best:.3f} "
                f"({self.limits.split('; ')[-1]}); the nearest that can be asked for is "
                f"{min(max(accuracy, floor + 0.01), best - 0.01):.3f}"
            )
        return math.log(k / (accuracy - floor)) / gamma

    def _accuracy(self) -> tuple[float, float, float]:
        if self.accuracy is None:
            raise ValueError(f"{self.name} says nothing of accuracies: --law {WITH_ACCURACY} does")
        return self.accuracy


@cache
def published_laws(file: Path = CATALOGUE) -> tuple[PublishedLaw, ...]:
    """The laws of a catalogue file. Raises CatalogueError naming file, entry and field."""
    found = []
    for entry in toml_entries(file, "laws"):
        entry.check_names(("name", *_LAW, *_RANGE, *_ACCURACY, "limits", "source", "date"))
        n_low, n_high, d_low, d_high = (entry.number(name) for name in _RANGE)
        with_accuracy = _ACCURACY[0] in entry.values
        floor, k, gamma = (entry.number(name) if with_accuracy else 0.0 for name in _ACCURACY)
        found.append(
            PublishedLaw(
                entry.text("name"),
                ChinchillaLaw(**{name: entry.number(name) for name in _LAW}),
                (n_low, n_high),
                (d_low, d_high),
                entry.text("limits"),
                entry.text("source"),
                entry.date(),
                (floor, k, gamma) if with_accuracy else None,
            )
        )
    return tuple(found)


def find_law(name: str) -> PublishedLaw:
    """The law of that name. Raises ValueError naming the nearest one."""
    for law in published_laws():
        if law.name == name.casefold():
            return law
    raise ValueError(unknown_name("law", name, [law.name for law in published_laws()]))
