"""Which stages can begin, most urgent first. A stage costs what its own inputs cost, however many others wait."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence


class Agenda:
    """Stages that have not begun.

    Args:
        needs: by label, the labels that must be settled first; those that are no keys here are settled already.
        priorities: by label; the higher one goes first, of equals the one that comes first in `needs`.
    """

    def __init__(self, needs: Mapping[str, Sequence[str]], priorities: Mapping[str, float]) -> None:
        self._priorities = priorities
        self._order = dict(zip(needs, itertools.count(), strict=False))
        self._open = {label: len({need for need in of if need in needs}) for label, of in needs.items()}
        self._dependants: dict[str, list[str]] = {label: [] for label in needs}
        for label, of in needs.items():
            for need in dict.fromkeys(of):
                if need in needs:
                    self._dependants[need].append(label)
        self._ready: list[tuple[float, int, str]] = []
        for label, count in self._open.items():
            if not count:
                self._push(label)

    def __len__(self) -> int:
        """Stages that have not begun."""
        return len(self._open)

    def next(self) -> str | None:
        """The most urgent stage that can begin; it is off the agenda then. None: those that are left need others."""
        if not self._ready:
            return None
        label = heapq.heappop(self._ready)[2]
        del self._open[label]
        return label

    def settle(self, label: str) -> None:
        """This stage has ended, however: what needs it has one thing less to wait for."""
        for other in self._dependants.pop(label, ()):
            self._open[other] -= 1
            if not self._open[other]:
                self._push(other)

    def clear(self) -> list[str]:
        """Take everything off; what it was."""
        left = list(self._open)
        self._open.clear()
        self._ready.clear()
        self._dependants.clear()
        return left

    def _push(self, label: str) -> None:
        heapq.heappush(self._ready, (-self._priorities.get(label, 0.0), self._order[label], label))
