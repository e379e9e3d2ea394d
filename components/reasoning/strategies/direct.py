"""The answer at once, greedy."""

from __future__ import annotations

from components.reasoning.strategy import Strategy, greedy_outcomes

DIRECT = Strategy("direct", "direct", lambda trial: greedy_outcomes(trial.items, trial.direct), greedy=True)
