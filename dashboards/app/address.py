"""The query string of a page: every reader falls back where a value is missing or cannot be read, so no link breaks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

LONGEST = 4000  # characters of one parameter that are looked at
MOST_RUNS = 50  # on one page


@dataclass(frozen=True)
class Address:
    """Parameters of a page. `used` collects what was read, as it was understood."""

    given: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def text(self, name: str, default: str = "", options: Sequence[str] = ()) -> str:
        """A text; one of `options` where there are any."""
        found = self.given.get(name, "")[:LONGEST] or default
        if options and found not in options:
            found = default if default in options else options[0]
        self._use(name, found)
        return found

    def number(self, name: str, default: float, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within the limits."""
        try:
            found = float(self.given.get(name, ""))
        except ValueError:
            found = default
        found = min(max(found if math.isfinite(found) else default, low), high)
        self._use(name, f"{found:.6g}")
        return found

    def flag(self, name: str, default: bool = False) -> bool:
        """Whether it is 1."""
        found = {"1": True, "0": False}.get(self.given.get(name, ""), default)
        self._use(name, "1" if found else "0")
        return found

    def names(self, name: str, at_most: int = MOST_RUNS) -> tuple[str, ...]:
        """Names separated by commas, each once."""
        found = dict.fromkeys(one for one in self.given.get(name, "")[: 40 * at_most].split(",") if one)
        chosen = tuple(found)[:at_most]
        if chosen:
            self._use(name, ",".join(chosen))
        return chosen

    def _use(self, name: str, found: str) -> None:
        if found:
            self.used[name] = found


def link(path: str, **parameters: str | float | None) -> str:
    """The address of a page."""
    given = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
