"""GRPO in sentences and tables."""

from __future__ import annotations

from components.statistics import Interval
from dashboards import formatting
from dashboards.blocks import Section, body, counted, effect_of, listing, said
from dashboards.facts.grpo import GrpoFacts
from dashboards.sections.alignment import rewards_table


def grpo_section(facts: GrpoFacts) -> Section:
    """Accuracy before and after, and how many groups gave no signal."""
    meaning = said(
        effect_of(facts.effects, "grpo"),
        "Rewarding only exact answers, without any labelled solution, makes the model more accurate.",
        "Rewarding exact answers did not make the model more accurate.",
    )
    shown, how = formatting.percent_interval, "greedy"
    if facts.measure == "reward":
        how = "sampled"
        meaning = said(
            effect_of(facts.effects, "grpo"),
            "The policy earns more of the reward that it was trained on, on prompts that it was not trained on.",
            "The policy earned no more of its reward on prompts that it was not trained on.",
        )

        def shown(x: Interval | None) -> str:
            return formatting.decimal_interval(x, 3)

    if facts.measure == "reward" and facts.gold_name == "none":
        meaning += " Nothing but that reward was measured: without gold nothing is known of what is truly wanted."
    gold = formatting.decimal_interval(facts.gold, 3, plus=True)
    pairs = [
        (f"{how} {facts.measure} before", shown(facts.before)),
        (f"{how} {facts.measure} after", shown(facts.after)),
        *([(f"gain in your gold `{facts.gold_name}`", gold)] if facts.gold_name != "none" else []),
        *((f"share {name}", formatting.percent(share)) for name, share in facts.statuses.items() if share),
        ("items", counted(facts.after)),
        ("iterations", formatting.count(facts.reward_curve.steps[-1] if facts.reward_curve else None)),
        (
            "groups without signal, last iteration",
            formatting.percent(facts.zero_std_curve.values[-1] if facts.zero_std_curve else None),
        ),
        ("updates skipped, not finite", formatting.count(facts.skipped or None)),
    ]
    parts = rewards_table([("GRPO", name, one) for name, one in facts.rewards.items()])
    return body(meaning, (listing("In numbers", pairs), parts), facts.effects)
