"""The best of k: k samples are drawn at once, and the first that the exact verifier accepts is the answer."""

from __future__ import annotations

from components.reasoning.strategy import Outcome, Samples, Strategy, outcome_of


def best_of_k(size: int) -> Strategy:
    """The choice among each item's first `size` samples."""
    return Strategy(
        f"best_of@{size}", "best_of", lambda trial: choices(trial.samples, size), size=size, needs_verifier=True
    )


def choices(samples: Samples, size: int) -> list[Outcome]:
    """Of each item's first `size` samples the first that is right, or the first of all where none is."""
    outcomes = []
    for item, group in samples.first(size):
        chosen = next((i for i, done in enumerate(group) if item.accepts(done)), 0)
        outcomes.append(outcome_of(item, group[chosen], group, {"chosen": chosen}))
    return outcomes
