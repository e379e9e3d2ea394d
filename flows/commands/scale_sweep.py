"""`lifespan scale sweep` and `ledger`: train what a budget allows, forecast before training, score the forecasts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.commands.command import FAILED, INTERRUPTED, Overrides, exit_at_once
from flows.commands.scale_fits import AsJson, finite_or_none, print_json, told


def sweep(
    budget: Annotated[float, typer.Option(help="Training FLOPs of all runs together.")],
    profile: Annotated[str, typer.Argument(help="Profile whose [scaling] and [compute] count.")] = "laptop",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each size.")] = 1,
    ratio: Annotated[float, typer.Option(help="Training tokens per parameter of the longest read.")] = 20.0,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and train nothing.")] = False,
) -> None:
    """Plan a sweep from a compute budget, train it size by size, forecast each larger size before it is trained, fit.

    A run that was ended goes on from where it was; finished runs are reused by larger budgets that plan the same ones.
    """
    with told():
        from components.scaling.sweep_plan import FIRST, plan_sweep
        from flows.config import load_config

        cfg = load_config(profile, list(overrides or []))
        facts = cfg.scaling.facts
        plan = plan_sweep(budget, cfg.scaling.run, facts.vocab_size, seeds, ratio, cfg.seed)
        many = f", {seeds} trainings each" if seeds > 1 else ""
        typer.echo(f"{plan.flops:.3g} of {budget:.3g} FLOPs in {len(plan.rungs)} sizes{many}:")
        for place, rung in enumerate(plan.rungs):
            reads = ", ".join(f"{tokens:,}" for tokens in rung.config.checkpoints)
            told_first = "" if place < FIRST else "; forecast first"
            typer.echo(f"  d{rung.config.d_model}: N = {rung.num_params:,}, read after {reads} tokens{told_first}")
        if dry_run:
            return
        from rich.console import Console

        from flows.commands.run import print_ending
        from flows.sweep import run_sweep

        console = Console()
        result = run_sweep(cfg, plan, profile=profile, console=console)
        print_ending(result, console)
        if result.status == "completed":
            typer.echo("forecasts  lifespan scale ledger")
    exit_at_once({"completed": 0, "interrupted": INTERRUPTED}.get(result.status, FAILED))


def ledger(
    sweep: Annotated[str | None, typer.Option(help="Only of sweeps of that name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score every forecast of the home against what came: coverage, error, calibration; beside rivals without a law."""
    with told():
        from flows.runs.forecast_ledger import ledger as read
        from storage.home import Home

        found = read(Home.from_env(), sweep)
        if as_json:
            print_json([_plain(vars(line)) for line in found.lines])
            return
        if not found.lines:
            typer.echo("no forecast of this home has been scored yet; lifespan scale sweep makes some")
            return
        for one in found.forecasts:
            typer.echo(
                f"{one['sweep']}, {one['target']}: {one['predicted']:.4f} "
                f"[{one['low']:.4f}, {one['high']:.4f}] at {one['extrapolation']:.2g} times the compute; "
                f"then {one['observed']:.4f}, {'within' if one['inside'] else 'OUTSIDE'}"
            )
        for line in found.lines:
            typer.echo(line.words)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: finite_or_none(value) if isinstance(value, float) else value for name, value in row.items()}
