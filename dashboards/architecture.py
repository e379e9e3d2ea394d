"""The sections on other architectures: the recurrent net and the mixture of experts."""

from __future__ import annotations

from dashboards import formatting
from dashboards.blocks import Section, Table, body, counted, effect_of, said
from dashboards.facts.experts import MoeFacts
from dashboards.facts.recurrent import RecurrentFacts

NAMES = {"transformer": "transformer", "lstm": "LSTM"}
VARIANT_NAMES = {
    "dense": "dense",
    "moe_balanced": "experts, balanced",
    "moe_unbalanced": "experts, not balanced",
    "moe_loss_free": "experts, balanced by a bias",
}


def recurrent_section(facts: RecurrentFacts) -> Section:
    loss = effect_of(facts.effects, "recurrent_loss")
    if loss is not None and loss.interval is not None and loss.interval.high < 0.0:
        meaning = "At this size and so few tokens the recurrence predicts better than attention."
    else:
        meaning = said(
            loss,
            "At equal parameters and tokens attention predicts better than a recurrence.",
            "At this size and so few tokens attention predicts no better than a recurrence.",
        )
    if (speed := effect_of(facts.effects, "recurrent_speed")) is not None and speed.verdict != "not measured":
        meaning += (
            " The recurrence, which takes one position after the other, falls behind as the context grows."
            if speed.seen
            else " Its speed holds on one core, which takes one product after the other anyway; the last column of the "
            "runs counts what a parallel machine would have to wait for."
        )
    runs = Table(
        "Runs on the same batches",
        ("model", "parameters", "tokens", "FLOPs a token", "loss, nats [95%]", "n", "products in a row"),
        "<>>>>>>",
        tuple(
            (
                NAMES.get(run.name, run.name),
                formatting.count(run.num_params),
                formatting.count(run.num_tokens),
                formatting.count(run.flops_per_token),
                formatting.decimal_interval(run.loss),
                counted(run.loss),
                formatting.count(run.products_in_a_row),
            )
            for run in facts.runs
        ),
    )
    speeds = Table(
        "Training tokens a second by context (median step)",
        ("context", *NAMES.values(), "ratio [95%]", "steps"),
        ">>>>>",
        tuple(
            (
                str(s.context),
                *(
                    formatting.count(round(x.value)) if (x := s.speeds.get(name)) else formatting.MISSING
                    for name in NAMES
                ),
                formatting.decimal_interval(s.ratio, 2),
                counted(s.ratio),
            )
            for s in facts.speeds
        ),
    )
    positions = Table(
        "Loss by tokens in sight (nats)",
        ("tokens in sight", *NAMES.values(), "LSTM − transformer [95%]", "n"),
        ">>>>>",
        tuple(
            (
                f"{p.first}–{p.last}" if p.last > p.first else str(p.first),
                *(formatting.decimal(x.value) if (x := p.losses.get(name)) else formatting.MISSING for name in NAMES),
                formatting.decimal_interval(p.gap, plus=True),
                counted(p.gap),
            )
            for p in facts.positions
        ),
    )
    return body(meaning, (runs, speeds, positions), facts.effects)


def moe_section(facts: MoeFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "moe_balance"),
        "Without the balancing loss a few experts take most of the tokens; with it the load is spread.",
        "The balancing loss made no clear difference to the load.",
    )
    if (special := effect_of(facts.effects, "moe_specialization")) is not None and special.seen:
        meaning += (
            " On the life's own text experts come to take the tokens of their own sources, though none is told which "
            "they are: sources differ in their words, and a router goes by words."
        )
    runs = Table(
        "Runs on facts",
        ("variant", "seed", "parameters", "loss, nats", "busiest expert", "load entropy", "specialisation"),
        "<>>>>>>",
        tuple(
            (
                VARIANT_NAMES.get(p.variant, p.variant),
                str(p.seed),
                formatting.count(p.num_params),
                formatting.decimal_interval(p.loss_interval) if p.loss_interval else formatting.decimal(p.loss),
                formatting.percent(p.max_share),
                formatting.decimal(p.entropy, 2),
                formatting.decimal(p.specialization, 3),
            )
            for p in facts.points
        ),
    )
    on_text = Table(
        "What the expert tells of the source, on the life's text (chance taken off; n windows)",
        (
            "variant",
            "layer",
            "bits [95%]",
            "of all there is [95%]",
            "chance",
            "n",
            "busiest",
            "entropy",
        ),
        "<>>>>>>>",
        tuple(
            (
                VARIANT_NAMES.get(one.variant, one.variant),
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
                VARIANT_NAMES.get(one.variant, one.variant),
                formatting.count(one.num_params),
                formatting.count(one.active_params),
                formatting.decimal_interval(one.loss),
                counted(one.loss),
            )
            for one in facts.on_text
        ),
    )
    return body(meaning, (runs, on_text, text_runs), facts.effects)
