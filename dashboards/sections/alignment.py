"""The section on RLHF."""

from __future__ import annotations

from collections.abc import Sequence

from components.rlhf.results.policy import RewardGain
from dashboards import formatting
from dashboards.annotate.report import people_tables
from dashboards.blocks import Section, Table, body, counted, effect_of, listing, said
from dashboards.facts.alignment import AlignmentFacts
from dashboards.facts.rewards import LawFacts, RewardModelFacts


def alignment_section(facts: AlignmentFacts) -> Section:
    """Policies side by side, best of n, the laws, and what the reward model is worth."""
    meaning = _meaning(facts) if facts.has_gold else _without_gold(facts)
    if not any(p.mitigation not in ("", "KL penalty", "DPO") for p in facts.policies):
        meaning += " `lifespan run remedies` shows what else could hold it back."
    gold = (f"{facts.gold.short} [95%]",) if facts.has_gold else ()
    policies = Table(
        f"Policies and what held them back ({facts.units})",
        (
            *("policy", "proxy [95%]", *gold, "KL, nats", "tokens", "repeated", "n", "alarm"),
            *(["without gold"] if facts.has_gold else []),
        ),
        f"<>{'>' * len(gold)}>>>><{'<' * len(gold)}",
        tuple(
            (
                p.name,
                formatting.decimal_interval(p.proxy, 2, plus=True),
                *(formatting.decimal_interval(p.gold, 2, plus=True) for _ in gold),
                formatting.decimal(p.kl, 1),
                formatting.decimal(p.length, 0),
                formatting.percent(p.repeated, 0),
                counted(p.proxy or p.gold),
                _alarm(p.alarm, p.alarm_step, p.stopped_at is not None),
                *(_alarm(p.suspicion, None, False) for _ in gold),
            )
            for p in facts.policies
        ),
    )
    reasons = Table(
        "What the over-optimisation monitor reported",
        ("policy", "by", "message"),
        "<<<",
        tuple(
            (p.name, by, reason)
            for p in facts.policies
            for by, raised, reason in (
                *((("gold", p.alarm, p.alarm_reason),) if facts.has_gold else ()),
                ("signs", p.suspicion, p.suspicion_reason),
            )
            if raised and reason
        ),
    )
    counted_skips = [(p.name, p.skipped) for p in facts.policies]
    if facts.reward_model is not None:
        counted_skips.append(("reward model", facts.reward_model.skipped))
    skipped = listing(
        "Updates skipped because they were not finite",
        ((name, formatting.count(number)) for name, number in counted_skips if number),
    )
    best_of_n = Table(
        f"Best of n by {facts.paid.by} ({facts.units})",
        ("n", "KL, nats", "proxy [95%]", *gold),
        f">>>{'>' * len(gold)}",
        tuple(
            (
                str(r.n),
                formatting.decimal(r.kl, 2),
                formatting.decimal_interval(r.proxy, 2, plus=True),
                *(formatting.decimal_interval(r.gold, 2, plus=True) for _ in gold),
            )
            for r in facts.best_of_n
        ),
        folded=True,
    )
    laws = Table(
        "Laws of over-optimisation, d = √KL: best of n d(α − βd), RL d(α − β log d)",
        ("what", "reward", "α [95%]", "β [95%]", "turns at KL", "n"),
        "<<>>>>",
        tuple(
            (
                law.run,
                law.target,
                formatting.decimal_interval(law.alpha, 2),
                formatting.decimal_interval(law.beta, 2),
                _peak(law),
                str(law.n),
            )
            for law in facts.laws
        ),
    )
    rewards = rewards_table([(p.name, name, one) for p in facts.policies for name, one in p.rewards.items()])
    tables = [policies, rewards, reasons, skipped, best_of_n, laws]
    if facts.reward_model is not None:
        tables += _reward_model(facts.reward_model)
    if facts.people is not None:
        tables += people_tables(facts.people)
    return body(meaning, tables, facts.effects)


_WHOSE = {"people": "people's judgements", "model": "a model's verdicts", "file": "a file"}


