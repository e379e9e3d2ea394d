"""`lifespan scale`: fit a scaling law to any table of runs, predict with it, and ask it for the best model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.scale_fits import (
    AsJson,
    FitFile,
    convention_words,
    finite_or_none,
    given,
    interval_json,
    print_json,
    range_words,
    read_fit,
    told,
    write_whole,
)
from flows.commands.scale_optimum import optimum
from flows.commands.scale_plot import plot
from flows.commands.scale_sweep import ledger, sweep

if TYPE_CHECKING:
    from components.scaling.table_fit import TableFit

scale = typer.Typer(no_args_is_help=True, help="Scaling laws of any table of runs.")
scale.command("optimum")(optimum)
scale.command("plot")(plot)
scale.command("sweep")(sweep)
scale.command("ledger")(ledger)

_ROLE = "{}: a column, or COLUMN*1e6 for its unit; by default guessed from the names, and shown."


@scale.command("fit")
def fit(
    file: Annotated[
        Path | None, typer.Argument(help="A CSV, JSON or Parquet file, gzipped or not; - is standard input.")
    ] = None,
    query: Annotated[str | None, typer.Option(metavar="SQL", help="Fit the result of a query instead.")] = None,
    law: Annotated[
        str, typer.Option(help="chinchilla, tied, gamma, kaplan, isoflop, envelope, or another of docs/scaling.md.")
    ] = "chinchilla",
    params: Annotated[str | None, typer.Option(metavar="COL", help=_ROLE.format("Parameters N"))] = None,
    tokens: Annotated[str | None, typer.Option(metavar="COL", help="Training tokens D.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="COL", help="Training FLOPs C.")] = None,
    loss: Annotated[str | None, typer.Option(metavar="COL", help="Loss.")] = None,
    run: Annotated[str | None, typer.Option(metavar="COL", help="Run that a row is a checkpoint of.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="COL", help="Nominal FLOPs, for isoflop.")] = None,
    unique: Annotated[str | None, typer.Option(metavar="COL", help="Unique tokens, for repeated.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="COL", help="Or epochs: tokens / unique.")] = None,
    experts: Annotated[str | None, typer.Option(metavar="COL", help="Experts a layer, for routed.")] = None,
    granularity: Annotated[str | None, typer.Option(metavar="COL", help="Of experts, for granularity.")] = None,
    sparsity: Annotated[str | None, typer.Option(metavar="COL", help="Idle share of N, for sparsity.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="COL", help="Optimizer steps, for kaplan-steps.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="COL", help="Tokens of a batch, for kaplan-batch.")] = None,
    accuracy: Annotated[str | None, typer.Option(metavar="COL", help="Share right, for downstream.")] = None,
    bytes_per_token: Annotated[
        str | None, typer.Option(metavar="COL", help="Of each row's tokenizer: fit bits per byte.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COL<=X", help="Only such rows; also <, >=, >, =, !=. May be repeated.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="What N counts: total, non-embedding, active or flops-per-token.")
    ] = None,
    flops_by: Annotated[
        str | None, typer.Option(help="6nd, or exact: as in the column. By default the column, where there is one.")
    ] = None,
    loss_unit: Annotated[str | None, typer.Option(help="nats, bits or perplexity; by default nats per token.")] = None,
    frontier: Annotated[
        str, typer.Option(help="all rows, the best of each N and D, or a penalty on predictions above the loss.")
    ] = "all",
    delta: Annotated[float, typer.Option(min=1e-6, help="Huber's delta on log loss.")] = 1e-3,
    intervals: Annotated[str, typer.Option(help="auto, posterior, bootstrap (over runs) or none")] = "auto",
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    as_is: Annotated[bool, typer.Option("--as-is", help="Fit even where the table looks wrong.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the fit as JSON.", dir_okay=False)] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.", dir_okay=False)] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Keep its coefficients in the table scaling_fits; where a home is, under the file's name.",
        ),
    ] = None,
) -> None:
    """Fit a scaling law to a table of runs: N, D, C, loss, run, budget.

    What each column was taken for, which rows were left out, and what the table does not identify is told.
    """
    with told():
        from components.scaling.fit_runs import fit_table
        from components.scaling.law_fitters import FitOptions
        from components.scaling.law_forms import NEEDS
        from components.scaling.run_table import TableOptions, run_table
        from dashboards.figures.table_fit import FORMATS
        from storage.home import Home

        roles = {"params": params, "tokens": tokens, "flops": flops, "loss": loss, "run": run, "budget": budget}
        roles |= {"unique": unique, "epochs": epochs, "experts": experts, "granularity": granularity}
        roles |= {"sparsity": sparsity, "steps": steps, "batch": batch, "accuracy": accuracy}
        roles |= {"bytes_per_token": bytes_per_token}
        options: Any = {"law": law, "frontier": frontier, "method": intervals}  # texts, which FitOptions checks
        wanted = FitOptions(**options, delta=delta, resamples=resamples, confidence=confidence, seed=seed, as_is=as_is)
        reading = TableOptions(
            needs=NEEDS[wanted.law],
            columns={role: column for role, column in roles.items() if column is not None},
            where=tuple(where or ()),
            convention=_choice("convention", convention, ("total", "non_embedding", "active", "flops_per_token")),
            flops=_choice("flops-by", flops_by, ("6nd", "exact")),
            loss_unit=_choice("loss-unit", loss_unit, ("nats", "bits", "perplexity")),
        )
        if plot is not None and plot.suffix.lower() not in FORMATS:
            raise ValueError(f"--plot {plot}: a figure's file ends in {', '.join(FORMATS)}")
        if save is not None:
            from flows.runs.saved_fits import check_name

            check_name(save)
        cells, source = _cells(file, query)
        fitted = fit_table(run_table(cells, source, reading), wanted)
        _print_fit(fitted)
        if output is not None:
            write_whole(output, json.dumps(fitted.to_json(), allow_nan=False, indent=1))
        if plot is not None:
            from dashboards.figures.table_fit import save_figure

            save_figure(fitted, plot)
        from flows.runs.saved_fits import has_tables, name_of, save_fit

        home = Home.from_env()
        if save is not None or has_tables(home):
            name = save or name_of(fitted.source)
            save_fit(home, name, fitted)
            typer.echo(f"kept in scaling_fits of {home.shown} as {name}")


@scale.command("predict")
def predict(
    file: FitFile,
    params: Annotated[float | None, typer.Option(help="N, counted as the fitted table counts it.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Training tokens D.")] = None,
    unique: Annotated[float | None, typer.Option(help="Unique tokens among them.")] = None,
    experts: Annotated[float | None, typer.Option(help="Experts a layer.")] = None,
    granularity: Annotated[float | None, typer.Option(help="Of experts.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Idle share of N.")] = None,
    steps: Annotated[float | None, typer.Option(help="Optimizer steps.")] = None,
    batch: Annotated[float | None, typer.Option(help="Tokens of a batch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the loss of a model, with its interval and how far it extrapolates."""
    with told():
        from components.scaling.formula_optimum import dense_equal
        from components.scaling.table_fit import predict

        fitted = read_fit(file)
        at = given(
            params=params, tokens=tokens, unique=unique, experts=experts, granularity=granularity,
            sparsity=sparsity, steps=steps, batch=batch,
        )  # fmt: skip
        found = predict(fitted, at)
        dense = float(dense_equal(fitted.values, at["params"], at["experts"])) if fitted.law == "routed" else None
        accuracy = found.accuracy
        if as_json:
            told_json: dict[str, Any] = {
                **at,
                "loss": interval_json(found.law),
                "unit": fitted.loss_unit,
                "new_run": {"low": finite_or_none(found.low), "high": finite_or_none(found.high)},
                "reach": list(found.reach),
            }
            if dense is not None:
                told_json["dense_params_of_equal_loss"] = dense
            if accuracy is not None and found.accuracy_of_runs is not None:
                low, high = found.accuracy_of_runs
                told_json["accuracy"] = {**interval_json(accuracy), "new_run": {"low": low, "high": high}}
            print_json(told_json)
            return
        told_at = ", ".join(f"{_SYMBOLS.get(name, name)} = {value:.4g}" for name, value in at.items())
        typer.echo(f"loss of {told_at} (N counts {convention_words(fitted)}), by the law {fitted.law}:")
        sure = f"{fitted.confidence:.0%}"
        typer.echo(
            f"  {found.law.value:.4f} {fitted.loss_unit}; {sure} interval of the mean {range_words(found.law, '.4f')}"
        )
        ends = ("unbounded" if finite_or_none(x) is None else f"{x:.4f}" for x in (found.low, found.high))
        typer.echo(f"  {sure} of new runs within [{', '.join(ends)}], their own noise included")
        if accuracy is not None and found.accuracy_of_runs is not None:
            of_runs = ", ".join(f"{x:.1%}" for x in found.accuracy_of_runs)
            typer.echo(
                f"  accuracy {accuracy.value:.1%}; {sure} interval of the mean {range_words(accuracy, '.1%')}; "
                f"{sure} of new runs within [{of_runs}]"
            )
        if dense is not None:
            typer.echo(f"  a dense model of {dense:.4g} parameters has that loss")
        for words in found.reach:
            typer.echo(f"  {words}")


