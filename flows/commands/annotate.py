"""`lifespan annotate` and `lifespan preferences`: people's judgements, and files of preferences."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import told_plainly
from flows.services.sockets import is_loopback

if TYPE_CHECKING:
    from components.rlhf.formats import Imported
    from storage.home import Home

PORT = 8230
TABLE_SECONDS = 2.0  # how soon after a judgement SQL sees it
LOOPBACK = ("127.0.0.1", "localhost", "::1")

annotate = typer.Typer(help="Rank answers in a web page: open it, manage annotators, see how they agree.")
preferences = typer.Typer(no_args_is_help=True, help="Files of preferences: TRL, HH-RLHF, UltraFeedback.")


@annotate.callback(invoke_without_command=True)
def serve(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to bind; anything but loopback is reachable by others.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535)] = PORT,
    instructions: Annotated[Path | None, typer.Option(help="A text of your own on what to look for.")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name under which others reach this server.")] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show it in the browser.")] = True,
) -> None:
    """Open the page until Ctrl-C."""
    if ctx.invoked_subcommand is not None:
        return
    with told_plainly():
        run_server(host, port, instructions, allow_host or [], open_page, typer.echo)


def run_server(
    host: str, port: int, instructions: Path | None, names: list[str], open_page: bool, say: Callable[[str], None]
) -> None:
    """Serve the page until it is told to end; every judgement is on the disk before its answer goes out."""
    import uvicorn

    from dashboards.annotate.server import make_app
    from flows.settings import ConfigError
    from storage.home import Home

    home = Home.from_env()
    told = home.annotations.instruct(_instructions(instructions))
    active = [one.name for one in home.annotations.annotators() if not one.removed_at]
    outside = host not in LOOPBACK
    if outside and not active:
        raise ConfigError(f"--host {host}: others reach it, so annotators come first: lifespan annotate add NAME")
    listener = _bound(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    token = ""
    if not active:
        name = getpass.getuser()
        token = f"#token={home.annotations.add(name)}"
        say(f"{name} may annotate now; this address signs in, and is shown once:")
    say(f"{address}{token}")
    if active:
        say(f"annotators: {', '.join(active)}; each signs in with the token from `lifespan annotate add`")
    if not home.annotations.batches():
        say("nothing is to be judged yet: `lifespan run --set preferences.source=people`, or `lifespan annotate load`")
    say(f"instructions: version {told.version}. Ctrl-C ends it; what was submitted is stored")
    if outside:
        say("warning: reachable from other machines over plain HTTP, tokens included: put it behind a TLS proxy")
    hosts = frozenset({*LOOPBACK, host.lower(), *(name.lower() for name in names)})
    table = _TableWriter(home)
    app = make_app(home.annotations, told, hosts, local_only=all(map(is_loopback, hosts)), stored=table.wake)
    if open_page and sys.stdout.isatty() and (sys.platform == "darwin" or os.environ.get("DISPLAY")):
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(address + token,), daemon=True).start()
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        pass
    finally:
        table.close()


def _instructions(path: Path | None) -> str:
    """The text of the user's own, or ours."""
    from flows.settings import ConfigError

    source = path or Path(__file__).parents[2] / "dashboards" / "annotate" / "instructions.md"
    try:
        return source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--instructions {source}: not a text file in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"--instructions {source}: {error.strerror}") from None


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens; the preferred port if nobody has it, else a free one."""
    from flows.settings import ConfigError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in dict.fromkeys((port, 0) if port == PORT else (port,)):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
            listener.listen(128)  # who comes before the server is up waits for it
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise ConfigError(f"--host {host} --port {port}: {problem.strerror or problem}")


class _TableWriter:
    """Writes the table of judgements a moment after the last one came, beside the requests."""

    def __init__(self, home: Home) -> None:
        self._home, self._wanted, self._ended = home, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._wanted.set()
        self._thread.start()

    def wake(self) -> None:
        self._wanted.set()

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        from dashboards.annotate.table import write_judgements

        while not self._ended.is_set():
            self._wanted.wait()
            self._ended.wait(TABLE_SECONDS)
            self._wanted.clear()
            try:
                write_judgements(self._home)
            except OSError as error:  # the journals are what counts; the table is written again from them
                print(f"the table of judgements was not written: {error}", file=sys.stderr)


@annotate.command()
def add(name: str) -> None:
    """Let someone annotate, and print their token once."""
    with told_plainly():
        from storage.home import Home

        token = Home.from_env().annotations.add(name)
        typer.echo(f"{name}'s token, shown once: {token}")


@annotate.command()
def remove(name: str) -> None:
    """Make someone's token void; what they judged stays."""
    with told_plainly():
        from storage.home import Home

        Home.from_env().annotations.remove(name)
        typer.echo(f"{name} may no longer annotate; what they judged stays")


