"""Votes that end early: samples are drawn as long as the vote is open.

ESC (Li et al. 2024, "Escape Sky-high Cost"): windows of w samples; a window whose samples all give one answer ends it.
Adaptive-Consistency (Aggarwal et al. 2023): after each sample the vote ends where the leading answer would stay ahead
of the second with a probability of 95%, of a Beta(v₁ + 1, v₂ + 1) above one half. Both end after k samples at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from scipy.stats import beta

from components.inference.text import TextCompletion
from components.reasoning.items import Item
from components.reasoning.strategies.self_consistency import best_tally
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

WINDOW = 4
CONFIDENCE = 0.95


def early_stopping(size: int, window: int = WINDOW) -> Strategy:
    """ESC with at most `size` samples."""
    return Strategy(
        f"esc@{size}", "esc", lambda trial: _voted(trial, size, min(window, size), _window_agrees), size=size
    )


def adaptive_consistency(size: int) -> Strategy:
    """Adaptive-Consistency with at most `size` samples, one at a time."""
    return Strategy(
        f"adaptive_consistency@{size}",
        "adaptive_consistency",
        lambda trial: _voted(trial, size, 1, _is_ahead),
        size=size,
    )


def _window_agrees(answers: Sequence[str], window: int) -> bool:
    last = set(answers[-window:])
    return len(last) == 1 and "" not in last


def _is_ahead(answers: Sequence[str], window: int) -> bool:
    counts = [count for _, count in Counter(a for a in answers if a).most_common(2)] + [0, 0]
    return bool(counts[0] and 1.0 - beta.cdf(0.5, counts[0] + 1, counts[1] + 1) >= CONFIDENCE)


def _voted(trial: Trial, size: int, window: int, closed: Callable[[Sequence[str], int], bool]) -> list[Outcome]:
    """Rounds of `window` samples for all items whose vote is open."""
    requests: list[list[list[TextCompletion]]] = [[] for _ in trial.items]
    answers: list[list[str]] = [[] for _ in trial.items]
    turn = 0
    while waiting := [
        place for place, said in enumerate(answers) if len(said) < size and not (said and closed(said, window))
    ]:
        turn += 1
        drawn = sum(len(group) for group in requests[waiting[0]])
        groups = trial.ask(
            [trial.items[place].worked_prompt for place in waiting], turn, min(window, size - drawn), drawn=True
        )
        for place, group in zip(waiting, groups, strict=True):
            requests[place].append(list(group))
            answers[place] += [trial.items[place].answer_of(done) for done in group]
    return [_outcome(*one) for one in zip(trial.items, requests, answers, strict=True)]


def _outcome(item: Item, requests: Sequence[Sequence[TextCompletion]], answers: Sequence[str]) -> Outcome:
    drawn = [done for group in requests for done in group]
    vote = best_tally(list(zip(answers, drawn, strict=True)))
    details = {"votes": dict(vote.counts), "agreement": vote.agreement, "samples": len(drawn)}
    steps = [
        Step(None, "sample", done.text, done.num_tokens, "agrees" if answer == vote.answer else "")
        for answer, done in zip(answers, drawn, strict=True)
    ]
    return outcome_after(item, vote.chosen, requests, details, steps)
