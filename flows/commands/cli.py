"""The command line, `lifespan`.

Everything heavy is imported inside the commands, so that `lifespan --help` and mistakes answer at once. Exit codes:
0 done, 1 failed, 2 bad input, 3 waits for people, 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.annotate import annotate, preferences
from flows.commands.command import FAILED, INTERRUPTED, WAITS, Overrides, Profile, complain, leave, told_plainly
from flows.commands.operations import operations, schedule
from flows.commands.replicate import replicate

if TYPE_CHECKING:
    from rich.console import Console

    from flows.runs.run import RunResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raise a language model from raw text to reasoning, and account for its whole life.",
)

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="STAGE", help="Only this stage or group, and what it needs; may be repeated."),
]


@app.command()
def run(
    profile: Profile = "laptop",
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0 runs all in this one.")] = None,
    only: Only = None,
) -> None:
    """Run the whole life; what is sealed already is taken as it is."""
    with told_plainly():
        from rich.console import Console

        from flows.runs.start import starting
        from flows.settings import read_profile

        console = Console()
        read_profile(profile)  # a wrong name or broken TOML is told at once
        with starting(profile, console) as start:
            start.board.say("reading the settings")
            from flows.config import load_config

            settings = [*(overrides or []), *([f"compute.workers={workers}"] if workers is not None else [])]
            cfg = load_config(profile, settings)
            from flows.lifecycle import run_lifecycle

            result = run_lifecycle(cfg, profile=profile, start=start, only=_checked(only, cfg))
        if result.report is not None:
            from dashboards.terminal import render_terminal

            console.print(render_terminal(result.report))
        report(result, console)
    leave({"completed": 0, "waiting": WAITS, "interrupted": INTERRUPTED}.get(result.status, FAILED))


def report(result: RunResult, console: Console) -> None:
    """The end of a run: what happened, what went wrong, where to look."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    style = "bold" if result.status == "completed" else "bold yellow"
    say(f"run {result.run_id} {result.status}: {result.summary}", style)
    for message in result.waiting.values():
        say(message, "yellow")
    for message in result.failures.values():
        say(message, "red")
    if result.failures:
        say("what was sealed stays: put it right and run again, the rest is taken from the cache")
    if result.status == "interrupted":
        say("what was sealed stays, and stages with a saved state resume: `lifespan run` goes on from here")
    for warning in result.warnings:
        say(f"warning: {warning}", "yellow")
    if result.report is not None:
        from storage.home import Home

        say(f"report   {Home.from_env().report(result.run_id)}")
    say("look     lifespan ui")
    say("ask      lifespan query 'SELECT stage, sum(seconds) AS seconds, sum(usd) AS usd FROM costs GROUP BY ALL'")


@app.command()
def plan(profile: Profile = "laptop", overrides: Overrides = None, only: Only = None) -> None:
    """Show for every stage whether it is cached, or why it will run."""
    with told_plainly():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from flows.config import load_config
        from flows.engine.graph import assemble
        from flows.engine.plan import plan as make_plan
        from flows.engine.plan import totals
        from flows.lifecycle import lifecycle_graph
        from storage.home import Home

        cfg = load_config(profile, overrides or [])
        graph = assemble(lifecycle_graph, cfg)
        wanted = _checked(only, cfg)
        steps = make_plan(graph.only(wanted) if wanted else graph, Home.from_env())
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("part", "stage", "", "because"):
            table.add_column(column, overflow="fold", no_wrap=column in ("part", "stage"))
        group = ""
        for step in steps:
            state = Text("cached", "blue") if step.cached else Text("will run", "yellow")
            table.add_row(
                step.group if step.group != group else "", Text(step.label), state, Text("\n".join(step.reasons))
            )
            group = step.group
        console = Console()
        console.width = console.width if console.is_terminal else 200
        console.print(table)
        console.print(", ".join(f"{n} {what}" for what, n in totals(steps).items()), highlight=False)


def _checked(only: list[str] | None, cfg: object) -> list[str] | None:
    """`--only` names that exist, or one clear message."""
    if not only:
        return None
    from flows.engine.graph import assemble
    from flows.lifecycle import lifecycle_graph
    from flows.settings import ConfigError

    try:
        assemble(lifecycle_graph, cfg).only(only)
    except ValueError as error:
        raise ConfigError(f"--only: {error}") from None
    return only