def _meaning(facts: AlignmentFacts) -> str:
    meaning = said(
        effect_of(facts.effects, "ppo_gain"),
        f"Held near the model that it began as, the policy earned more of {facts.gold.said}.",
        f"Held near the model that it began as, the policy earned no more of {facts.gold.said}.",
    )
    hack = effect_of(facts.effects, "reward_hacking")
    if hack is None or hack.verdict == "not measured":
        return meaning
    lost = "true preference" if facts.gold.of_stories else facts.gold.said
    return meaning + (
        f" Left free, it learned to please {facts.paid.by} and lost {lost}: reward hacking."
        if hack.seen
        else " Left free, it did not fall below where it started."
    )


def _without_gold(facts: AlignmentFacts) -> str:
    if facts.paid.own:
        return (
            "The policies were paid by your rewards and watched by nothing else, so nobody knows which of their "
            "answers are better. What can be told: what they earned of each reward, and signs of hacking. A `gold` of "
            "your own would be watched and never paid."
        )
    if facts.source not in _WHOSE:
        return "Nobody knows which of the policies' answers are better: no gold was watched."
    return (
        f"The preferences came from {_WHOSE[facts.source]}, so nobody knows which of the policies' "
        "answers are better. What can be told: the reward that they were trained on (the proxy), how often it agrees "
        "with held-out pairs, and signs of hacking. To know more, judge the policies' own answers."
    )


def rewards_table(rewards: Sequence[tuple[str, str, RewardGain]]) -> Table:
    """What policies gained in each of the rewards that they were paid: (policy, reward, gain)."""
    return Table(
        "Rewards on held-out prompts, each in its own unit",
        ("policy", "reward", "before", "after", "gain [95%]", "n"),
        "<<>>>>",
        tuple(
            (
                policy,
                name,
                formatting.decimal(one.before, 3),
                formatting.decimal(one.after, 3),
                formatting.decimal_interval(one.gain, 3, plus=True),
                counted(one.gain),
            )
            for policy, name, one in rewards
        ),
    )


def _peak(law: LawFacts) -> str:
    """Where the fitted law turns down, and whether any policy went that far."""
    if law.peak_kl is None:
        return "never"
    return f"{formatting.short(law.peak_kl)}" + (", not reached" if law.extrapolated else "")


def _alarm(raised: bool | None, step: int | None, stopped: bool) -> str:
    if raised is None:
        return formatting.MISSING
    if not raised:
        return "none"
    return ("raised" if step is None else f"iteration {step}") + ("; stopped, the best kept" if stopped else "")


def _reward_model(model: RewardModelFacts) -> list[Table]:
    error = formatting.percent(model.ece)
    if model.ece_if_perfect is not None:
        error += f" ({formatting.percent(model.ece_if_perfect)} if it were perfect)"
    pairs = [
        ("accuracy on held-out pairs", formatting.percent_interval(model.accuracy)),
        ("best of four found", formatting.percent_interval(model.best_of_four)),
        ("correlation with gold, held out", formatting.decimal(model.agreement_with_gold, 2)),
        ("calibration error", formatting.MISSING if model.ece is None else error),
        ("calibration slope (1: calibrated, 0: flat)", formatting.decimal_interval(model.calibration_slope, 2)),
        ("correlation with length", formatting.signed(model.length_correlation)),
        ("score per token of length", formatting.decimal_interval(model.length_slope, 3, plus=True)),
        ("accuracy where the longer answer was chosen", formatting.percent_interval(model.accuracy_longer)),
        ("accuracy where the shorter answer was chosen", formatting.percent_interval(model.accuracy_shorter)),
        ("disagreement of the ensemble", formatting.decimal(model.disagreement or None, 2)),
        ("preference pairs", formatting.count(model.num_pairs or None)),
        ("labels that agree with gold", formatting.percent(model.label_agreement)),
    ]
    groups = Table(
        "Accuracy of the reward model by group",
        ("by", "group", "accuracy [95%]", "requests"),
        "<<>>",
        tuple((g.kind, g.name, formatting.percent_interval(g.accuracy), counted(g.accuracy)) for g in model.groups),
    )
    return [listing("Reward model", pairs), groups]
