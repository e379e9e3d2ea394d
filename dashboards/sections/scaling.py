"""Sections on the scaling law and on emergence."""

from __future__ import annotations

from components.statistics import Interval
from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, counted, effect_of, listing, said
from dashboards.facts.scaling import EmergenceFacts, FittedParameter, ScalingFacts


def scaling_section(facts: ScalingFacts) -> Section:
    """Forecasts first, then the fitted laws and what the fit warns of."""
    meaning = said(
        effect_of(facts.effects, "forecast"),
        "A law fitted to small runs predicted the loss of a larger one before it was trained.",
        "The larger run did not land where the law predicted.",
    )
    fits = Table(
        "Fitted laws",
        ("law", "parameter", "value [95%]", "n", "method"),
        "<<>><",
        tuple(
            (
                p.law,
                labels.PARAMETERS.get(p.name, p.name),
                _fitted(p),
                formatting.count(p.n),
                p.method,
            )
            for p in facts.parameters
        ),
    )
    forecasts = Table(
        "Forecasts, made before the run",
        ("target", "parameters", "tokens", "predicted [95%]", "observed", "in interval"),
        "<>>>><",
        tuple(
            (
                f.target,
                formatting.count(f.num_params),
                formatting.count(f.tokens),
                formatting.decimal(f.predicted)
                if f.low is None or f.high is None
                else formatting.decimal_interval(Interval(f.predicted, f.low, f.high, 0)),
                formatting.decimal(f.observed),
                {True: "yes", False: "no", None: "not scored"}[f.inside],
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
    if p.low is None or p.high is None:
        return formatting.decimal(p.value, digits)
    return formatting.decimal_interval(Interval(p.value, p.low, p.high, p.n or 0), digits)


def emergence_section(facts: EmergenceFacts) -> Section:
    """The same models under a sharp and a smooth metric."""
    meaning = said(
        effect_of(facts.effects, "emergence"),
        "The ability seems to appear at once when only whole answers count; the log-probability shows it coming.",
        "No size here was surprising under one metric and expected under the other.",
    )
    table = Table(
        "By model size",
        ("parameters", "exact match [95%]", "n", "log-probability per token"),
        ">>>>",
        tuple(
            (
                formatting.count(p.num_params),
                formatting.percent_interval(p.exact_match),
                counted(p.exact_match),
                formatting.signed(p.log_prob, 3),
            )
            for p in facts.points
        ),
    )
    return body(meaning, (table,), facts.effects)
