"""The one greedy answer to items that are asked in only one way, such as puzzles, whose solution is its steps."""

from __future__ import annotations

from components.reasoning.strategy import Strategy, greedy_outcomes

GREEDY = Strategy("greedy", "greedy", lambda trial: greedy_outcomes(trial.items, trial.worked), greedy=True)
