"""Of k samples the one to which a generative judge, the model itself, gives the best grade; or their vote, weighted by
the grades (Cobbe et al. 2021 choose by a verifier; Li et al. 2023 weigh votes by one)."""

from __future__ import annotations

from collections.abc import Sequence

from components.inference.text import TextCompletion
from components.reasoning.strategies.grades import judged
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after


def judged_best(size: int) -> Strategy:
    """The sample with the best grade; among equal ones that whose answer has the most samples, then the first."""
    return Strategy(f"judged_best@{size}", "judged_best", lambda trial: _chosen(trial, size, False), size=size)


def weighted_vote(size: int) -> Strategy:
    """The answer with the largest sum of grades; a tie goes to the one with more samples, then to the first seen.
    Samples without an answer abstain."""
    return Strategy(f"weighted_vote@{size}", "weighted_vote", lambda trial: _chosen(trial, size, True), size=size)


def _chosen(trial: Trial, size: int, by_vote: bool) -> list[Outcome]:
    drawn = trial.samples.first(size)
    items, groups = [item for item, _ in drawn], [list(group) for _, group in drawn]
    grades, requests = judged(trial, items, groups)
    outcomes = []
    for item, group, told, asked in zip(items, groups, grades, requests, strict=True):
        answers = [item.answer_of(done) for done in group]
        best = _place(answers, told, by_vote)
        steps = _steps(group, told, best)
        details = {"chosen": best, "grades": told, "judge_tokens": sum(one[0].num_tokens for one in asked)}
        outcomes.append(outcome_after(item, group[best], [group, *asked], details, steps))
    return outcomes


def _place(answers: Sequence[str], grades: Sequence[float], by_vote: bool) -> int:
    """Of the sample that answers."""
    votes = {answer: answers.count(answer) for answer in answers}
    sums = {answer: sum(g for a, g in zip(answers, grades, strict=True) if a == answer) for answer in answers}

    def rank(place: int) -> tuple[object, ...]:
        answer, grade = answers[place], grades[place]
        first = (sums[answer], votes[answer]) if by_vote else (grade, votes[answer])
        return (answer != "", *first, -answers.index(answer) if by_vote else 0, grade if by_vote else 0, -place)

    return max(range(len(answers)), key=rank)


def _steps(group: Sequence[TextCompletion], grades: Sequence[float], best: int) -> list[Step]:
    return [
        Step(None, "sample", done.text, done.num_tokens, "chosen" if place == best else "", grade)
        for place, (done, grade) in enumerate(zip(group, grades, strict=True))
    ]
