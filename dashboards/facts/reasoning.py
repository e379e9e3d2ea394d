"""Reasoning at inference: chain of thought, self-consistency, the adaptive controller, Tree of Thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.statistics import PairedDifference
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, decided, not_measured, raises, readable
from dashboards.facts.scores import EQUAL, Score, best, paired, pick, saved_share, scores_of, strongest_at
from dashboards.facts.texts import Text, worked
from dashboards.run_data import RunRows

WORSE_BY_AT_MOST = 0.03  # accuracy that the adaptive controller may lose for its savings
TITLES = {
    "chain_of_thought": "Chain of thought beats direct answers that cost as much",
    "self_consistency": "A vote beats the best single answer that its dollars buy",
    "tree_of_thought": "Tree of Thought beats sampling at equal dollars",
}
NO_PRICES = "needs the prices of serving, which `lifespan run --only account_costs` measures"


@dataclass(frozen=True)
class ReasoningFacts:
    """`model`: the one whose strategies the effects compare. worked: answers with the text that led to them."""

    scores: tuple[Score, ...]
    model: str
    effects: tuple[Effect, ...]
    worked: tuple[Text, ...] = ()

    def curve(self, family: str, model: str | None = None) -> list[Score]:
        """The scores of a family with a k, fewest samples first."""
        mine = [s for s in self.scores if s.family == family and s.k and s.model == (model or self.model)]
        return sorted(mine, key=lambda s: s.k or 0)


@readable
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
        _adaptive(scores, model),
    )
    chain = [s for s in (pick(scores, model, "cot"),) if s]
    return ReasoningFacts(scores, model, effects, worked(rows, [*chain, *votes[-1:]]))


def _main_model(scores: Sequence[Score]) -> str:
    """The model with most strategies; the fine-tuned one where several have as many."""
    strategies = {model: sum(s.model == model for s in scores) for model in {s.model for s in scores}}
    return max(sorted(strategies), key=lambda model: (strategies[model], model == "sft"))


def _percent(score: Score) -> str:
    return f"{score.label} ({formatting.percent(score.accuracy.value)} at {score.spent})"


def _chain_of_thought(scores: Sequence[Score], model: str) -> Effect:
    slug, title = "chain_of_thought", TITLES["chain_of_thought"]
    worked = pick(scores, model, "cot")
    rivals = [s for s in scores if s.model == model and s.family in ("direct", "direct_vote")]
    if worked is None or not rivals:
        return not_measured(slug, title, f"needs the strategies cot and direct of the model {model} on common items")
    if worked.usd is None:
        return not_measured(slug, title, NO_PRICES)
    if max(r.usd or 0.0 for r in rivals) < EQUAL * worked.usd:
        return not_measured(slug, title, "no vote of direct answers cost as much: more `reasoning.num_direct_samples`")
    rival = strongest_at(worked.usd, rivals)
    gap = paired(worked, rival) if rival else None
    if rival is None or gap is None:
        return not_measured(slug, title, f"the strategies of the model {model} share no items")
    once = pick(scores, model, "direct")
    beside = f"; one direct answer {formatting.percent(once.accuracy.value)}" if once and once is not rival else ""
    return raises(
        slug,
        title,
        gap,
        "points",
        f"{_percent(worked)} against the best that direct answers reach for it, {_percent(rival)}{beside}",
        "the best of a direct answer and votes of direct answers that the same dollars buy; paired items, Tango's 95% "
        "interval; seen when it lies above 0",
    )


def _self_consistency(scores: Sequence[Score], model: str, votes: Sequence[Score]) -> Effect:
    """Every vote beside the best answer without one that costs no more: a greedy chain, as a rule."""
    slug, title = "self_consistency", TITLES["self_consistency"]
    single = [s for s in scores if s.model == model and not s.verified and (s.greedy or s.k == 1)]
    larger = [vote for vote in votes if (vote.k or 0) > 1]
    if not larger or not single:
        return not_measured(slug, title, "needs self_consistency@k with k above 1 beside single answers")
    if larger[-1].usd is None:
        return not_measured(slug, title, NO_PRICES)
    compared = [
        (vote, rival, gap)
        for vote in larger
        if (rival := best([s for s in single if (s.usd or 0.0) <= (vote.usd or 0.0)], model))
        and (gap := paired(vote, rival)) is not None
    ]
    rival_is = "the most accurate single answer, greedy included, that costs no more"
    return _widest(slug, title, compared, "votes", rival_is)


Compared = tuple[Score, Score, PairedDifference]


def _widest(slug: str, title: str, compared: Sequence[Compared], what: str, rival_is: str) -> Effect:
    """The widest gap of several strategies, each against its own rival: seen where it lies above 0 and McNemar's test
    holds for all that were tried (Bonferroni), since the best of them is looked at."""
    if not compared:
        return not_measured(slug, title, "the strategies share no items")
    mine, rival, gap = max(compared, key=lambda c: c[2].value)
    among = f"; the widest gap of {len(compared)} {what}" if len(compared) > 1 else ""
    clear = gap.p_value * len(compared) < 0.05
    return Effect(
        slug,
        title,
        decided(gap.low > 0.0 and clear),
        gap,
        "points",
        f"{_percent(mine)} against {_percent(rival)}{among}",
        f"against {rival_is}; paired items, Tango's 95% interval; seen when it lies above 0 and McNemar's test holds "
        f"for all {what} tried",
        side="above",
    )


def _adaptive(scores: Sequence[Score], model: str) -> Effect:
    slug, title = "adaptive", "Thinking adaptively costs less than any fixed strategy of its accuracy"
    chosen = next((s for s in scores if s.model == model and s.family == "adaptive"), None)
    fixed = [s for s in scores if s.model == model and not s.verified and s.family != "adaptive"]
    if chosen is None or not fixed:
        return not_measured(slug, title, "needs the strategy adaptive beside fixed ones on common items")
    if chosen.usd is None:
        return not_measured(slug, title, NO_PRICES)
    greedy = pick(fixed, model, "cot")
    alike = _share_alike(chosen, greedy) if greedy else 0.0
    if alike == 1.0:
        return Effect(
            slug,
            title,
            "not seen",
            numbers=f"the thresholds that tuning chose make it the greedy chain of thought on every item: "
            f"{_percent(chosen)}",
            method="it does on every item what one fixed strategy does, so there is nothing to compare",
            side="above",
        )
    good = [s for s in fixed if s.accuracy.value >= chosen.accuracy.value]
    rival = (
        min(good, key=lambda s: s.usd or 0.0) if good else max(fixed, key=lambda s: (s.accuracy.value, -(s.usd or 0.0)))
    )
    gap, saved = paired(chosen, rival), saved_share(chosen, rival)
    if gap is None or saved is None:
        return not_measured(slug, title, f"adaptive and {rival.label} share no items with dollars")
    beside = f"; it answers {formatting.percent(alike, 0)} of the items with the greedy chain" if greedy else ""
    return raises(
        slug,
        title,
        saved,
        "% of the dollars",
        f"{_percent(chosen)} against {_percent(rival)}{beside}",
        "dollars saved against the cheapest fixed strategy that is at least as accurate, or else the most accurate "
        "one; paired items, t interval; seen when it lies above 0 and the interval of the accuracies' difference above "
        f"−{100 * WORSE_BY_AT_MOST:.0f} points",
        also=gap.low > -WORSE_BY_AT_MOST,
    )


def _share_alike(a: Score, b: Score) -> float:
    """Share of the items on which a generated and read what b did, with the same verdict."""
    same = [one == b.answers.get(item) for item, one in a.answers.items()]
    return sum(same) / len(same)


@dataclass(frozen=True)
class TreeFacts:
    """As `ReasoningFacts`, on puzzles."""

    scores: tuple[Score, ...]
    model: str
    effects: tuple[Effect, ...]
    worked: tuple[Text, ...] = ()

    @property
    def trees(self) -> list[Score]:
        return [s for s in self.scores if _is_tree(s)]


def _is_tree(score: Score) -> bool:
    return score.family == "tree_of_thought"


@readable
def tree_facts(rows: RunRows) -> TreeFacts | Missing:
    scores = scores_of(rows, "puzzles")
    if not scores:
        if not any(stage.stage == "search_puzzles" for stage in rows.stages):
            return Missing("Tree of Thought is missing: no stage of this part is in this run")
        return Missing(rows.why_missing("reasoning", "Tree of Thought"))
    model = _main_model(scores)
    mine = [s for s in scores if s.model == model]
    tree = best([s for s in mine if _is_tree(s)], model)
    rival = equal_rival(tree, mine) if tree else None
    return TreeFacts(scores, model, (_tree_effect(mine),), worked(rows, [s for s in (tree, rival) if s]))


def equal_rival(tree: Score, scores: Sequence[Score]) -> Score | None:
    """The strongest other strategy for the tree's dollars; None where all cost less, or dollars are not known."""
    rivals = [s for s in scores if not _is_tree(s)]
    if tree.usd is None or max((s.usd or 0.0 for s in rivals), default=0.0) < EQUAL * tree.usd:
        return None
    return strongest_at(tree.usd, rivals)


def _tree_effect(scores: Sequence[Score]) -> Effect:
    slug, title = "tree_of_thought", TITLES["tree_of_thought"]
    trees = [s for s in scores if _is_tree(s)]
    if not trees:
        return not_measured(slug, title, "no tree was searched")
    if trees[0].usd is None:
        return not_measured(slug, title, NO_PRICES)
    compared = [
        (tree, rival, gap)
        for tree in trees
        if (rival := equal_rival(tree, scores)) is not None and (gap := paired(tree, rival)) is not None
    ]
    if not compared:
        why = "no other strategy cost as much on the same items: more `puzzles.max_attempts`"
        return not_measured(slug, title, why)
    return _widest(
        slug, title, compared, "trees", "the strongest other strategy for the same dollars, with the same verifier"
    )
