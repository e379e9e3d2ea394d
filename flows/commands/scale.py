"""`lifespan scale`: fit a scaling law to any table of runs, predict with it, and ask it for the best model."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import friendly_errors

if TYPE_CHECKING:
    from components.scaling.table_fit import TableFit

scale = typer.Typer(no_args_is_help=True, help="Scaling laws of any table of runs.")

_ROLE = "{}: a column, or COLUMN*1e6 for its unit; by default guessed from the names, and shown."
FitFile = Annotated[Path, typer.Argument(help="What `lifespan scale fit --output` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@scale.command("fit")
def fit(
    file: Annotated[Path | None, typer.Argument(help="A CSV or Parquet file; - reads standard input.")] = None,
    query: Annotated[str | None, typer.Option(metavar="SQL", help="Fit the result of a query instead.")] = None,
    law: Annotated[str, typer.Option(help="chinchilla, tied, gamma, kaplan, isoflop or envelope")] = "chinchilla",
    params: Annotated[str | None, typer.Option(metavar="COL", help=_ROLE.format("Parameters N"))] = None,
    tokens: Annotated[str | None, typer.Option(metavar="COL", help="Training tokens D.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="COL", help="Training FLOPs C.")] = None,
    loss: Annotated[str | None, typer.Option(metavar="COL", help="Loss.")] = None,
    run: Annotated[str | None, typer.Option(metavar="COL", help="Run that a row is a checkpoint of.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="COL", help="Nominal FLOPs, for isoflop.")] = None,
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
        str | None, typer.Option(metavar="NAME", help="Keep its coefficients in the table scaling_fits.")
    ] = None,
) -> None:
    """Fit a scaling law to a table of runs: N, D, C, loss, run, budget.

    What each column was taken for, which rows were left out, and what the table does not identify is told.
    """
    with _told():
        from components.scaling.fit_runs import FitOptions, fit_table
        from components.scaling.run_table import TableOptions, run_table
        from dashboards.figures.table_fit import FORMATS
        from storage.home import Home

        roles = {"params": params, "tokens": tokens, "flops": flops, "loss": loss, "run": run, "budget": budget}
        reading = TableOptions(
            columns={role: column for role, column in roles.items() if column is not None},
            where=tuple(where or ()),
            convention=_choice("convention", convention, ("total", "non_embedding", "active", "flops_per_token")),
            flops=_choice("flops-by", flops_by, ("6nd", "exact")),
            loss_unit=_choice("loss-unit", loss_unit, ("nats", "bits", "perplexity")),
        )
        options: Any = {"law": law, "frontier": frontier, "method": intervals}  # texts, which FitOptions checks
        wanted = FitOptions(**options, delta=delta, resamples=resamples, confidence=confidence, seed=seed, as_is=as_is)
        if plot is not None and plot.suffix.lower() not in FORMATS:
            raise ValueError(f"--plot {plot}: a figure's file ends in {', '.join(FORMATS)}")
        if save is not None:
            from flows.runs.saved_fits import check_name

            check_name(save)
        cells, source = _cells(file, query)
        fitted = fit_table(run_table(cells, source, reading), wanted)
        _print_fit(fitted)
        if output is not None:
            _write(output, json.dumps(fitted.to_json(), allow_nan=False, indent=1))
        if plot is not None:
            from dashboards.figures.table_fit import save_figure

            save_figure(fitted, plot)
        if save is not None:
            from flows.runs.saved_fits import save_fit

            save_fit(Home.from_env(), save, fitted)


@scale.command("predict")
def predict(
    file: FitFile,
    params: Annotated[float, typer.Option(help="N, counted as the fitted table counts it.")],
    tokens: Annotated[float, typer.Option(help="Training tokens D.")],
    as_json: AsJson = False,
) -> None:
    """Predict the loss of a model, with its interval and how far it extrapolates."""
    with _told():
        from components.scaling.table_fit import predict

        fitted = _read_fit(file)
        found = predict(fitted, params, tokens)
        if as_json:
            _print_json(
                {
                    "params": params,
                    "tokens": tokens,
                    "loss": _interval(found.law),
                    "new_run": {"low": _finite(found.low), "high": _finite(found.high)},
                    "reach": list(found.reach),
                }
            )
            return
        typer.echo(f"loss of N = {params:.4g} ({_convention(fitted)}), D = {tokens:.4g}, by the law {fitted.law}:")
        sure = f"{fitted.confidence:.0%}"
        typer.echo(f"  {found.law.value:.4f} nats per token; {sure} interval of the mean {_range(found.law, '.4f')}")
        low, high = ("unbounded" if _finite(x) is None else f"{x:.4f}" for x in (found.low, found.high))
        typer.echo(f"  {sure} of new runs within [{low}, {high}], their own noise included")
        for words in found.reach:
            typer.echo(f"  {words}")


@scale.command("optimum")
def optimum(
    file: FitFile,
    flops: Annotated[float | None, typer.Option(help="Training budget C.")] = None,
    loss: Annotated[float | None, typer.Option(help="Loss to reach, with --tokens-served.")] = None,
    tokens_served: Annotated[
        float | None, typer.Option(help="Tokens to serve over the lifetime: least training plus serving FLOPs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The best N and D for a training budget; with tokens to serve, the cheapest life of equal loss."""
    with _told():
        from components.scaling.table_fit import best_at_budget, best_when_served, reach_words

        fitted = _read_fit(file)
        if (flops is None) == (loss is None):
            raise ValueError("give one of --flops (a training budget) and --loss (a target)")
        best = best_at_budget(fitted, flops) if flops is not None else {}
        target = loss if loss is not None else best["loss"].value if "loss" in best else None
        told: dict[str, Any] = {"flops": flops, "best": {name: _interval(value) for name, value in best.items()}}
        lines = []
        if best:
            lines.append(f"compute-optimal at C = {flops:.4g} FLOPs, by the law {fitted.law}:")
            lines += [f"  {name:16} {value.value:.4g}  {_range(value, '.3g')}" for name, value in best.items()]
            lines += [f"  {w}" for w in reach_words(fitted, best["params"].value, best["tokens"].value)]
        if tokens_served is not None or loss is not None:
            if target is None:
                raise ValueError(f"the law {fitted.law} knows no loss to hold while serving: fit chinchilla or another")
            life, served = best_when_served(fitted, target, tokens_served or 0.0)
            told["served"] = {
                "tokens_served": tokens_served or 0.0,
                "loss": target,
                **{name: _interval(value) for name, value in served.items()},
                "lifetime_flops": life.cost,
                "compute_optimal_params": life.compute_optimal_params,
                "compute_optimal_tokens": life.compute_optimal_tokens,
                "compute_optimal_lifetime_flops": life.compute_optimal_cost,
                "saving": life.saving,
            }
            lines.append(f"cheapest life at a loss of {target:.4f} with {tokens_served or 0:.4g} tokens served:")
            lines += [f"  {name:16} {value.value:.4g}  {_range(value, '.3g')}" for name, value in served.items()]
            lines.append(f"  lifetime FLOPs   {life.cost:.4g}, {life.saving:.1%} less than the compute-optimal model's")
            lines += [f"  {w}" for w in reach_words(fitted, life.num_params, life.tokens)]
        if as_json:
            _print_json(told)
        else:
            typer.echo("\n".join(lines))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Mistakes in the table, the file or the options end in one line, with the code of bad input."""
    from flows.settings import ConfigError

    with friendly_errors():
        try:
            yield
        except (ValueError, OverflowError) as error:
            raise ConfigError(str(error)) from None


def _choice(option: str, value: str | None, known: tuple[str, ...]) -> Any:
    if value is None:
        return None
    if (written := value.lower().replace("-", "_")) not in known:
        raise ValueError(f"--{option} {value!r} is none of {', '.join(k.replace('_', '-') for k in known)}")
    return written


def _cells(file: Path | None, query: str | None) -> tuple[dict[str, list[Any]], str]:
    from components.scaling.run_table import arrow_cells, read_bytes, read_file

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


def _read_fit(file: Path) -> TableFit:
    from components.scaling.table_fit import TableFit

    try:
        return TableFit.from_json(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:  # JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{file}: {error}") from None


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    from storage.durable import replacing

    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _print_fit(fitted: TableFit) -> None:
    from components.scaling.law_forms import FORMULAS, FRONTIER_LAWS
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
        low, high = ("–" if _finite(x) is None else f"{x:.4g}" for x in (c.low, c.high))
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
    for row, reason in fitted.left_out[:10]:
        show(f"row {row} left out: {reason}", "yellow")
    if len(fitted.left_out) > 10:
        show(f"{len(fitted.left_out) - 10} more rows left out; --output names them all", "yellow")
    for warning in fitted.warnings:
        show(f"warning: {warning}", "yellow")


def _convention(fitted: TableFit) -> str:
    return fitted.convention.replace("_", " ")


def _finite(value: float) -> float | None:
    from storage.json_values import finite

    return finite(value)


def _interval(value: Any) -> dict[str, Any]:
    return {"value": _finite(value.value), "low": _finite(value.low), "high": _finite(value.high)}


def _range(value: Any, form: str) -> str:
    low, high = ("unbounded" if _finite(x) is None else format(x, form) for x in (value.low, value.high))
    return f"[{low}, {high}]"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, allow_nan=False))
