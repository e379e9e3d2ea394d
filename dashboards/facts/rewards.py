"""The reward model on pairs that it was not trained on, and the fitted laws of over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.statistics import Interval
from dashboards.run_data import RunRows, StageRow, interval, listed, number, whole


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
    """`accuracy` on held-out pairs against their noisy labels; `agreement_with_gold` against the true preference, over
    held-out answers. `score_by_length`: (tokens, score) of held-out answers. `disagreement`: of an ensemble. skipped:
    updates whose loss was not finite."""

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


def reward_model_facts(rows: RunRows) -> RewardModelFacts | None:
    stage = rows.find("reward_model", "train_reward_model")
    if stage is None:
        return None
    judged = [row["agrees_with_gold"] for row in rows.preferences if row["agrees_with_gold"] is not None]
    by, calibration = _mapping(stage.facts, "accuracy_by"), _mapping(stage.facts, "calibration")
    length = _mapping(stage.facts, "length")
    return RewardModelFacts(
        accuracy=interval(stage.facts, "accuracy"),
        agreement_with_gold=number(stage.facts, "agreement_with_gold"),
        num_pairs=len(rows.preferences),
        label_agreement=sum(judged) / len(judged) if judged else None,
        groups=tuple(
            Group(kind, name, found)
            for kind in by
            for name in _mapping(by, kind)
            if (found := stated(_mapping(by, kind), name)) is not None
        ),
        bins=tuple(
            Bin(predicted, chosen)
            for entry in listed(calibration, "bins")
            if (predicted := number(entry, "predicted")) is not None and (chosen := stated(entry, "chosen")) is not None
        ),
        ece=number(calibration, "ece"),
        ece_if_perfect=number(calibration, "ece_if_perfect"),
        best_of_four=stated(stage.facts, "best_of_four"),
        length_correlation=number(length, "correlation"),
        length_slope=stated(length, "slope"),
        accuracy_longer=stated(length, "accuracy_longer"),
        accuracy_shorter=stated(length, "accuracy_shorter"),
        score_by_length=_points(stage.facts.get("score_by_length")),
        disagreement=number(stage.facts, "disagreement"),
        skipped=whole(stage.facts, "skipped_steps") or 0,
    )


def stated(facts: Mapping[str, Any], name: str) -> Interval | None:
    """An interval that stands as one object {value, low, high, n}."""
    found = _mapping(facts, name)
    value, low, high = (number(found, part) for part in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    return Interval(value, low, high, whole(found, "n") or 0)


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def _points(raw: Any) -> tuple[tuple[float, float], ...]:
    pairs = raw if isinstance(raw, list) else []
    return tuple((float(x), float(y)) for x, y in (p for p in pairs if isinstance(p, list) and len(p) == 2))


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


def laws_of(stage: StageRow | None, law: str, run: str) -> tuple[LawFacts, ...]:
    """The laws for gold and proxy that a stage fitted."""
    if stage is None:
        return ()
    found = []
    for target in ("gold", "proxy"):
        fit = _mapping(_mapping(stage.facts, "law"), target)
        alpha, beta = interval(fit, "alpha"), interval(fit, "beta")
        if alpha is not None and beta is not None:
            peak = number(fit, "peak_kl")
            found.append(LawFacts(law, target, run, alpha, beta, peak, bool(fit.get("extrapolated")), alpha.n))
    return tuple(found)
