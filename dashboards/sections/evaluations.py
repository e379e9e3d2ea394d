"""Section on the user's own evaluation sets."""

from __future__ import annotations

from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body
from dashboards.facts.evaluations import EvaluationFacts, SetScore

MANY = 0.05  # share of answers without a verdict from which on a comparison is warned of


def evaluation_section(facts: EvaluationFacts) -> Section:
    """Accuracy of every model and strategy, and how many answers could be judged at all."""
    silent = [s for s in facts.scores if _silent(s) > MANY * s.accuracy.n]
    sets = sorted({s.suite for s in facts.scores})
    meaning = f"Answers to {', '.join(sets)}: {'a set' if len(sets) == 1 else 'sets'} of your own."
    if silent:
        worst = max(silent, key=lambda s: _silent(s) / s.accuracy.n)
        meaning += (
            f" Of {worst.strategy} of the {labels.label(labels.MODELS, worst.model)} on {worst.suite} "
            f"{formatting.percent(_silent(worst) / worst.accuracy.n, 0)} gave no answer that could be read: they count "
            "as wrong, which is not the same."
        )
    columns = (
        "set",
        "model",
        "strategy",
        "accuracy [95%]",
        "n",
        "right of answered",
        "unparsed",
        "truncated",
        "per million items",
        "generated",
        "read",
    )
    rows = tuple(
        (
            s.suite,
            labels.label(labels.MODELS, s.model),
            s.strategy,
            formatting.percent_interval(s.accuracy),
            f"{s.accuracy.n:,}",
            "{} of {}".format(*s.of_answered),
            formatting.count(s.statuses.get("unparsed", 0)),
            formatting.count(s.statuses.get("truncated", 0)),
            formatting.dollars(None if s.usd is None else 1e6 * s.usd, 3),
            formatting.count(round(s.tokens)),
            formatting.count(round(s.prompt_tokens)),
        )
        for s in facts.scores
    )
    return body(meaning, (Table("Accuracy on your sets", columns, "<<<>>>>>>>>", rows),), facts.effects)


def _silent(score: SetScore) -> int:
    return score.statuses.get("unparsed", 0) + score.statuses.get("truncated", 0)
