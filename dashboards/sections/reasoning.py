"""Sections on reasoning at inference and on Tree of Thought."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, effect_of, said
from dashboards.facts.prices import CONVENTION
from dashboards.facts.reasoning import ReasoningFacts, TreeFacts
from dashboards.facts.scores import Score


def reasoning_section(facts: ReasoningFacts) -> Section:
    """Accuracy of every strategy against its tokens, and by number of operations."""
    meaning = said(
        effect_of(facts.effects, "chain_of_thought"),
        "For the same dollars this model answers better when it may write the steps down: thinking costs tokens, not "
        "training.",
        "Writing the steps down did not help this model.",
    )
    levels = sorted({level for s in facts.scores if s.model == facts.model for level in s.by_difficulty})
    shown = [s for s in facts.scores if s.model == facts.model and s.by_difficulty]
    difficulty = Table(
        f"Accuracy by number of operations ({labels.label(labels.MODELS, facts.model)})",
        ("strategy", *(str(level) for level in levels)),
        "<" + ">" * len(levels),
        tuple(
            (
                s.label,
                *(
                    formatting.percent(x.value, 0) if (x := s.by_difficulty.get(level)) else formatting.MISSING
                    for level in levels
                ),
            )
            for s in shown
        ),
        folded=True,
    )
    return body(f"{meaning} {CONVENTION}", (_scores(facts.scores), difficulty), facts.effects, facts.worked)


def tree_section(facts: TreeFacts) -> Section:
    """Trees beside the strategies that sample whole answers."""
    meaning = said(
        effect_of(facts.effects, "tree_of_thought"),
        "Searching over partial solutions solves more puzzles than spending the same dollars on whole ones.",
        "Searching over partial solutions solved no more puzzles than spending the same dollars on whole ones.",
    )
    return body(f"{meaning} {CONVENTION}", (_scores(facts.scores),), facts.effects, facts.worked)


def _scores(scores: Iterable[Score]) -> Table:
    rows = tuple(
        (
            labels.label(labels.MODELS, s.model),
            s.label + (" (verified)" if s.verified else ""),
            formatting.percent_interval(s.accuracy),
            formatting.dollars(None if s.usd is None else 1e6 * s.usd, 3),
            formatting.count(None if s.tokens is None else round(s.tokens)),
            formatting.count(None if s.prompt_tokens is None else round(s.prompt_tokens)),
            f"{s.accuracy.n:,}",
        )
        for s in scores
    )
    columns = ("model", "strategy", "accuracy [95%]", "per million items", "generated", "read", "n")
    return Table("Accuracy against dollars", columns, "<<>>>>>", rows, folded=True)
