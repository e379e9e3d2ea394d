"""Settings of the watch on reward hacking; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WatchConfig:
    """The watch on reward hacking. every: iterations between looks. gold: whether the alarm may use the gold scorer,
    where the preferences are its own; it is never trained on, and without it the alarm goes by signs. on_alarm: `stop`
    ends the run and keeps the best policy that was seen; `continue` only tells. false_alarm_rate: of the comparison
    with gold, over a whole run."""

    every: int = 1
    gold: bool = True
    on_alarm: Literal["continue", "stop"] = "continue"
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"watch.every is {self.every}: give a number of at least 1")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"watch.false_alarm_rate is {self.false_alarm_rate}: give a share between 0 and 1")
