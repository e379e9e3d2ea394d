"""The best of k: of sampled chains of thought, the first that the exact verifier accepts."""

from __future__ import annotations

from components.reasoning.strategy import Outcome, Samples, Strategy, outcome_of


def best_of_k(size: int) -> Strategy:
    """The choice among each item's first `size` samples."""
    return Strategy(
        f"best_of@{size}", "best_of", lambda trial: choices(trial.samples, size), size=size, needs_verifier=True
    )


def choices(samples: Samples, size: int) -> list[Outcome]:
    """Of each item's first `size` samples the first that is right, or the first of all where none is.

    details["sequential_tokens"]: what it would take to sample one after the other and stop at the first that the
    verifier accepts.
    """
    outcomes = []
    for item, group in samples.first(size):
        right = next((i for i, done in enumerate(group) if item.accepts(done)), None)
        chosen, last = (0, size - 1) if right is None else (right, right)
        sequential_tokens = sum(done.num_tokens for done in group[: last + 1])
        details = {"chosen": chosen, "sequential_tokens": sequential_tokens}
        outcomes.append(outcome_of(item, group[chosen], group, details))
    return outcomes