@app.command()
def query(
    sql: Annotated[str | None, typer.Argument(help="One SELECT over the tables; `SHOW TABLES` lists them.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of SQL; - reads standard input.")] = None,
    named: Annotated[str | None, typer.Option(metavar="NAME", help="A query that comes with Lifespan.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="Value of $NAME; may be repeated.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the named queries and what they take.")] = False,
    format: Annotated[
        str | None, typer.Option(help="table, lines, csv, json or parquet; else by the ending of --output.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file.", dir_okay=False)] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which to give up.")] = 300.0,
) -> None:
    """Ask the tables in SQL. Read only, no files, no network."""
    with told_plainly():
        from flows.commands.query import asked, parameters, run_query, write_listing
        from storage.home import Home
        from storage.queries import Limits

        if show_list:
            write_listing()
            return
        given = parameters(param or [])
        run_query(Home.from_env(), asked(sql, file, named), given, format, output, Limits(seconds=timeout))


@app.command("sql")
def sql_shell(
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a query gives up.")] = 300.0,
) -> None:
    """A shell for SQL over the tables, with completion; reads statements from a pipe too."""
    with told_plainly():
        from flows.commands.sql import shell
        from storage.home import Home
        from storage.queries import Limits

        shell(Home.from_env(), Limits(seconds=timeout))


@app.command()
def advise(
    questions: Annotated[float, typer.Option(help="How many will be asked over the lifetime.")] = 1e6,
    accuracy: Annotated[float | None, typer.Option(help="The share that must be answered rightly, as 0.6.")] = None,
    verifier: Annotated[bool, typer.Option("--verifier", help="Right answers can be told from wrong ones.")] = False,
    loss: Annotated[
        float | None, typer.Option(help="What to train to, in nats a token; else the sweep's lowest.")
    ] = None,
    train_on: Annotated[str, typer.Option(help="Hardware to train on, as in the table `hardware`.")] = "cpu-core",
    serve_on: Annotated[str, typer.Option(help="Hardware to serve on.")] = "cpu-core",
    run: Annotated[str, typer.Option(help="A run, or the beginning of its id.")] = "newest",
) -> None:
    """How to answer and what to train, at what cost over a lifetime, by what a run has measured."""
    with told_plainly():
        from rich.console import Console

        from flows.commands.advise import Wish, show
        from storage.home import Home

        console = Console()
        console.width = console.width if console.is_terminal else 200
        show(Home.from_env(), run, Wish(questions, accuracy, verifier, loss, train_on, serve_on), console)


@app.command()
def compact() -> None:
    """Merge the tables' part files, so that queries open fewer; safe beside runs."""
    with told_plainly():
        from storage.home import Home

        for table, parts in Home.from_env().tables.compact().items():
            if parts:
                typer.echo(f"{table}: {parts} parts merged")


@app.command()
def status() -> None:
    """What runs now in this home, and how the last runs ended."""
    with told_plainly():
        from rich.console import Console

        from flows.commands.status import render
        from storage.home import Home

        console = Console()
        console.width = console.width if console.is_terminal else 200
        console.print(render(Home.from_env()))


app.command()(replicate)
app.add_typer(operations)
app.add_typer(schedule, name="schedule")
app.add_typer(annotate, name="annotate")
app.add_typer(preferences, name="preferences")

ModelName = Annotated[
    str,
    typer.Argument(
        help="A label of the newest run (base, sft, grpo, …), an artifact's key, or a saved model: its folder, a .gguf "
        "file, or package:NAME."
    ),
]


@app.command()
def serve(
    model: ModelName,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    api_key: Annotated[
        Path | None, typer.Option(help="A file with the key that clients must send; else LIFESPAN_API_KEY.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Sequences in flight.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Sequences that may wait; one more is answered with 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until an answer must be complete.")] = 600.0,
    context_length: Annotated[int, typer.Option(min=0, help="Tokens of prompt and answer; 0: the model's.")] = 0,
) -> None:
    """Serve a model behind the interface of OpenAI's API."""
    with told_plainly():
        from flows.commands.serve import ServeOptions, open_model, read_key
        from flows.commands.serve import serve as run_server
        from storage.home import Home

        options = ServeOptions(host, port, read_key(api_key), slots, queue, timeout, context_length)
        run_server(open_model(Home.from_env(), model, context_length), options, typer.echo)
    leave(0)


@app.command()
def chat(
    model: ModelName,
    temperature: Annotated[float, typer.Option(min=0, help="0 always says the most probable.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=0, help="Of an answer; 0: what the context has room for.")] = 0,
    context_length: Annotated[int, typer.Option(min=0, help="Tokens of the conversation; 0: the model's.")] = 0,
) -> None:
    """Talk with a model in the terminal; or pipe questions in, one a line."""
    with told_plainly():
        from rich.console import Console

        from components.inference.engine import Engine
        from flows.commands.chat import Conversation, reader
        from flows.commands.chat import chat as talk
        from flows.commands.serve import open_model
        from storage.home import Home

        opened, console = open_model(Home.from_env(), model, context_length), Console()
        engine = Engine(opened.model, 1, context_length or None)
        talk(Conversation(opened, engine, temperature, max_tokens), console, reader(console))
    leave(0)


@app.command()
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Read every artifact and compare its checksums.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="Put right what can be put right.")] = False,
) -> None:
    """Look for what is wrong with the installation and the home."""
    with told_plainly():
        from rich.console import Console

        from flows.commands.doctor import examine
        from storage.home import Home

        console = Console()
        bad = 0
        styles = {"ok": "green", "note": "yellow", "bad": "bold red"}
        for finding in examine(Home.from_env(), deep=deep, mend=mend):
            bad += finding.level == "bad"
            advice = f"\n      {finding.advice}" if finding.advice else ""
            console.print(f"{finding.level:5}", style=styles[finding.level], end=" ", highlight=False)
            console.print(finding.what + advice, markup=False, highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(FAILED)


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Keep what the newest so many runs of each profile need.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only shown.")] = False,
) -> None:
    """Show what no kept run needs, and remove it when told to. Rows of tables stay."""
    with told_plainly():
        from flows.commands.gc import RunGoesOn, removable
        from storage.home import Home

        try:
            found = list(removable(Home.from_env(), keep))
        except RunGoesOn as error:
            complain(str(error))
            raise typer.Exit(FAILED) from None
        for thing in found:
            typer.echo(f"{thing.num_bytes / 1e6:10.2f} MB  {thing.what}")
            if yes:
                thing.remove()
        size = f"{len(found)} things, {sum(thing.num_bytes for thing in found) / 1e6:.2f} MB"
        typer.echo(f"removed {size}" if yes else f"{size}; `lifespan gc --keep {keep} --yes` removes them")


@app.command()
def sync() -> None:
    """Bring MLflow up to date with the tables, after an outage of the tracking server."""
    with told_plainly():
        from flows.services import hermetic
        from storage.home import Home

        home = Home.from_env()
        hermetic.apply(home.local)
        from storage import tracker
        from storage.redaction import masked_addresses

        result = tracker.sync(home)
        if result.problem:
            complain(result.problem)
            raise typer.Exit(FAILED)
        added = f"{result.runs} runs, {result.stages} stages, {result.metrics} metrics"
        typer.echo(f"MLflow at {masked_addresses(home.mlflow_uri)}: {added} added")


@app.command("export")
def export_model(
    model: Annotated[str, typer.Argument(help="Label, stage or alias of the newest run that made one; or a key.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Write a model as a folder that transformers loads: weights, configuration, tokenizer, chat template."""
    with told_plainly():
        from flows.commands.model_io import export
        from storage.home import Home

        found = export(Home.from_env(), model, folder)
        typer.echo(f"{found.label} {found.checkpoint.key[:12]} -> {folder}")


@app.command("import")
def import_model(
    source: Annotated[
        str, typer.Argument(help="Folder, .gguf file, package:NAME of an installed package, or owner/model of the hub.")
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of a hub model.")] = "main",
    context_length: Annotated[int, typer.Option(min=0, help="Cut the context to so many tokens; 0: as it is.")] = 0,
) -> None:
    """Bring somebody else's model into the store; `base` of a profile begins a life with it."""
    with told_plainly():
        from flows.commands.model_io import import_source
        from flows.services import hermetic
        from storage.home import Home

        home = Home.from_env()
        hermetic.apply(home.local, hub=True)
        for artifact in import_source(home, source, revision, context_length, typer.echo):
            facts = ", ".join(f"{name} {value}" for name, value in artifact.facts.items() if value and name != "usage")
            typer.echo(f"{artifact.kind} {artifact.key}\n  {facts}")


if __name__ == "__main__":
    app()
