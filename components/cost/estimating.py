"""What stages will take, before they run: what the same stages took before, scaled by the amounts in their settings.

A stage that was never made is taken at the time that its author states. Estimates are scored afterwards, in the table
`forecasts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# How time grows with a setting, by the setting's own name: work is proportional to tokens and to parameters, of which a
# width has two factors. What is not named here is taken to change nothing.
GROWS = {
    "num_steps": 1.0,
    "batch_size": 1.0,
    "context_length": 1.0,
    "num_layers": 1.0,
    "d_model": 2.0,
    "num_iterations": 1.0,
    "num_conversations": 1.0,
    "num_puzzles": 1.0,
    "num_items": 1.0,
    "num_samples": 1.0,
    "per_difficulty": 1.0,
    "max_attempts": 1.0,
    "max_bytes": 1.0,
    "max_tokens": 1.0,
    "rollout_size": 1.0,
    "upto": 1.0,
}
REPEATED = 1.25  # factor within which a stage takes as long as before on the same machine
FIRST_TIME = 4.0  # factor within which the author's statement is taken to hold elsewhere
PER_SCALE = 0.3  # how fast that factor grows with the scale: its power


@dataclass(frozen=True)
class Past:
    """One making of a stage: its settings as they were recorded, and what it took. `ended`: sorts by time."""

    stage: str
    label: str
    settings: Mapping[str, Any]
    seconds: float
    device_seconds: float
    memory_bytes: float | None
    ended: float = 0.0


@dataclass(frozen=True)
class StageEstimate:
    """Seconds of wall clock and of devices, and dollars, each with a range of `factor` both ways; memory in bytes
    (None: not known). `basis`: past (of the same label) | alike (of another label or settings) | stated."""

    label: str
    seconds: float
    device_seconds: float
    usd: float
    factor: float
    memory_bytes: float | None
    basis: str

    @property
    def low_usd(self) -> float:
        """Lower end."""
        return self.usd / self.factor

    @property
    def high_usd(self) -> float:
        """Upper end."""
        return self.usd * self.factor


def scale(settings: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """How many times more work these settings are than those, by `GROWS`: the product over settings in both."""
    new, old = _leaves(settings), _leaves(before)
    logs = 0.0
    for path in new.keys() & old.keys():
        if (power := GROWS.get(path[-1])) and new[path] > 0 and old[path] > 0:
            logs += power * math.log(new[path] / old[path])
    return math.exp(min(max(logs, -60.0), 60.0))


def _leaves(settings: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], float]:
    """Numbers by their paths; of a list with the place as a part."""
    if isinstance(settings, Mapping):
        items: Iterable[tuple[str, Any]] = settings.items()
    elif isinstance(settings, list | tuple):
        items = ((str(place), value) for place, value in enumerate(settings))
    elif isinstance(settings, int | float) and not isinstance(settings, bool):
        return {path: float(settings)}
    else:
        return {}
    return {found: value for name, inner in items for found, value in _leaves(inner, (*path, name)).items()}


def estimate_stage(
    stage: str,
    label: str,
    settings: Mapping[str, Any],
    past: Sequence[Past],
    stated_seconds: float,
    usd_per_hour: float,
    threads: int = 1,
) -> StageEstimate:
    """What a stage will take. `past`: makings of any stages. `stated_seconds`: by its author, with `threads` busy.

    Taken is the making of the same stage that is nearest in work; of equals one of the same label, then the newest.
    """
    same = [one for one in past if one.stage == stage]
    if not same:
        held = stated_seconds * threads
        return StageEstimate(label, stated_seconds, held, held / 3600 * usd_per_hour, FIRST_TIME, None, "stated")
    times = {id(one): scale(settings, one.settings) for one in same}
    best = min(same, key=lambda one: (abs(math.log(times[id(one)])), one.label != label, -one.ended))
    grown = times[id(best)]
    held = best.device_seconds * grown
    return StageEstimate(
        label,
        best.seconds * grown,
        held,
        held / 3600 * usd_per_hour,
        REPEATED * math.exp(PER_SCALE * abs(math.log(grown))),
        best.memory_bytes,
        "past" if best.label == label and math.isclose(grown, 1.0) else "alike",
    )


@dataclass(frozen=True)
class RunEstimate:
    """The stages that will run, and the run: dollars are summed; hours are the longer of the work over the workers and
    the longest chain of stages. Ranges add as if all stages were off the same way, the widest case."""

    stages: tuple[StageEstimate, ...]
    hours: float
    low_hours: float
    high_hours: float

    @property
    def usd(self) -> float:
        """Dollars in all."""
        return sum(one.usd for one in self.stages)

    @property
    def low_usd(self) -> float:
        """Lower end."""
        return sum(one.low_usd for one in self.stages)

    @property
    def high_usd(self) -> float:
        """Upper end."""
        return sum(one.high_usd for one in self.stages)


def estimate_run(stages: Sequence[StageEstimate], needs: Mapping[str, Sequence[str]], workers: int) -> RunEstimate:
    """The run of these stages. `needs`: by label the labels that come first (those that are cached take no time)."""

    def hours(seconds: Mapping[str, float]) -> float:
        longest: dict[str, float] = {}
        for label in needs:  # in an order in which needs come first
            before = max((longest.get(need, 0.0) for need in needs[label]), default=0.0)
            longest[label] = before + seconds.get(label, 0.0)
        return max(sum(seconds.values()) / max(1, workers), max(longest.values(), default=0.0)) / 3600.0

    return RunEstimate(
        tuple(stages),
        hours({one.label: one.seconds for one in stages}),
        hours({one.label: one.seconds / one.factor for one in stages}),
        hours({one.label: one.seconds * one.factor for one in stages}),
    )
