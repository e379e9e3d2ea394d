"""`lifespan annotate`: the page on which people judge answers, its annotators, and what they agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import friendly_errors, plain_table, wide_console
from flows.commands.preferences import print_rejected
from flows.services.sockets import LOOPBACK

PORT = 8230
annotate = typer.Typer(help="Rank answers on a web page: open it, manage annotators, see how they agree.")


@annotate.callback(invoke_without_command=True)
def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can reach it.")] = (
        LOOPBACK
    ),
    port: Annotated[int, typer.Option(min=0, max=65535)] = PORT,
    instructions: Annotated[
        Path | None, typer.Option(help="Text file with your own instructions for annotators.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name by which browsers may call this server; may be repeated.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Serve the page until Ctrl-C."""
    if ctx.invoked_subcommand is not None:
        return
    with friendly_errors():
        from flows.services.annotation_server import serve_annotation
        from storage.home import Home

        fallback = port == PORT
        serve_annotation(Home.from_env(), host, port, fallback, instructions, allow_host or [], open_page, typer.echo)


@annotate.command()
def add(name: str) -> None:
    """Add an annotator and print their token once."""
    with friendly_errors():
        from storage.home import Home

        token = Home.from_env().annotations.add(name)
        typer.echo(f"{name}'s token, shown only once: {token}")


@annotate.command()
def remove(name: str) -> None:
    """Revoke an annotator's token; their judgements stay."""
    with friendly_errors():
        from storage.home import Home

        Home.from_env().annotations.remove(name)
        typer.echo(f"{name} may no longer annotate; their judgements stay")


@annotate.command("list")
def list_annotators() -> None:
    """List the annotators, and the progress of each batch."""
    with friendly_errors():
        from components.rlhf.judgements import Item, Judgement, progress
        from storage.home import Home

        annotations = Home.from_env().annotations
        for one in annotations.annotators():
            since = f"removed {one.removed_at[:10]}" if one.removed_at else f"since {one.added_at[:10]}"
            typer.echo(f"{one.name}  {since}")
        for batch in annotations.batches():
            judgements = [Judgement.from_json(line) for line in annotations.judgements(batch["batch"])]
            done = progress([Item.from_json(item) for item in batch["items"]], judgements, batch["overlap"])
            who = ", ".join(f"{name} {count}" for name, count in sorted(done.by_annotator.items()))
            typer.echo(f"{batch['title']}: {done.done} of {done.wanted} judgements{': ' + who if who else ''}")
        if not annotations.annotators():
            typer.echo("no annotators yet: lifespan annotate add NAME")


@annotate.command()
def load(
    file: Path,
    overlap: Annotated[int, typer.Option(min=1, help="Number of annotators for each prompt.")] = 2,
) -> None:
    """Let people judge your own answers: JSONL or Parquet, {"prompt", "answers": [text, or {"text", "model"}]}."""
    with friendly_errors():
        from flows.runs.preference_files import publish_answers
        from storage.home import Home

        prompts, rejected = publish_answers(Home.from_env(), file, overlap)
        typer.echo(f"{prompts} prompts for {overlap} annotators each; {len(rejected)} lines rejected")
        print_rejected(rejected)


@annotate.command()
def report() -> None:
    """Show how annotators agree, how long they take, whether position sways them, and which model they prefer."""
    with friendly_errors():
        from rich.text import Text

        from dashboards.annotate.report import people_tables
        from dashboards.annotate.table import write_judgements
        from dashboards.facts.people import people_facts
        from storage.home import Home

        home = Home.from_env()
        write_judgements(home)
        facts = people_facts(home.tables.read("judgements").to_pylist())
        if facts is None:
            typer.echo("no judgements yet: `lifespan annotate` opens the page")
            return
        console = wide_console(160)
        for table in people_tables(facts):
            right = tuple(name for name, side in zip(table.columns, table.align, strict=True) if side == ">")
            shown = plain_table(*table.columns, right=right, title=table.title)
            for row in table.rows:
                shown.add_row(*map(Text, row))
            console.print(shown)
            console.print()