@annotate.command("list")
def list_annotators() -> None:
    """Who may annotate, and how far each batch is."""
    with told_plainly():
        from components.rlhf.judgements import Item, Judgement, progress
        from storage.home import Home

        annotations = Home.from_env().annotations
        for one in annotations.annotators():
            typer.echo(
                f"{one.name}  {'removed ' + one.removed_at[:10] if one.removed_at else 'since ' + one.added_at[:10]}"
            )
        for batch in annotations.batches():
            said = [Judgement.from_json(line) for line in annotations.judgements(batch["batch"])]
            done = progress([Item.from_json(item) for item in batch["items"]], said, batch["overlap"])
            who = ", ".join(f"{name} {count}" for name, count in sorted(done.by_annotator.items()))
            typer.echo(f"{batch['title']}: {done.done} of {done.wanted} judgements{': ' + who if who else ''}")
        if not annotations.annotators():
            typer.echo("nobody yet: lifespan annotate add NAME")


@annotate.command()
def load(
    file: Path,
    overlap: Annotated[int, typer.Option(min=1, help="How many annotators each prompt is for.")] = 2,
) -> None:
    """Let people judge your own: JSONL or Parquet lines {"prompt", "answers": [text, or {"text", "model"}]}."""
    with told_plainly():
        from components.rlhf.formats import read_answers
        from components.rlhf.judgements import batch_id
        from flows.settings import ConfigError
        from storage.home import Home

        home = Home.from_env()
        try:
            items, left_out = read_answers(file)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        batch = batch_id(items)
        home.annotations.publish(batch, file.name, overlap, [item.to_json() for item in items])
        _quarantine(home, batch, left_out)
        typer.echo(f"{len(items)} prompts for {overlap} annotators each, {len(left_out)} lines left out")
        _tell_left_out(left_out)


@annotate.command()
def report() -> None:
    """How annotators agree, how long they take, whether position sways them, and which model they prefer."""
    with told_plainly():
        from rich.console import Console
        from rich.table import Table
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
        console = Console()
        console.width = console.width if console.is_terminal else 160
        for table in people_tables(facts):
            shown = Table(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
            for column, side in zip(table.columns, table.align, strict=True):
                shown.add_column(column, justify="right" if side == ">" else "left", overflow="fold")
            for row in table.rows:
                shown.add_row(*map(Text, row))
            console.print(shown)
            console.print()


# -- files ---------------------------------------------------------------------------------------------------------


@preferences.command("import")
def import_file(
    file: Path,
    max_prompt_chars: Annotated[int, typer.Option(min=1, help="Longer prompts are left out.")] = 100_000,
) -> None:
    """Check a file of preferences and keep its good lines for `preferences.source = "file"`."""
    with told_plainly():
        from components.rlhf.formats import read_file
        from components.rlhf.preferences import write_preferences
        from flows.settings import ConfigError
        from storage import durable
        from storage.home import Home

        home = Home.from_env()
        try:
            found = read_file(file, max_prompt_chars)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        with file.open("rb") as stream:
            key = hashlib.file_digest(stream, "sha256").hexdigest()
        kept = home.local / "preferences" / f"{file.stem}-{key[:12]}.parquet"
        with durable.replacing(kept) as temporary:
            whole = temporary.with_suffix(".parquet")
            write_preferences(whole, found.preferences)
            whole.replace(temporary)
        _quarantine(home, key, found.left_out)
        _tell_import(found)
        typer.echo(f"kept in {kept}; to train on them:")
        typer.echo(f"lifespan run --set preferences.source=file --set preferences.path={kept}")


def _tell_import(found: Imported) -> None:
    formats = ", ".join(f"{count} lines of {name}" for name, count in found.formats.items())
    ties = f", {found.ties} pairs with equal scores dropped" if found.ties else ""
    typer.echo(f"{len(found.preferences)} preferences from {formats}{ties}; {len(found.left_out)} lines left out")
    _tell_left_out(found.left_out)


def _tell_left_out(left_out: Any) -> None:
    for bad in left_out[:10]:
        typer.echo(f"  {bad.file}:{bad.line}: {bad.reason}", err=True)
    if len(left_out) > 10:
        typer.echo(f"  and {len(left_out) - 10} more: lifespan query 'SELECT * FROM quarantine'", err=True)


def _quarantine(home: Home, key: str, left_out: Any) -> None:
    rows = [
        {"run_id": "import", "key": key, "source": b.source, "file": b.file, "line": b.line, "reason": b.reason,
         "excerpt": b.excerpt}
        for b in left_out
    ]  # fmt: skip
    home.tables.write("quarantine", f"import-{key[:32]}", rows)


@preferences.command("export")
def export_file(
    file: Path,
    format: Annotated[str, typer.Option(help="trl, trl-chat, hh or ultrafeedback")] = "trl",
) -> None:
    """Write the newest collected preferences to a .jsonl or .parquet file."""
    with told_plainly():
        from components.rlhf.formats import FORMATS, write_file
        from components.rlhf.preferences import read_preferences
        from flows.settings import ConfigError
        from flows.stages.files import PREFERENCES
        from storage.home import Home

        if format not in FORMATS:
            raise ConfigError(f"--format {format}: takes {', '.join(FORMATS)}")
        home = Home.from_env()
        made = home.store.latest("collect_preferences")
        if made is None:
            raise ConfigError("no preferences were collected yet: `lifespan run --only collect_preferences`")
        pairs, _ = read_preferences(home.store.path(made.artifact) / PREFERENCES)
        try:
            lines = write_file(file, pairs, format)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        source = json.dumps(made.artifact.facts.get("source"))
        typer.echo(f"{lines} lines of {format} from {len(pairs)} preferences (source {source}) in {file}")
