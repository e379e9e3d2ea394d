"""Reasoning at inference: chain of thought, self-consistency, the adaptive controller, Tree of Thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, decided, not_measured, raises
from dashboards.facts.scores import Score, paired, pick, scores_of
from dashboards.run_data import RunRows

WORSE_BY_AT_MOST = 0.03  # the adaptive controller may lose this much accuracy for its savings
FEWER_TOKENS = 0.9  # a rival with less than this share of the tree's tokens is no equal


@dataclass(frozen=True)
class ReasoningFacts:
    """`model`: the one whose strategies the effects compare."""

    scores: tuple[Score, ...]
    model: str
    effects: tuple[Effect, ...]

    def curve(self, family: str, model: str | None = None) -> list[Score]:
        """The scores of a family with a k, fewest samples first."""
        mine = [s for s in self.scores if s.family == family and s.k and s.model == (model or self.model)]
        return sorted(mine, key=lambda s: s.k or 0)


def reasoning_facts(rows: RunRows) -> ReasoningFacts | Missing:
    scores = scores_of(rows, "chains")
    if not scores and rows.all("evaluate_set"):
        return Missing("our chains were not asked: evaluation sets of your own take their place")
    if not scores:
        return Missing(rows.why_missing("reasoning", "Reasoning"))
    model = _main_model(scores)
    votes = sorted((s for s in scores if s.model == model and s.family == "self_consistency"), key=lambda s: s.k or 0)
    effects = (
        _chain_of_thought(scores, model),
        _self_consistency(scores, model, votes),
        _adaptive(scores, model, votes),
    )
    return ReasoningFacts(scores, model, effects)


def _tokens(score: Score) -> str:
    return formatting.count(None if score.tokens is None else round(score.tokens))


def _main_model(scores: Sequence[Score]) -> str:
    """The model with most strategies; the fine-tuned one where several have as many."""
    strategies = {model: sum(s.model == model for s in scores) for model in {s.model for s in scores}}
    return max(sorted(strategies), key=lambda model: (strategies[model], model == "sft"))


def _chain_of_thought(scores: Sequence[Score], model: str) -> Effect:
    slug, title = "chain_of_thought", "Chain of thought beats a direct answer"
    worked, direct = pick(scores, model, "cot"), pick(scores, model, "direct")
    gap = paired(worked, direct) if worked and direct else None
    if worked is None or direct is None or gap is None:
        return not_measured(slug, title, f"needs the strategies cot and direct of the model {model} on common items")
    return raises(
        slug,
        title,
        gap,
        "points",
        f"{formatting.percent(direct.accuracy.value)} → {formatting.percent(worked.accuracy.value)} for "
        f"{_tokens(direct)} → {_tokens(worked)} tokens per item",
        "paired items, Tango's 95% interval; seen when it lies above 0",
    )


def _self_consistency(scores: Sequence[Score], model: str, votes: Sequence[Score]) -> Effect:
    slug, title = "self_consistency", "A vote of samples beats one sample"
    many = votes[-1] if votes and (votes[-1].k or 0) > 1 else None
    one = votes[0] if votes and votes[0].k == 1 else pick(scores, model, "cot")
    gap = paired(many, one) if many and one else None
    if many is None or one is None or gap is None:
        return not_measured(slug, title, "needs self_consistency@k with k above 1 beside one sample on common items")
    greedy = pick(scores, model, "cot")
    beside = f"; greedy {formatting.percent(greedy.accuracy.value)}" if greedy and greedy is not one else ""
    against = "one sample" if one.k == 1 else "greedy"
    return raises(
        slug,
        title,
        gap,
        "points",
        f"{against} {formatting.percent(one.accuracy.value)} → vote of {many.k} "
        f"{formatting.percent(many.accuracy.value)}{beside}",
        "paired items, Tango's 95% interval; seen when it lies above 0",
    )


def _adaptive(scores: Sequence[Score], model: str, votes: Sequence[Score]) -> Effect:
    slug, title = "adaptive", "Thinking adaptively saves tokens at little loss"
    chosen = next((s for s in scores if s.model == model and s.family == "adaptive"), None)
    full = votes[-1] if votes else None
    gap = paired(chosen, full) if chosen and full else None
    if chosen is None or full is None or gap is None or not chosen.tokens or not full.tokens:
        return not_measured(slug, title, "needs the strategies adaptive and self_consistency@k on common items")
    saved = 1.0 - chosen.tokens / full.tokens
    return raises(
        slug,
        title,
        gap,
        "points",
        f"{formatting.percent(chosen.accuracy.value)} at {_tokens(chosen)} tokens against "
        f"{formatting.percent(full.accuracy.value)} at {_tokens(full)}: "
        f"{formatting.percent(abs(saved), 0)} {'fewer' if saved >= 0 else 'more'}",
        f"accuracy minus that of the full vote, paired; seen when the 95% interval lies above "
        f"−{100 * WORSE_BY_AT_MOST:.0f} points and fewer tokens are spent",
        margin=-WORSE_BY_AT_MOST,
        also=saved > 0.0,
    )


@dataclass(frozen=True)
class TreeFacts:
    scores: tuple[Score, ...]
    model: str
    effects: tuple[Effect, ...]

    @property
    def trees(self) -> list[Score]:
        return [s for s in self.scores if _is_tree(s)]


def _is_tree(score: Score) -> bool:
    return score.family == "tree_of_thought"


def tree_facts(rows: RunRows) -> TreeFacts | Missing:
    scores = scores_of(rows, "puzzles")
    if not scores:
        if not any(stage.stage == "search_puzzles" for stage in rows.stages):
            return Missing("Tree of Thought is missing: no stage of this part is in this run")
        return Missing(rows.why_missing("reasoning", "Tree of Thought"))
    model = _main_model(scores)
    return TreeFacts(scores, model, (_tree_effect([s for s in scores if s.model == model]),))


def equal_rival(tree: Score, scores: Sequence[Score]) -> Score | None:
    """The strongest other strategy at the tree's tokens: of each family the cheapest that spends no fewer (within
    10%), so that a coarse grid favours the rival; None where all spend fewer."""
    nearest: dict[str, Score] = {}
    for s in sorted(scores, key=lambda s: s.tokens or 0.0):
        if not _is_tree(s) and tree.tokens and s.tokens and s.tokens >= FEWER_TOKENS * tree.tokens:
            nearest.setdefault(s.family, s)
    return max(nearest.values(), key=lambda s: s.accuracy.value, default=None)


def _tree_effect(scores: Sequence[Score]) -> Effect:
    slug, title = "tree_of_thought", "Tree of Thought beats sampling at equal tokens"
    rivals = [(tree, equal_rival(tree, scores)) for tree in scores if _is_tree(tree)]
    compared = [
        (tree, rival, gap) for tree, rival in rivals if rival is not None and (gap := paired(tree, rival)) is not None
    ]
    if not compared:
        why = "no other strategy spent as many tokens on the same items" if rivals else "no tree was searched"
        return not_measured(slug, title, why)
    tree, rival, gap = max(compared, key=lambda c: c[2].value)
    among = f"; the widest gap of {len(compared)} trees" if len(compared) > 1 else ""
    # The best of m trees is looked at, so each must clear an interval of its own: Bonferroni on McNemar's p value.
    clear = gap.p_value * len(compared) < 0.05
    return Effect(
        slug,
        title,
        decided(gap.low > 0.0 and clear),
        gap,
        "points",
        f"{tree.label} {formatting.percent(tree.accuracy.value)} at {_tokens(tree)} tokens against "
        f"{rival.label} {formatting.percent(rival.accuracy.value)} at {_tokens(rival)}{among}",
        "paired items, Tango's 95% interval; seen when it lies above 0 and McNemar's test holds for all trees tried",
        side="above",
    )
