"""`lifespan costs`: what was paid, by run, stage, model, day or tag; and the ledger for other tools."""

from __future__ import annotations

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
