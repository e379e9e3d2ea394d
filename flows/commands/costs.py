"""`lifespan costs`: what was paid, by run, stage, model, day or tag; and the ledger for other tools."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import friendly_errors, plain_table, wide_console

costs = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was paid: show it, export it.")
BY = ("run", "stage", "model", "day", "tag")


@costs.command("show")
def show(by: Annotated[str, typer.Option(help=f"What to sum over: {', '.join(BY)}.")] = "run") -> None:
    """Show dollars and what they went to."""
    with friendly_errors():
        from flows.settings import ConfigError, nearest
        from storage.home import Home
        from storage.named import answer

        if by not in BY:
            raise ConfigError(f"--by {by}{nearest(by, BY)} It takes: {', '.join(BY)}")
        rows = answer(Home.from_env(), f"cost_by_{by}")
        if not rows:
            raise ConfigError(f"nothing was booked {'to a tag' if by == 'tag' else 'yet'}: `lifespan run` books costs")
        numbers = tuple(
            name for name in rows[0] if isinstance(next((r[name] for r in rows if r[name]), 0), int | float)
        )
        table = plain_table(*rows[0], right=numbers)
        for row in rows:
            table.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in row.values()))
        wide_console().print(table)


@costs.command("layout")
def layout(
    model: Annotated[
        str, typer.Argument(help="A public model, such as llama-2-70b; an unknown name lists the nearest.")
    ],
    devices: Annotated[int, typer.Option(min=1, help="Devices that train together.")] = 512,
    hardware: Annotated[str, typer.Option(help="Their name in the catalogue.")] = "h100-sxm",
    tokens: Annotated[float, typer.Option(help="Tokens to train on; 0: as many as the model was.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a step, all devices together.")] = 1024,
    context: Annotated[int, typer.Option(min=16, help="Tokens of a sequence.")] = 4096,
    network: Annotated[float, typer.Option(help="GB/s that a device sends between nodes.")] = 50.0,
    storage: Annotated[float, typer.Option(help="GB/s at which the store takes a checkpoint.")] = 20.0,
    preemptions: Annotated[float, typer.Option(help="Of spot devices: per device and day.")] = 0.0,
    price: Annotated[str, typer.Option(help="Commitment or provider, as of `lifespan advise`.")] = "",
    show: Annotated[int, typer.Option(min=1, help="Layouts to show.")] = 5,
) -> None:
    """Plan a large training on paper: memory, traffic, failures and dollars of the fastest layouts."""
    with friendly_errors():
        from components.cost.hardware import find_hardware
        from components.cost.layouts import Training, best_layouts
        from components.cost.prices import find_price
        from components.cost.public_models import find_model
        from components.cost.scale_report import layout_rows, training_lines
        from flows.settings import ConfigError

        try:
            public = find_model(model)
            if not 0 <= tokens < math.inf:
                raise ValueError(f"--tokens is {tokens:g}: takes a finite number above 0, or 0 for the model's own")
            if not (count := tokens or public.train_tokens):
                raise ValueError(f"how many tokens {model} was trained on is not published: give --tokens")
            for option, rate in (("network", network), ("storage", storage)):
                if not 0 < rate < math.inf:
                    raise ValueError(f"--{option} is {rate:g}: takes a finite rate above 0")
            if not 0 <= preemptions < math.inf:
                raise ValueError(f"--preemptions is {preemptions:g}: takes a finite number of at least 0")
            plan = Training(public.config, find_hardware(hardware), float(batch) * context, context, 8, network * 1e9)
            found = best_layouts(plan, devices)[:show]
            hourly = find_price(hardware, wanted=price).usd_per_hour
        except ValueError as error:
            raise ConfigError(str(error)) from None
        rows = layout_rows(plan, found)
        table = plain_table(*rows[0], right=tuple(rows[0])[1:])
        for row in rows:
            table.add_row(*row.values())
        wide_console().print(table)
        for line in training_lines(plan, found[0], count, hourly, storage * 1e9, preemptions / 24):
            typer.echo(line)


@costs.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file.")],
    layout: Annotated[str, typer.Option("--format", help="focus: the columns of FOCUS 1.2.")] = "focus",
) -> None:
    """Write the ledger, waste included, for FinOps tools."""
    with friendly_errors():
        import pyarrow as pa
        import pyarrow.csv as pacsv
        import pyarrow.parquet as pq

        from components.cost.focus import focus_rows
        from components.cost.hardware import hardware_catalogue
        from flows.settings import ConfigError
        from storage.durable import replacing
        from storage.home import Home
        from storage.queries import query

        if layout != "focus":
            raise ConfigError(f"--format {layout}: takes focus")
        if file.suffix not in (".csv", ".parquet"):
            raise ConfigError(f"{file}: takes a name that ends in .csv or .parquet")
        home = Home.from_env()
        ledger = query(home, "SELECT * FROM ledger ORDER BY ended_at, run_id, label, outcome").to_pylist()
        tags: dict[str, dict[str, str]] = {}
        for row in query(home, "FROM run_tags").to_pylist():
            tags.setdefault(row["run_id"], {})[row["tag"]] = row["value"]
        rows = list(focus_rows(ledger, tags, {device.name: device.kind for device in hardware_catalogue()}))
        if not rows:
            raise ConfigError("nothing was booked yet: `lifespan run` books costs")
        table = pa.Table.from_pylist(rows)
        with replacing(file) as out:
            if file.suffix == ".csv":
                pacsv.write_csv(table, out)
            else:
                pq.write_table(table, out)
        undated = len(ledger) - len(rows)
        left = f"; {undated} of an older version have no date and are left out" if undated else ""
        typer.echo(f"{file}: {len(rows)} charges, {sum(row['BilledCost'] for row in rows):.6g} USD{left}")
