"""Sections on the scaling law and on emergence."""

from __future__ import annotations

import math

from components.scaling.emergence import Jump
from components.statistics import Interval
from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, counted, effect_of, listing
from dashboards.facts.scaling import EmergenceFacts, FittedParameter, ScalingFacts


def scaling_section(facts: ScalingFacts) -> Section:
    """Forecasts first, then the fitted laws and what the fit warns of."""
    meaning = f"{_forecast_sentence(facts)} {_floor_sentence(facts)}".strip()
    fits = Table(
        "Fitted laws",
        ("law", "parameter", "value [95%]", "n", "method"),
        "<<>><",
        tuple(
            (
                labels.label(labels.LAWS, p.law),
                labels.PARAMETERS.get(p.name, p.name),
                _fitted(p),
                formatting.count(p.n),
                p.method,
            )
            for p in facts.parameters
        ),
        folded=True,
    )
    forecasts = Table(
        "Forecasts, made before the run",
        ("by", "predicted [95%]", "observed", "error", "in interval", "compute", "parameters", "tokens"),
        "<>>><>>>",
        tuple(
            (
                labels.label(labels.FORECASTS, f.method),
                formatting.decimal(f.predicted)
                if f.low is None or f.high is None
                else formatting.decimal_interval(Interval(f.predicted, f.low, f.high, 0)),
                formatting.decimal(f.observed),
                formatting.MISSING if f.error is None else formatting.signed(f.error, 3),
                {True: "yes", False: "no", None: formatting.MISSING if f.low is None else "not scored"}[f.inside],
                formatting.MISSING if f.extrapolation is None else f"{f.extrapolation:.1f}×",
                formatting.count(f.num_params),
                formatting.count(f.tokens),
            )
            for f in facts.forecasts
        ),
    )
    pairs = [
        ("points", formatting.count(len(facts.points) or None)),
        ("parameters counted", labels.label(labels.PARAMETER_COUNTS, facts.params_kind) or formatting.MISSING),
        ("true irreducible loss, nats per token", formatting.decimal(facts.truth)),
        *(("the fit warns", warning) for warning in facts.warnings),
    ]
    return body(meaning, (forecasts, fits, listing("In numbers", pairs)), facts.effects)


def _fitted(p: FittedParameter) -> str:
    """A and B are large and uncertain: three decimals would suggest a precision that they do not have."""
    digits = 3 if max(abs(p.value), p.high or 0.0) < 10 else 1
    told = " at its bound" if p.at_bound else ""
    if p.low is None or p.high is None:
        return formatting.decimal(p.value, digits) + told
    return formatting.decimal_interval(Interval(p.value, p.low, p.high, p.n or 0), digits) + told


def _forecast_sentence(facts: ScalingFacts) -> str:
    """What the forecast of the law came to, whatever it was."""
    effect = effect_of(facts.effects, "forecast")
    if effect is None or effect.verdict == "not measured":
        return "No forecast was scored in this run."
    if effect.seen:
        return (
            "A law fitted to small runs predicted the loss of a larger one before it was trained, more narrowly than "
            "what could happen and nearer than one would have said without a law."
        )
    x = effect.interval
    if x is not None and x.contains(0.0):
        return "The larger run landed in the law's interval, which is not enough to call the forecast good: see below."
    return "The larger run did not land where the law predicted."


def _floor_sentence(facts: ScalingFacts) -> str:
    effect = effect_of(facts.effects, "irreducible_loss")
    if effect is None or effect.verdict == "not measured":
        return ""
    if effect.seen:
        return "The irreducible loss that it finds is the true one, within a narrow interval."
    x = effect.interval
    if x is not None and x.contains(0.0):
        return "The sweep does not identify the irreducible loss: its interval holds the true one and much else."
    return "The irreducible loss that it finds is not the true one."


def emergence_section(facts: EmergenceFacts) -> Section:
    """The same models under a sharp and a smooth metric."""
    report = facts.report
    table = Table(
        f"By model size, {'one training' if report.trainings == 1 else f'{report.trainings} trainings'} each",
        (
            "parameters",
            "exact match, greedy [95%]",
            "by training",
            "log-probability, computed [95%]",
            "copied",
            "sampled match [95%]",
            "p^L",
        ),
        ">><>>>>",
        tuple(
            (
                formatting.count(p.num_params),
                formatting.percent_interval(p.accuracy),
                ", ".join(formatting.percent(x, 0) for x in p.accuracies),
                formatting.decimal_interval(p.log_prob),
                formatting.signed(p.copied_log_prob, 3),
                formatting.percent_interval(p.sampled),
                formatting.percent(p.expected.value),
            )
            for p in report.points
        ),
        folded=True,
    )
    pairs = [
        ("items, the same for all", counted(report.rise)),
        ("emergence score of exact match", _score(report.sharp_score)),
        ("emergence score of the log-probability", _score(report.smooth_score)),
        ("largest step of exact match", _step(report.sharp_jump)),
        ("largest step of the log-probability", _step(report.smooth_jump)),
        ("mean gap between sampled match and p^L", formatting.percent(report.expected_error)),
        *(("the analysis warns", warning) for warning in report.warnings),
    ]
    return body(_emergence_sentence(facts), (table, listing("In numbers", pairs)), facts.effects)


def _emergence_sentence(facts: EmergenceFacts) -> str:
    """Five outcomes, of which the numbers choose one."""
    jump, smooth = (effect_of(facts.effects, slug) for slug in ("emergence_jump", "emergence"))
    alone = "One training a size: another seed may jump elsewhere. " if facts.report.trainings == 1 else ""
    if jump is None or not jump.seen:
        return f"{alone}No two neighbouring sizes differ by a jump in exact match beyond the interval."
    step, same = facts.report.smooth_jump, facts.report.smooth_jump.below == facts.report.sharp_jump.below
    in_models = same and step.share > 0.5
    if smooth is not None and smooth.seen and in_models:
        return (
            f"{alone}By the emergence scores the ability appears more suddenly when only whole answers count; but the "
            f"log-probability of the tokens that have to be computed makes {step.share:.0%} of its way between the "
            "same two sizes: the jump is in the models, and the metric sharpens it."
        )
    if smooth is not None and smooth.seen:
        return (
            f"{alone}The ability seems to appear at once when only whole answers count; the log-probability of the "
            "tokens that have to be computed shows it coming."
        )
    if in_models:
        return (
            f"{alone}Exact match jumps, and the log-probability of the tokens that have to be computed makes most of "
            "its way between the same two sizes: here the jump is in the models and not in the metric."
        )
    return (
        f"{alone}Exact match jumps; whether the log-probability of computed tokens moves more smoothly, the emergence "
        "scores do not tell beyond their interval."
    )


def _score(x: Interval | None) -> str:
    if x is None:
        return "undefined"
    ends = (f"{end:.1f}" if math.isfinite(end) else "undefined" for end in (x.low, x.high))
    return f"{x.value:.1f} [{', '.join(ends)}]"


def _step(jump: Jump) -> str:
    return f"{formatting.count(jump.below)} → {formatting.count(jump.above)} parameters, {jump.share:.0%} of its range"