_SYMBOLS = {"params": "N", "tokens": "D"}


def _choice(option: str, value: str | None, known: tuple[str, ...]) -> Any:
    if value is None:
        return None
    if (written := value.lower().replace("-", "_")) not in known:
        raise ValueError(f"--{option} {value!r} is none of {', '.join(k.replace('_', '-') for k in known)}")
    return written


def _cells(file: Path | None, query: str | None) -> tuple[dict[str, list[Any]], str]:
    from components.scaling.run_files import arrow_cells, read_bytes, read_file

    if (file is None) == (query is None):
        raise ValueError("give one of FILE (a CSV or Parquet file, or - for standard input) and --query SQL")
    if query is not None:
        from storage.home import Home
        from storage.queries import query as run_query

        return arrow_cells(run_query(Home.from_env(), query), "the query"), "the query"
    assert file is not None
    if str(file) == "-":
        return read_bytes(sys.stdin.buffer.read(), "standard input"), "standard input"
    return read_file(file), str(file)


def _print_fit(fitted: TableFit) -> None:
    from components.scaling.law_forms import FORMULAS, FRONTIER_LAWS
    from components.scaling.run_table import rows_text
    from flows.commands.command import plain_table, wide_console

    console = wide_console()

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    show(f"{fitted.source}: {'; '.join(fitted.shown)}")
    show(FORMULAS[fitted.law], "bold")
    sure = f"{fitted.confidence:.0%}"
    table = plain_table("", "value", f"{sure} low", f"{sure} high", "", right=("value", f"{sure} low", f"{sure} high"))
    for name, c in fitted.coefficients.items():
        note = "not identified" if name in fitted.unidentified else ""
        low, high = ("–" if finite_or_none(x) is None else f"{x:.4g}" for x in (c.low, c.high))
        table.add_row(name, f"{c.value:.4g}", low, high, note)
    console.print(table)
    show(f"{fitted.num_points} points of {fitted.num_runs} runs; intervals: {fitted.method}")
    if fitted.law in FRONTIER_LAWS:
        show(f"line through {len(fitted.optima)} optima, R² {fitted.r_squared:.4f}")
    else:
        show(
            f"R² {fitted.r_squared:.4f}; objective {fitted.objective:.6g}; {fitted.share_of_starts:.0%} of the starts "
            f"reach it; scaled gradient {fitted.gradient:.1e}"
        )
    reasons: dict[str, list[int]] = {}
    for row, reason in fitted.left_out:
        reasons.setdefault(reason, []).append(row)
    for reason, rows in list(reasons.items())[:10]:
        show(f"{rows_text(rows)} left out: {reason}", "yellow")
    if more := sum(map(len, list(reasons.values())[10:])):
        show(f"{more} more rows left out; --output names them all", "yellow")
    for warning in fitted.warnings:
        show(f"warning: {warning}", "yellow")
