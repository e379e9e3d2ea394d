"""GRPO: a policy that practised with rewards that can be checked, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.rlhf.results.grpo import GRPOResult
from components.rlhf.results.policy import RewardGain
from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, difference, not_measured, raises, readable
from dashboards.facts.scores import best, paired, pick, scores_of
from dashboards.run_data import RunRows, Series, finite


@dataclass(frozen=True)
class GrpoFacts:
    """measure: what before and after are, `accuracy` or the `reward` in its own unit. rewards: every reward by name.
    gold_name: "none" where there is no gold; gold: its gain. statuses: share of the last answers by what they gave."""

    before: Interval | None
    after: Interval | None
    accuracy_curve: Series
    reward_curve: Series
    zero_std_curve: Series
    skipped: int
    effects: tuple[Effect, ...]
    measure: str = "accuracy"
    rewards: Mapping[str, RewardGain] = field(default_factory=dict)
    gold_name: str = "none"
    gold: Interval | None = None
    statuses: Mapping[str, float] = field(default_factory=dict)


@readable
def grpo_facts(rows: RunRows) -> GrpoFacts | Missing:
    stage = rows.find("grpo")
    if stage is None:
        return Missing(rows.why_missing("rlhf", "GRPO"))
    result = rows.result(stage, GRPOResult)
    before, after = finite(result.before), finite(result.after)
    return GrpoFacts(
        before,
        after,
        accuracy_curve=rows.metric(stage, "greedy_accuracy" if result.measure == "accuracy" else "held_out_reward"),
        reward_curve=rows.metric(stage, "objective/reward"),
        zero_std_curve=rows.metric(stage, "groups/zero_variance"),
        skipped=result.guard.skipped_steps,
        effects=(_grpo_effect(rows, before, after) if result.measure == "accuracy" else _reward_effect(result),),
        measure=result.measure,
        rewards=result.rewards or {},
        gold_name=result.gold_name,
        gold=finite(result.gold),
        statuses=result.statuses or {},
    )


def _reward_effect(result: GRPOResult) -> Effect:
    """The gain in the reward that was trained on, over the same held-out prompts."""
    slug, title = "grpo", "GRPO raises its reward on held-out prompts"
    gains = result.rewards or {}
    gain = gains.get("sum") or next(iter(gains.values()), None)
    if gain is None or finite(gain.gain) is None:
        return not_measured(slug, title, "no reward before and after with its interval")
    return raises(
        slug,
        title,
        gain.gain,
        "reward",
        f"{formatting.decimal(gain.before, 2)} → {formatting.decimal(gain.after, 2)} (sampled)",
        "the reward itself, in its own unit, of sampled answers to the same held-out prompts; 95% interval over "
        "prompts; seen when it lies above 0",
    )


def _grpo_effect(rows: RunRows, before: Interval | None, after: Interval | None) -> Effect:
    """From the items that both models answered, where there are such, else from the stage's two intervals."""
    slug, title = "grpo", "GRPO raises accuracy by exact rewards"
    scores = scores_of(rows, "chains")
    trained = pick(scores, "grpo", "cot") or best(scores, "grpo", greedy=True)
    start = pick(scores, "sft", trained.strategy) if trained else None
    if trained and start and (gap := paired(trained, start)) is not None:
        return raises(
            slug,
            title,
            gap,
            "points",
            f"{formatting.percent(start.accuracy.value)} → {formatting.percent(trained.accuracy.value)} "
            f"({trained.label})",
            "paired items, Tango's 95% interval; seen when it lies above 0",
        )
    if before is None or after is None:
        return not_measured(slug, title, "no accuracy before and after with their intervals")
    return raises(
        slug,
        title,
        difference(after, before),
        "points",
        f"{formatting.percent(before.value)} → {formatting.percent(after.value)} (greedy)",
        "two 95% intervals taken as independent (Newcombe); seen when the difference lies above 0",
    )
