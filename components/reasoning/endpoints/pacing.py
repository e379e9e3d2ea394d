"""When to ask next: a rate, pauses that a server asks for, and exponential back-off."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Mapping

MAX_BACK_OFF = 60.0


class Pacer:
    """Shared by all requests of a client: at most `per_minute` begin in a minute (0: any number), evenly spaced, and
    none before the time that a server named."""

    def __init__(self, per_minute: float = 0.0) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the turn to begin a request."""
        while True:
            wait = self._next - time.monotonic()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        if self._gap:
            self._next = max(self._next, time.monotonic()) + self._gap

    def hold(self, seconds: float) -> None:
        """Let nobody begin for this long."""
        self._next = max(self._next, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait for (RFC 9110, section 10.2.3: a number or a date); None where it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            return max(0.0, float(value) / unit)
        except ValueError:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
            except (TypeError, ValueError):
                return None
    return None


def back_off(attempt: int, first: float, rng: random.Random) -> float:
    """Seconds before attempt 1, 2, …: twice as long each time, at most a minute, and between half and all of that, so
    that clients which failed together do not come back together."""
    return float(min(MAX_BACK_OFF, first * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0))
