"""The vote of answers that are given at once: what the tokens of a chain of thought buy without one."""

from __future__ import annotations

from components.reasoning.strategies.self_consistency import votes
from components.reasoning.strategy import Strategy


def direct_vote(size: int) -> Strategy:
    """The vote of each item's first `size` direct samples."""
    return Strategy(
        f"direct_vote@{size}",
        "direct_vote",
        lambda trial: votes(trial.direct_samples, size),
        size=size,
        pool="direct",
    )
