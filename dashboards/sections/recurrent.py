"""Section on the recurrent net beside the transformer."""

from __future__ import annotations

from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, counted, effect_of, said
from dashboards.facts.recurrent import RecurrentFacts


def recurrent_section(facts: RecurrentFacts) -> Section:
    """Loss and speed of an LSTM beside a transformer of the same size."""
    loss = effect_of(facts.effects, "recurrent_loss")
    if loss is not None and loss.interval is not None and loss.interval.high < 0.0:
        meaning = "At this size and with so few tokens the recurrence predicts better than attention."
    else:
        meaning = said(
            loss,
            "At equal parameters and tokens attention predicts better than a recurrence.",
            "At this size and with so few tokens attention predicts no better than a recurrence.",
        )
    if (speed := effect_of(facts.effects, "recurrent_speed")) is not None and speed.verdict != "not measured":
        meaning += (
            " The recurrence, which takes one position after another, falls behind as the context grows."
            if speed.seen
            else " Its speed holds on one core, which computes one product after another anyway; the last column of "
            "the runs counts the products that a parallel machine could not overlap."
        )
    runs = Table(
        "Runs on the same batches",
        ("model", "parameters", "tokens", "FLOPs per token", "loss, nats [95%]", "n", "sequential products"),
        "<>>>>>>",
        tuple(
            (
                labels.label(labels.ARCHITECTURES, run.name),
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
        "Training tokens per second by context (median step)",
        ("context", *labels.ARCHITECTURES.values(), "ratio [95%]", "steps"),
        ">>>>>",
        tuple(
            (
                str(s.context),
                *(
                    formatting.count(round(x.value)) if (x := s.speeds.get(name)) else formatting.MISSING
                    for name in labels.ARCHITECTURES
                ),
                formatting.decimal_interval(s.ratio, 2),
                counted(s.ratio),
            )
            for s in facts.speeds
        ),
        folded=True,
    )
    positions = Table(
        "Loss by tokens in sight (nats)",
        ("tokens in sight", *labels.ARCHITECTURES.values(), "LSTM − transformer [95%]", "n"),
        ">>>>>",
        tuple(
            (
                f"{p.first}–{p.last}" if p.last > p.first else str(p.first),
                *(
                    formatting.decimal(x.value) if (x := p.losses.get(name)) else formatting.MISSING
                    for name in labels.ARCHITECTURES
                ),
                formatting.decimal_interval(p.gap, plus=True),
                counted(p.gap),
            )
            for p in facts.positions
        ),
        folded=True,
    )
    return body(meaning, (runs, speeds, positions), facts.effects)
