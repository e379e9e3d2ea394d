"""The reward model on pairs that it was not trained on, and the fitted laws of over-optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from components.rlhf.calibration_slope import calibration_slope
from components.rlhf.results.policy import Laws
from components.rlhf.results.preferences import PreferencesResult
from components.rlhf.results.reward_model import RewardModelResult
from components.statistics import Interval
from dashboards.run_data import RunRows, finite, known


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
