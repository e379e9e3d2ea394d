"""The strategies for questions in words, by the names that a command line gives them: `cot`, `sc@16`, `tot`, …"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from components.reasoning.strategies.best_of_k import best_of_k
from components.reasoning.strategies.budget_forcing import budget_forcing
from components.reasoning.strategies.chain_of_thought import CHAIN_OF_THOUGHT
from components.reasoning.strategies.direct import DIRECT
from components.reasoning.strategies.early_stopping import adaptive_consistency, early_stopping
from components.reasoning.strategies.judged_choice import judged_best, weighted_vote
from components.reasoning.strategies.kojima import KOJIMA
from components.reasoning.strategies.least_to_most import LEAST_TO_MOST
from components.reasoning.strategies.program_aided import PROGRAM_AIDED
from components.reasoning.strategies.refine import refine
from components.reasoning.strategies.self_consistency import self_consistency
from components.reasoning.strategies.text_tree import TextTreeConfig, text_tree
from components.reasoning.strategy import Strategy

FIXED: Mapping[str, Strategy] = {
    "direct": DIRECT,
    "cot": CHAIN_OF_THOUGHT,
    "kojima": KOJIMA,
    "ltm": LEAST_TO_MOST,
    "pal": PROGRAM_AIDED,
    "tot": text_tree(TextTreeConfig(), "tot"),
    "tot-vote": text_tree(TextTreeConfig(value="vote"), "tot-vote"),
    "tot-depth": text_tree(TextTreeConfig(search="depth"), "tot-depth"),
}
SIZED: Mapping[str, Callable[[int], Strategy]] = {
    "sc": self_consistency,
    "wsc": weighted_vote,
    "esc": early_stopping,
    "ac": adaptive_consistency,
    "best": best_of_k,
    "judge": judged_best,
    "refine": refine,
    "budget": budget_forcing,
    "beam": lambda width: text_tree(TextTreeConfig(search="beam", width=width), f"beam@{width}"),
}
MAX_SIZE = 1024


def strategy_named(name: str) -> Strategy:
    """A strategy, called as it was asked for. Raises ValueError naming what there is."""
    word, at, size = name.strip().partition("@")
    if not at and word in FIXED:
        return replace(FIXED[word], name=word)
    if at and word in SIZED and size.isdigit() and 1 <= int(size) <= MAX_SIZE:
        return replace(SIZED[word](int(size)), name=f"{word}@{int(size)}")
    there = ", ".join([*FIXED, *(f"{one}@N" for one in SIZED)])
    raise ValueError(f"there is no strategy {name!r}: take one of {there}, with N from 1 to {MAX_SIZE}")
