"""One sample after another until the exact verifier accepts one: the best of k at the price of those that it took."""

from __future__ import annotations

from components.reasoning.strategy import Outcome, Samples, Strategy, outcome_of


def until_right(size: int) -> Strategy:
    """At most each item's first `size` samples."""
    return Strategy(
        f"until_right@{size}",
        "until_right",
        lambda trial: attempts(trial.samples, size),
        size=size,
        needs_verifier=True,
    )


def attempts(samples: Samples, size: int) -> list[Outcome]:
    """Of each item's first `size` samples those up to the first that is right; the last of them answers."""
    outcomes = []
    for item, group in samples.first(size):
        last = next((i for i, done in enumerate(group) if item.verify(done.text)), size - 1)
        outcomes.append(outcome_of(item, group[last], group[: last + 1], {"attempts": last + 1}))
    return outcomes
