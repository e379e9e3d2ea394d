"""The answer worked in steps, greedy (Wei et al. 2022; zero-shot after Kojima et al. 2022)."""

from __future__ import annotations

from components.reasoning.strategy import Strategy, greedy_outcomes

CHAIN_OF_THOUGHT = Strategy("cot", "cot", lambda trial: greedy_outcomes(trial.items, trial.worked), greedy=True)
