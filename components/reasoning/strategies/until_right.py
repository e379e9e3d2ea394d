"""One sample after another until the exact verifier accepts one: the best of k at the price of those that it took."""

from __future__ import annotations

from components.reasoning.strategy import Outcome, Samples, Strategy, outcome_of


def until_right(size: int) -> Strategy:
    """At most `size` samples to each item."""
    return Strategy(
        f"until_right@{size}",
        "until_right",
        lambda trial: first_right(trial.attempts, size),
        size=size,
        needs_verifier=True,
    )


def first_right(attempts: Samples, size: int) -> list[Outcome]:
    """Of each item's first `size` attempts those up to the first that is right; the last of them answers.

    Raises ValueError where an item has fewer, and none is right.
    """
    outcomes = []
    for item, group in zip(attempts.items, attempts.completions, strict=True):
        last = next((i for i, done in enumerate(group) if item.accepts(done)), len(group))
        if last == len(group) < size:
            raise ValueError(f"until one of {size} samples is right; {len(group)} were drawn")
        last = min(last, size - 1)
        outcomes.append(outcome_of(item, group[last], group[: last + 1], {"attempts": last + 1}))
    return outcomes
