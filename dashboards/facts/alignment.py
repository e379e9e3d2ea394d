"""RLHF (reward model, PPO, best-of-n) and GRPO.

Of the reward model and of our stories' gold proxy and gold are in standard deviations of the fine-tuned model's scores,
of rewards of the user's own in their own unit. Those of a finished policy are what it earns over the model that it
began as, on the same held-out requests: a gold below 0 is a policy that is liked less than the one it started from.
Gold that the user gives is called by its name. Where there is none, and the preferences are not those of the gold
scorer (people, a model, a file), nothing is said of a true preference, and what is left are the proxy, agreement on
held-out pairs and signs of hacking. The curves are of answers to the requests that it trains on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from components.rlhf.results.best_of_n import BestOfNResult
from components.rlhf.results.dpo import DPOResult
from components.rlhf.results.grpo import GRPOResult
from components.rlhf.results.policy import STORY_GOLD, PolicyJudgement, RewardGain
from components.rlhf.results.ppo import PPOResult
from components.rlhf.results.preferences import PreferencesResult
from components.statistics import Interval
from dashboards import formatting, labels
from dashboards.facts.effects import Effect, Missing, Unit, decided, difference, not_measured, raises, readable
from dashboards.facts.people import PeopleFacts, people_facts
from dashboards.facts.rewards import LawFacts, RewardModelFacts, laws_of, reward_model_facts
from dashboards.facts.scores import best, paired, pick, scores_of
from dashboards.run_data import RunRows, Series, StageRow, finite, known

CALIBRATED = (0.8, 1.25)  # slopes of a confidence that can be taken at its word
PROXY_GAIN = "proxy_gain", "PPO with a KL penalty raises the reward that it is trained on"
HACKING_SIGNS = "hacking_signs", "Without a penalty the signs of reward hacking show"
# What the watch sees beside proxy, gold and KL.
WATCHED = {
    "entropy": "policy/entropy",
    "length": "response/length",
    "repetition": "response/repeated",
    "ends by itself": "response/finished",
    "disagreement": "objective/score_disagreement",
}


@dataclass(frozen=True)
class PolicyFacts:
    """A policy that learned from preferences; the series are by iteration. `mitigation`: what held it back (a KL
    penalty, the ensemble's worst case or variance, a length penalty), or DPO. `suspicion`: the alarm that would have
    been raised without gold. skipped: updates whose loss was not finite. `watched`: the other things that the watch
    sees, by name. gold_name: "none" where there is no gold. rewards: what it gained in each reward that it was paid."""

    label: str
    kl_coef: float | None
    proxy: Interval | None
    gold: Interval | None
    kl: float | None
    alarm: bool | None
    alarm_reason: str
    proxy_curve: Series
    gold_curve: Series
    gold_low: Series
    gold_high: Series
    kl_curve: Series
    length_curve: Series
    mitigation: str = ""
    length: float | None = None
    repeated: float | None = None
    disagreement: float | None = None
    suspicion: bool | None = None
    suspicion_reason: str = ""
    stopped_at: int | None = None
    alarm_step: int | None = None
    skipped: int = 0
    laws: tuple[LawFacts, ...] = ()
    watched: tuple[tuple[str, Series], ...] = ()
    gold_name: str = "none"
    rewards: Mapping[str, RewardGain] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in tables and figures."""
        if self.kl_coef is not None and self.mitigation in ("", "KL penalty"):
            return f"KL coefficient {self.kl_coef:g}"
        return labels.label(labels.MITIGATIONS, self.mitigation) or self.label

    @property
    def gold_peak(self) -> tuple[int, float] | None:
        """Iteration and value of the highest gold on the way."""
        if not self.gold_curve:
            return None
        value, step = max(zip(self.gold_curve.values, self.gold_curve.steps, strict=True))
        return step, value


@dataclass(frozen=True)
class BestOfN:
    n: int
    kl: float | None
    proxy: Interval | None
    gold: Interval | None


@dataclass(frozen=True)
class Watched:
    """The gold that policies are watched with, by name: our stories', where the preferences are its own, or the user's;
    "none" where nobody knows which answers are better."""

    name: str

    @property
    def known(self) -> bool:
        return self.name != "none"

    @property
    def of_stories(self) -> bool:
        return self.name == STORY_GOLD

    @property
    def said(self) -> str:
        """As a sentence has it. What a user's gold measures, its author alone knows."""
        return "the true preference" if self.of_stories else f"your gold `{self.name}`"

    @property
    def short(self) -> str:
        """As a table and a figure have it."""
        return "gold" if self.of_stories else f"gold `{self.name}`"

    @property
    def unit(self) -> Unit:
        return "SFT sd" if self.of_stories else "reward"

    @property
    def method(self) -> str:
        """What is subtracted from what."""
        return (
            "gold over the fine-tuned model's on the same held-out requests"
            if self.of_stories
            else f"{self.said}, in its own unit, over that of the model that the policy began as, on the same held-out "
            "prompts"
        )


@dataclass(frozen=True)
class Paid:
    """What policies are paid with: the reward model, or rewards of the user's own."""

    own: bool = False

    @property
    def by(self) -> str:
        return "your rewards" if self.own else "the reward model"

    @property
    def unit(self) -> Unit:
        return "reward" if self.own else "SFT sd"


@dataclass(frozen=True)
class AlignmentFacts:
    """source: whose preferences were learned, "" where there are none. gold: what the policies were watched with. paid:
    by the reward model, or by rewards of the user's own."""

    reward_model: RewardModelFacts | None
    policies: tuple[PolicyFacts, ...]
    best_of_n: tuple[BestOfN, ...]
    people: PeopleFacts | None
    laws: tuple[LawFacts, ...]
    effects: tuple[Effect, ...]
    source: str = "gold"
    gold: Watched = field(default_factory=lambda: Watched(STORY_GOLD))
    paid: Paid = field(default_factory=Paid)

    @property
    def has_gold(self) -> bool:
        return self.gold.known

    @property
    def units(self) -> str:
        """What proxy and gold are in."""
        told = {self.paid.unit, *([self.gold.unit] if self.has_gold else [])}
        if told == {"SFT sd"}:
            return "SFT standard deviations"
        return "the rewards' own units" if told == {"reward"} else "SFT standard deviations, rewards in their own unit"


@readable
def alignment_facts(rows: RunRows) -> AlignmentFacts | Missing:
    reward_model = reward_model_facts(rows)
    tuned = [_ppo(rows, stage) for stage in rows.all("ppo")] + [_dpo(rows, stage) for stage in rows.all("dpo")]
    policies = tuple(sorted(tuned, key=_order))
    best_of_n = rows.result_of("best_of_n", BestOfNResult)
    sampled = _best_of_n(best_of_n)
    if reward_model is None and not policies and not sampled:
        return Missing(rows.why_missing("rlhf", "RLHF"))
    collected = rows.result_of("collect_preferences", PreferencesResult)
    source, paid = collected.source if collected else "", Paid(bool(rows.config.get("rewards")))
    gold = _watched(policies, best_of_n, source)
    about_policies = (
        (
            _gain_effect(policies, gold),
            _hacking_effect(policies, gold),
            _best_of_n_effect(sampled, gold, paid),
            *_remedy_effects(policies, gold),
        )
        if gold.known
        else (_proxy_effect(policies, paid), _signs_effect(policies))
    )
    effects = (_reward_model_effect(reward_model), _calibration_effect(reward_model), *about_policies)
    fitted = tuple(law for policy in policies for law in policy.laws)
    if best_of_n:
        fitted += laws_of(best_of_n.law, "best of n", "best of n")
    return AlignmentFacts(
        reward_model, policies, sampled, people_facts(rows.judgements), fitted, effects, source, gold, paid
    )


def _watched(policies: tuple[PolicyFacts, ...], best_of_n: BestOfNResult | None, source: str) -> Watched:
    """The gold of the policies; where there are none, that of the preferences."""
    names = [policy.gold_name for policy in policies] + ([best_of_n.gold_name] if best_of_n else [])
    if not names:
        return Watched(STORY_GOLD if source == "gold" else "none")
    return Watched(next((name for name in names if name != "none"), "none"))


def _order(policy: PolicyFacts) -> tuple[bool, bool, float, str]:
    """KL coefficients first, in their order; then what else held a policy back."""
    coefficient = policy.kl_coef if policy.kl_coef is not None else 0.0
    return policy.kl_coef is None, policy.mitigation not in ("", "KL penalty"), coefficient, policy.name


def _ppo(rows: RunRows, stage: StageRow) -> PolicyFacts:
    result = rows.result(stage, PPOResult)
    policy = replace(
        _policy(rows, stage, result.mitigation, result.judged),
        kl_coef=result.kl_coef,
        alarm=result.alarm,
        alarm_reason=result.alarm_reason,
        suspicion=result.suspicion,
        suspicion_reason=result.suspicion_reason,
        stopped_at=result.alarm_step if result.stopped else None,
        alarm_step=result.alarm_step,
        skipped=result.guard.skipped_steps,
    )
    return replace(policy, laws=laws_of(result.law, "RL", policy.name))


def _dpo(rows: RunRows, stage: StageRow) -> PolicyFacts:
    result = rows.result(stage, DPOResult)
    return replace(_policy(rows, stage, result.mitigation, result.judged), skipped=result.guard.skipped_steps)


def _policy(rows: RunRows, stage: StageRow, mitigation: str, judged: PolicyJudgement) -> PolicyFacts:
    return PolicyFacts(
        label=stage.label,
        kl_coef=None,
        proxy=finite(judged.proxy),
        gold=finite(judged.gold),
        kl=known(judged.kl),
        alarm=None,
        alarm_reason="",
        proxy_curve=rows.metric(stage, "objective/score"),
        gold_curve=rows.metric(stage, "gold"),
        gold_low=rows.metric(stage, "gold_low"),
        gold_high=rows.metric(stage, "gold_high"),
        kl_curve=rows.metric(stage, "objective/kl"),
        length_curve=rows.metric(stage, "response/length"),
        mitigation=mitigation,
        length=known(judged.length),
        repeated=known(judged.repeated),
        disagreement=known(judged.disagreement),
        watched=tuple((name, rows.metric(stage, metric)) for name, metric in WATCHED.items()),
        gold_name=judged.gold_name,
        rewards=judged.rewards or {},
    )


def _best_of_n(result: BestOfNResult | None) -> tuple[BestOfN, ...]:
    rows = result.rows if result else ()
    found = [BestOfN(row.n, known(row.kl), finite(row.proxy), finite(row.gold)) for row in rows]
    return tuple(sorted(found, key=lambda row: row.n))


def _reward_model_effect(model: RewardModelFacts | None) -> Effect:
    slug, title = "reward_model", "The reward model learns the preference"
    if model is None or model.accuracy is None:
        return not_measured(slug, title, "no accuracy of a reward model with its interval")
    x = model.accuracy
    over = Interval(x.value - 0.5, x.low - 0.5, x.high - 0.5, x.n)
    gold = (
        ""
        if model.agreement_with_gold is None
        else f"; correlation with gold {formatting.decimal(model.agreement_with_gold, 2)}"
    )
    return raises(
        slug,
        title,
        over,
        "points",
        f"accuracy {formatting.percent_interval(x)} on held-out pairs{gold}",
        "over chance (50%), 95% interval over requests, whose pairs are alike; seen when it lies above 0",
    )


def _calibration_effect(model: RewardModelFacts | None) -> Effect:
    slug, title = "reward_model_calibration", "The reward model's confidence can be taken at its word"
    x = model.calibration_slope if model else None
    if model is None or x is None:
        return not_measured(slug, title, "needs held-out pairs of two requests or more, some right and some wrong")
    sure = max(model.bins, key=lambda entry: entry.predicted, default=None)
    at_most = (
        f"where it is surest it predicted {formatting.percent(sure.predicted, 0)}, and "
        f"{formatting.percent_interval(sure.chosen)} were chosen; "
        if sure
        else ""
    )
    flat = "; that is flat: it is right as often where it is sure as where it is not" if x.contains(0.0) else ""
    low, high = CALIBRATED
    return Effect(
        slug,
        title,
        decided(low <= x.low and x.high <= high),
        x,
        "slope",
        f"{at_most}slope {formatting.decimal_interval(x, 2)} (1: calibrated, 0: flat){flat}",
        "slope of the log-odds of being right on those that it gives, held-out pairs, t interval over requests; seen "
        f"when it lies within {low} to {high}",
        side="covers",
        margin=1.0,
    )


def _proxy_effect(policies: tuple[PolicyFacts, ...], paid: Paid) -> Effect:
    """Without gold: what the policy was trained on, which is no more than that."""
    slug, title = PROXY_GAIN
    held = [p for p in policies if p.kl_coef and p.proxy]
    if not held:
        return not_measured(slug, title, "no PPO run with a KL coefficient above 0 and a proxy with its interval")
    policy = min(held, key=lambda p: p.kl_coef or 0.0)
    assert policy.proxy is not None
    return raises(
        slug,
        title,
        policy.proxy,
        paid.unit,
        f"KL coefficient {policy.kl_coef:g}: proxy {formatting.signed(policy.proxy.value)}, {_signs(policy)}",
        (
            "what your rewards give, weighted and in their own unit, over what they gave the model that the policy "
            "began as, on the same held-out prompts, 95% interval over prompts"
            if paid.own
            else "the reward model's score over the fine-tuned model's on the same held-out requests, 95% interval "
            "over requests"
        )
        + "; seen when it lies above 0. The policy was trained on that score: whether its answers are preferred is not "
        "known",
    )


def _signs_effect(policies: tuple[PolicyFacts, ...]) -> Effect:
    """Without gold: whether the signs spoke against the policy that nothing held back."""
    slug, title = HACKING_SIGNS
    free = _free(policies)
    if free is None or free.suspicion is None or free.proxy is None:
        return not_measured(slug, title, "no PPO run with KL coefficient 0 under the watch")
    return Effect(
        slug,
        title,
        decided(free.suspicion),
        numbers=f"proxy {formatting.signed(free.proxy.value)}, {_signs(free)}; "
        + (free.suspicion_reason or "no sign was beyond its threshold"),
        method="signs that the proxy's gain is not what it was meant to be: the reward models disagree about it, "
        "longer answers account for it, or the answers degenerate; seen when the watch raised its alarm by them",
        side="above",
    )


def _signs(policy: PolicyFacts) -> str:
    watched = dict(policy.watched)
    entropy = watched.get("entropy")
    change = (
        f", entropy {formatting.decimal(entropy.values[0], 2)} → {formatting.decimal(entropy.values[-1], 2)} nats"
        if entropy
        else ""
    )
    return (
        f"KL {formatting.decimal(policy.kl, 1)}, {formatting.decimal(policy.length, 0)} tokens, "
        f"{formatting.percent(policy.repeated, 0)} repeated{change}"
    )


def _gain_effect(policies: tuple[PolicyFacts, ...], watched: Watched) -> Effect:
    slug, title = "ppo_gain", f"PPO with a KL penalty raises {watched.said}"
    held = [(p, p.gold) for p in policies if p.kl_coef and p.gold]
    if not held:
        return not_measured(slug, title, "no PPO run with a KL coefficient above 0 and a gold score with its interval")
    # Chosen by what was seen while training, not by the answers that the verdict rests on: the best of several
    # coefficients on those would look better than it is.
    policy, gold = max(held, key=lambda pair: (pair[0].gold_curve.values or (-math.inf,))[-1])
    among = f", which had the highest gold of {len(held)} when training ended" if len(held) > 1 else ""
    return raises(
        slug,
        title,
        gold,
        watched.unit,
        f"KL coefficient {policy.kl_coef:g}{among}: proxy {_signed(policy.proxy)}, "
        f"{watched.short} {formatting.signed(gold.value)}",
        f"{watched.method}; seen when the 95% interval over requests lies above 0",
    )


def _hacking_effect(policies: tuple[PolicyFacts, ...], watched: Watched) -> Effect:
    slug, title = "reward_hacking", "Without a penalty the proxy is hacked"
    free = _free(policies)
    if free is None or free.gold is None or free.proxy is None:
        return not_measured(slug, title, "no PPO run with KL coefficient 0 and both scores")
    seen = free.gold.high < 0.0 < free.proxy.value
    return Effect(
        slug,
        title,
        decided(seen),
        free.gold,
        watched.unit,
        f"proxy {_signed(free.proxy)} while {watched.short} {formatting.signed(free.gold.value)}, "
        f"KL {formatting.decimal(free.kl, 1)}; {_alarm_and_verdict(free, seen)}",
        f"{watched.method}; seen when the proxy rose and the 95% interval of gold over requests lies below 0",
        side="below",
    )


def _alarm_and_verdict(policy: PolicyFacts, hacked: bool) -> str:
    """The alarm compares with the best gold on the way, on the requests trained on; the verdict with the start, on
    requests held out. Where they differ, both are right, and the words say of what."""
    if policy.alarm is None:
        return "alarm not measured"
    if not policy.alarm:
        return "no alarm raised"
    raised = "alarm raised" if policy.alarm_step is None else f"alarm raised at iteration {policy.alarm_step}"
    return raised if hacked else f"{raised}: gold fell from its height on the way, not below the start for certain"


def _remedy_effects(policies: tuple[PolicyFacts, ...], watched: Watched) -> tuple[Effect, ...]:
    """What each remedy but the KL penalty did for gold, against the run that nothing held back; none where none ran."""
    free = _free(policies)
    if free is None or free.gold is None:
        return ()
    found = []
    for policy in policies:
        if policy.gold is None or policy.mitigation in ("", "KL penalty"):
            continue
        found.append(
            raises(
                f"remedy_{policy.mitigation.lower()}",
                f"Remedy for reward hacking: {policy.name}",
                difference(policy.gold, free.gold),
                watched.unit,
                f"{watched.short} {formatting.signed(free.gold.value)} → {formatting.signed(policy.gold.value)}, "
                f"proxy {_signed(free.proxy)} → {_signed(policy.proxy)}",
                f"{watched.short} against the run without a KL penalty, two 95% intervals taken as independent "
                "(Newcombe); seen when the difference lies above 0",
            )
        )
    return tuple(found)


def _signed(x: Interval | None) -> str:
    return formatting.signed(x.value if x else None)


def _free(policies: tuple[PolicyFacts, ...]) -> PolicyFacts | None:
    """The policy that nothing held back."""
    return next((p for p in policies if p.kl_coef == 0.0 and p.mitigation in ("", "KL penalty")), None)


def _best_of_n_effect(rows: tuple[BestOfN, ...], watched: Watched, paid: Paid) -> Effect:
    slug, title = "best_of_n", f"Best-of-n by {paid.by} raises {watched.said}"
    measured = [(row, row.gold) for row in rows if row.gold]
    if not measured:
        return not_measured(slug, title, "no best-of-n row with a gold score and its interval")
    row, gold = measured[-1]
    return raises(
        slug,
        title,
        gold,
        watched.unit,
        f"n={row.n}: proxy {_signed(row.proxy)}, {watched.short} {formatting.signed(gold.value)}",
        f"{watched.short} over one sample of the model before; seen when the 95% interval over requests lies above 0",
    )


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
