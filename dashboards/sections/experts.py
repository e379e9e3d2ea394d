"""Section on the mixture of experts: load, loss and specialisation."""

from __future__ import annotations

from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, counted, effect_of, said
from dashboards.facts.experts import MoeFacts


def moe_section(facts: MoeFacts) -> Section:
    """Load and loss of the experts, and what an expert reveals of the source of a token."""
    meaning = said(
        effect_of(facts.effects, "moe_balance"),
        "Without the balancing loss a few experts take most of the tokens; with it the load is spread.",
        "The balancing loss made no clear difference to the load.",
    )
    if (special := effect_of(facts.effects, "moe_specialization")) is not None and special.seen:
        meaning += (
            " On the life's own text experts come to take the tokens of their own sources, though they are not told "
            "which source a token is from: sources differ in their words, and a router sees words."
        )
    runs = Table(
        "Runs on facts",
        ("variant", "seed", "parameters", "loss, nats", "busiest expert", "load entropy", "specialisation"),
        "<>>>>>>",
        tuple(
            (
                labels.label(labels.VARIANTS, p.variant),
                str(p.seed),
                formatting.count(p.num_params),
                formatting.decimal_interval(p.loss_interval) if p.loss_interval else formatting.decimal(p.loss),
                formatting.percent(p.max_share),
                formatting.decimal(p.entropy, 2),
                formatting.decimal(p.specialization, 3),
            )
            for p in facts.points
        ),
        folded=True,
    )
    on_text = Table(
        "What the expert reveals about the source, on the life's text (chance subtracted; n windows)",
        (
            "variant",
            "layer",
            "bits [95%]",
            "share of the entropy [95%]",
            "chance",
            "n",
            "busiest",
            "entropy",
        ),
        "<>>>>>>>",
        tuple(
            (
                labels.label(labels.VARIANTS, one.variant),
                str(layer.layer + 1),
                formatting.decimal_interval(layer.bits, 2),
                formatting.percent_interval(layer.share),
                formatting.decimal(layer.chance_bits),
                counted(layer.bits),
                formatting.percent(layer.max_share),
                formatting.decimal(layer.entropy, 2),
            )
            for one in facts.on_text
            for layer in one.layers
        ),
    )
    text_runs = Table(
        "Runs on the life's text",
        ("variant", "parameters", "active", "loss, nats [95%]", "n"),
        "<>>>>",
        tuple(
            (
                labels.label(labels.VARIANTS, one.variant),
                formatting.count(one.num_params),
                formatting.count(one.active_params),
                formatting.decimal_interval(one.loss),
                counted(one.loss),
            )
            for one in facts.on_text
        ),
    )
    return body(meaning, (runs, on_text, text_runs), facts.effects)
