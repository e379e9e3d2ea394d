"""Printing the advice on a life: what to build, what it costs, how sure that is, and what it stands on."""

from __future__ import annotations

import datetime
import json
import math
from typing import TYPE_CHECKING

import typer

from flows.commands.command import plain_table, wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from components.cost.life_plan import Design
    from flows.runs.life_advice import LifeAnswer, LifeAsk


def print_life(ask: LifeAsk, as_json: bool) -> None:
    """Answer and print; raises ConfigError for what cannot be asked."""
    from flows.runs.life_advice import answer_life
    from storage.home import Home

    answer = answer_life(Home.from_env(), ask)
    if as_json:
        typer.echo(json.dumps(answer.to_json(), indent=1))
        return
    console = wide_console()

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False)

    plan = answer.plan
    for note in plan.notes:
        show(note, "bold yellow")
    show(f"What to build for a loss of {plan.loss:.4f}", "bold")
    console.print(_table(plan.best, plan.compute_optimal))
    if plan.best.num_params != plan.compute_optimal.num_params:
        saving = f"{plan.saving:.0%} less than" if plan.saving >= 0.005 else "about as much as"
        show(f"Over its life it costs {saving} the compute-optimal model. {answer.even[0].upper()}{answer.even[1:]}.")
    else:
        show(f"{answer.even[0].upper()}{answer.even[1:]}.")
    day = answer.over_time.crossing_date(datetime.date.today())
    when = f" A service that starts today crosses on {day}." if day else ""
    verdict = answer.over_time.verdict()
    show(f"{verdict[0].upper()}{verdict[1:]}.{when}")
    show(_mixture(answer))
    if plan.outside:
        show(f"Beyond the law's runs: {plan.outside}.", "yellow")
    unsure = plan.uncertain
    show(
        f"\nThe life's dollars: {_usd(unsure.middle)}, 90% within {_usd(unsure.low)} to {_usd(unsure.high)} "
        f"({unsure.draws:,} quasi-random draws). What moves it, from 5% to 95% of each:"
    )
    table = plain_table("factor", "at 5%", "at 95%", "from", right=("at 5%", "at 95%"))
    for bar in unsure.tornado:
        table.add_row(bar.name, _usd(bar.at_low), _usd(bar.at_high), bar.why)
    console.print(table)
    if answer.api is not None:
        show(_api(answer))
    show("\nAssumed:")
    for line in answer.assumptions:
        show(f"- {line}")


def _usd(value: float) -> str:
    from dashboards import formatting

    return f"${value:,.0f}" if value >= 100 else formatting.dollars(value)


def _table(best: Design, reference: Design) -> Table:
    shown = [best] if best.num_params == reference.num_params else [best, reference]
    table = plain_table("", *(("cheapest life", "compute-optimal")[: len(shown)]))

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    row("parameters", *(f"{d.num_params / 1e9:.3g}B" for d in shown))
    row(
        "shape",
        *(
            f"d_model {d.config.d_model}, {d.config.num_layers} layers, {d.config.num_heads} heads "
            f"({d.config.kv_heads} kv), d_ff {d.config.hidden}, vocabulary {d.config.vocab_size:,}"
            for d in shown
        ),
    )
    row("training tokens", *(f"{d.tokens / 1e9:,.4g}B ({d.tokens / d.num_params:.3g} a parameter)" for d in shown))
    row("training", *(f"{d.devices} devices, {d.days:.3g} days, {_usd(d.training_usd)}" for d in shown))
    row(
        "serving",
        *(
            f"{d.serving.copies} x {d.serving.on.num_devices} devices in the busiest hour, {d.serving.mean_copies:.3g} "
            f"copies in the mean, up to {d.serving.batch} at a time"
            for d in shown
        ),
    )
    row(
        "latency",
        *(
            f"first token {d.serving.ttft:.3g} s (9 of 10, busiest hour), then {1000 * d.serving.tpot:.3g} ms a token"
            for d in shown
        ),
    )
    row(
        "serving dollars",
        *(
            f"on demand {_usd(d.serving.on_demand_usd)}"
            + ("" if d.serving.reserved_usd is None else f", reserved {_usd(d.serving.reserved_usd)}")
            for d in shown
        ),
    )
    for name, of in (("$/M tokens, as used", "used"), ("$/M, if always full", "busy")):
        prices = [getattr(d.serving, of) for d in shown]
        row(name, *(f"{one.input:.3g} read, {one.output:.3g} written" for one in prices))
    row("life", *(_usd(d.life_usd) for d in shown))
    return table


def _mixture(answer: LifeAnswer) -> str:
    from components.cost.mixture import LIMITS

    found = answer.mixture
    if found is None:
        return f"Dense or experts: no mixture of experts of that loss can be had so ({LIMITS})."
    made, moe = found.design, found.design.config.moe
    assert moe is not None
    how = (
        "about as much as"
        if abs(found.saving) < 0.01
        else f"{abs(found.saving):.0%} {'less' if found.saving > 0 else 'more'} than"
    )
    beyond = f" This one has {found.outside}." if found.outside else ""
    return (
        f"Dense or experts: a mixture of {moe.num_experts} experts, {found.active / 1e9:.3g}B of "
        f"{made.num_params / 1e9:.3g}B parameters a token, on the same tokens has that loss and costs {how} the dense "
        f"model over its life: {_usd(made.training_usd)} to train, {_usd(made.serving.usd)} to serve from "
        f"{made.serving.on.num_devices} devices a copy. By {LIMITS}.{beyond}"
    )


def _api(answer: LifeAnswer) -> str:
    api = answer.api
    assert api is not None
    pays = api.pays_from
    when = (
        "one's own never pays, at up to 1e10 requests a day"
        if math.isinf(pays)
        else "one's own pays from the first request on"
        if pays == 0
        else f"one's own pays from about {pays:,.0f} requests a day on"
    )
    return f"\nHosted {_usd(api.api_usd)}, one's own with its training {_usd(api.own_usd)} over the life: {when}."
