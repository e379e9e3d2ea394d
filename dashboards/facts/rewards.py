"""The reward model on pairs that it was not trained on, and the fitted laws of over-optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from components.rlhf.calibration_slope import calibration_slope
from components.rlhf.results.policy import Laws
from components.rlhf.results.preferences import PreferencesResult
from components.rlhf.results.reward_model import RewardModelResult
from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, held, not_measured, raises
from dashboards.run_data import RunRows, finite, known

CALIBRATED = (0.8, 1.25)  # slopes of a confidence that can be taken at its word


@dataclass(frozen=True)
class Group:
    """Accuracy on the pairs of one group: `kind` is split, source, annotator or confidence."""

    kind: str
    name: str
    accuracy: Interval


@dataclass(frozen=True)
class Bin:
    """What the model predicted for its favourite, and how often that answer was chosen."""

    predicted: float
    chosen: Interval


@dataclass(frozen=True)
class RewardModelFacts:
    """`accuracy` on held-out pairs against their noisy labels; `agreement_with_gold` over held-out answers, where the
    preferences are gold's. `calibration_slope`: 1 where its confidence can be taken at its word, 0 where it is flat.
    `score_by_length`: (tokens, score) of held-out answers. `disagreement`: of an ensemble. skipped: updates whose loss
    was not finite."""

    accuracy: Interval | None
    agreement_with_gold: float | None
    num_pairs: int
    label_agreement: float | None
    groups: tuple[Group, ...] = ()
    bins: tuple[Bin, ...] = ()
    ece: float | None = None
    ece_if_perfect: float | None = None
    best_of_four: Interval | None = None
    length_correlation: float | None = None
    length_slope: Interval | None = None
    accuracy_longer: Interval | None = None
    accuracy_shorter: Interval | None = None
    score_by_length: tuple[tuple[float, float], ...] = ()
    disagreement: float | None = None
    skipped: int = 0
    calibration_slope: Interval | None = None


def reward_model_facts(rows: RunRows) -> RewardModelFacts | None:
    """None where the run has no reward model. Raises UnreadableFacts where another version wrote its facts."""
    result = rows.result_of("train_reward_model", RewardModelResult)
    if result is None:
        return None
    collected = rows.result_of("collect_preferences", PreferencesResult)
    pairs = [row for row in rows.evals if row["suite"] == "preference pairs" and row["score"] is not None]
    facts = RewardModelFacts(
        accuracy=None,
        agreement_with_gold=None,
        num_pairs=len(rows.preferences),
        label_agreement=known(collected.label_agreement) if collected else None,
        groups=tuple(Group(kind, name, x) for kind, by in result.accuracy_by.items() for name, x in by.items()),
        disagreement=known(result.disagreement),
        skipped=result.guard.skipped_steps,
        calibration_slope=calibration_slope([row["score"] for row in pairs], [row["prompt"] for row in pairs]),
    )
    found = result.held_out
    if found is None:
        return facts
    return replace(
        facts,
        accuracy=finite(found.accuracy),
        agreement_with_gold=known(found.gold.agreement_with_gold),
        bins=tuple(Bin(entry.predicted, entry.chosen) for entry in found.calibration.bins),
        ece=known(found.calibration.ece),
        ece_if_perfect=known(found.calibration.ece_if_perfect),
        best_of_four=finite(found.gold.best_of_four),
        length_correlation=known(found.length.correlation),
        length_slope=finite(found.length.slope),
        accuracy_longer=finite(found.length.accuracy_longer),
        accuracy_shorter=finite(found.length.accuracy_shorter),
        score_by_length=found.score_by_length,
    )


@dataclass(frozen=True)
class LawFacts:
    """A law of Gao et al. 2022 in d = √KL: best-of-n d(α − βd), RL d(α − β log d). `peak_kl` None: it never turns."""

    law: str
    target: str
    run: str
    alpha: Interval
    beta: Interval
    peak_kl: float | None
    extrapolated: bool
    n: int

    def gain(self, kl: float) -> float:
        """The gain over the start that the law gives at this KL."""
        d = math.sqrt(max(kl, 0.0))
        second = d if self.law != "RL" else math.log(d) if d > 0 else 0.0
        return d * (self.alpha.value - self.beta.value * second)


def laws_of(laws: Laws, law: str, run: str) -> tuple[LawFacts, ...]:
    """The laws for gold and proxy that a stage fitted."""
    found = []
    for target, fit in (("gold", laws.gold), ("proxy", laws.proxy)):
        if fit is not None and finite(fit.alpha) and finite(fit.beta):
            found.append(LawFacts(law, target, run, fit.alpha, fit.beta, fit.peak_kl, fit.extrapolated, fit.alpha.n))
    return tuple(found)


def reward_model_effect(model: RewardModelFacts | None) -> Effect:
    """Whether it is right on pairs that it has not seen."""
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


def calibration_effect(model: RewardModelFacts | None) -> Effect:
    """Whether it is right as often as it says."""
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
        held(x.low <= high and low <= x.high, low <= x.low and x.high <= high),
        x,
        "slope",
        f"{at_most}slope {formatting.decimal_interval(x, 2)} (1: calibrated, 0: flat){flat}",
        "slope of the log-odds of being right on those that it gives, held-out pairs, t interval over requests; held "
        f"when it lies within {low} to {high}, not identified when it only reaches into that",
        side="covers",
        margin=1.0,
    )
