"""`lifespan plan`: which stages are cached, why the others will run, and what training them takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import Only, Overrides, Profile, friendly_errors, plain_table, wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from components.cost.estimating import RunEstimate
    from flows.config import RunConfig
    from flows.engine.graph import Graph

BASES = {"past": "as before", "alike": "scaled from an earlier one", "stated": "never made here: as its author states"}


def plan(
    profile: Profile = "laptop",
    overrides: Overrides = None,
    only: Only = None,
    cost: Annotated[bool, typer.Option("--cost", help="Estimate each stage's time, memory and dollars.")] = False,
) -> None:
    """Show for every stage whether it is cached, or why it will run; and what its training takes of memory."""
    with friendly_errors():
        from rich.text import Text

        from flows.config import load_config
        from flows.engine.device import check_hardware
        from flows.engine.plan import plan as make_plan
        from flows.engine.plan import totals
        from flows.lifecycle import life
        from storage.home import Home

        home = Home.from_env()
        cfg = load_config(profile, overrides or [])
        check_hardware(cfg.compute)
        graph = life(cfg, home, only)
        if cost:
            from flows.runs.budget import estimate

            _print_estimate(estimate(graph, home, cfg.compute), cfg, len(graph.nodes))
            return
        steps = make_plan(graph, home)
        table = plain_table("part", "stage", "", "because")
        for column in table.columns[:2]:
            column.no_wrap = True
        group = ""
        for step in steps:
            state = Text("cached", "blue") if step.cached else Text("will run", "yellow")
            shown = step.group if step.group != group else ""
            table.add_row(shown, Text(step.label), state, Text("\n".join(step.reasons)))
            group = step.group
        console = wide_console()
        console.print(table)
        console.print(", ".join(f"{n} {what}" for what, n in totals(steps).items()), highlight=False)
        if (needs := resources_table(cfg, graph)) is not None:
            console.print()
            console.print(needs)


def _print_estimate(made: RunEstimate, cfg: RunConfig, stages: int) -> None:
    from dashboards import formatting
    from flows.runs.budget import check_budget
    from flows.settings import ConfigError

    numbers = ("seconds", "device seconds", "memory", "dollars", "range")
    table = plain_table("stage", *numbers, "estimated", right=numbers)
    for one in made.stages:
        memory = formatting.MISSING if one.memory_bytes is None else f"{one.memory_bytes / 1e9:.2f} GB"
        ends = f"{formatting.dollars(one.low_usd)} to {formatting.dollars(one.high_usd)}"
        seconds = (f"{one.seconds:.1f}", f"{one.device_seconds:.1f}")
        table.add_row(one.label, *seconds, memory, formatting.dollars(one.usd), ends, BASES[one.basis])
    console = wide_console()
    console.print(table)
    ends = f"{formatting.dollars(made.low_usd)} to {formatting.dollars(made.high_usd)}"
    price = f"{cfg.compute.hardware} at {cfg.compute.usd_per_core_hour:g} $/h (compute.usd_per_core_hour)"
    typer.echo(
        f"{len(made.stages)} of {stages} stages will run, the others are cached: {formatting.dollars(made.usd)} "
        f"({ends}) on {price}, {60 * made.hours:.3g} minutes ({60 * made.low_hours:.3g} to "
        f"{60 * made.high_hours:.3g}) with {cfg.compute.counted().workers} workers"
    )
    try:
        check_budget(made, cfg.budget)
    except ConfigError as error:
        typer.echo(str(error))
    else:
        if cfg.budget.max_usd or cfg.budget.max_hours:
            typer.echo("within the budget")


def resources_table(cfg: RunConfig, graph: Graph) -> Table | None:
    """Memory of every training as predicted from its settings, and on an accelerator its time; None where nothing of a
    known size is trained."""
    from components.cost.hardware import find_hardware
    from flows.lifecycle import trained_model
    from flows.resources import predicted_memory, predicted_seconds

    model, device = trained_model(cfg), cfg.compute.device
    memory = predicted_memory(graph, model, device)
    if model is None or not memory:
        return None
    on = find_hardware(cfg.compute.hardware)
    timed = on.kind != "cpu"
    columns = ("weights", "gradients", "optimizer", "snapshot", "activations", "at its peak")
    words = ("training, GB", *columns, *([f"hours on {on.name}"] if timed else []))
    table = plain_table(*words, right=words[1:])
    for label, one in memory.items():
        parts = (one.frozen + one.weights, one.gradients, one.optimizer, one.snapshot, one.activations + one.loss)
        peak = one.total if device == "cpu" else one.device
        node = graph.nodes[label]
        seconds = predicted_seconds(node.stage.name, node.bound.settings, model, on) if timed else None
        hours = [] if not timed else ["" if seconds is None else f"{seconds / 3600:.2f}"]
        table.add_row(label, *(f"{x / 1e9:.3g}" for x in (*parts, peak)), *hours)
    return table
