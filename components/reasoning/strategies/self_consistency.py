"""Self-consistency: the majority vote of sampled chains of thought (Wang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.inference.text import TextCompletion
from components.reasoning.strategy import Outcome, Samples, Strategy, outcome_of


def self_consistency(size: int) -> Strategy:
    """The vote of each item's first `size` samples."""
    return Strategy(f"self_consistency@{size}", "self_consistency", lambda trial: votes(trial.samples, size), size=size)


def votes(samples: Samples, size: int) -> list[Outcome]:
    """Majority vote of each item's first `size` samples."""
    outcomes = []
    for item, group in samples.first(size):
        vote = best_tally([(item.answer_of(done), done) for done in group])
        details = {"votes": dict(vote.counts), "agreement": vote.agreement}
        outcomes.append(outcome_of(item, vote.chosen, group, details))
    return outcomes


@dataclass(frozen=True)
class Tally:
    """The result of a vote: the answer, the sample that stands for it, and the votes of all answers."""

    answer: str
    chosen: TextCompletion
    counts: Mapping[str, int]

    @property
    def agreement(self) -> float:
        """Share of the samples that gave the winning answer; 0 where none gave any."""
        return self.counts[self.answer] / max(1, sum(self.counts.values())) if self.answer else 0.0


def best_tally(votes: Sequence[tuple[str, TextCompletion]]) -> Tally:
    """Majority of (answer, sample) pairs. A tie goes to the answer whose samples have the larger summed
    log-probability; a sample without an answer counts as an abstention, which cannot win against any answer."""
    counts: dict[str, int] = {}
    log_probs: dict[str, float] = {}
    for answer, done in votes:
        counts[answer] = counts.get(answer, 0) + 1
        log_probs[answer] = log_probs.get(answer, 0.0) + done.log_prob
    best = max(counts, key=lambda answer: (answer != "", counts[answer], log_probs[answer]))
    backers = [done for answer, done in votes if answer == best]
    return Tally(best, max(backers, key=lambda done: done.log_prob), counts)
