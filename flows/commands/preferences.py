"""`lifespan preferences`: files of preferences, into the home and out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import friendly_errors

if TYPE_CHECKING:
    from components.rlhf.preferences import LeftOut

MAX_SHOWN = 10
preferences = typer.Typer(no_args_is_help=True, help="Preference files, into the home and out of it.")


@preferences.command("import")
def import_file(
    file: Path,
    max_prompt_chars: Annotated[int, typer.Option(min=1, help="Longer prompts are rejected.")] = 100_000,
) -> None:
    """Check a file of preferences and keep its good records for `preferences.source = "file"`.

    JSON lines, a JSON array, CSV or Parquet, plain or compressed, as published for TRL, DPO, HH-RLHF, UltraFeedback,
    Label Studio, Argilla and others: the layout of each record is detected.
    """
    with friendly_errors():
        from flows.runs.preference_files import import_preferences
        from storage.home import Home

        found, kept = import_preferences(Home.from_env(), file, max_prompt_chars)
        formats = ", ".join(f"{count} lines of {name}" for name, count in found.formats.items())
        ties = f", {found.ties} pairs with equal scores dropped" if found.ties else ""
        typer.echo(f"{len(found.preferences)} preferences from {formats}{ties}; {len(found.left_out)} lines rejected")
        print_rejected(found.left_out)
        typer.echo(f"stored in {kept}; to train on them:")
        typer.echo(f"lifespan run --set preferences.source=file --set preferences.path={kept}")


@preferences.command("export")
def export_file(
    file: Path,
    format: Annotated[str, typer.Option(help="trl, trl-chat, hh or ultrafeedback")] = "trl",
) -> None:
    """Write the newest collected preferences to a .jsonl or .parquet file."""
    with friendly_errors():
        from flows.runs.preference_files import export_preferences
        from flows.stages.files import PREFERENCES
        from storage.home import Home

        done = export_preferences(Home.from_env(), file, format, PREFERENCES)
        source = json.dumps(done.source)
        typer.echo(f"{done.lines} lines of {format} from {done.preferences} preferences (source {source}) in {file}")


def print_rejected(rejected: Sequence[LeftOut]) -> None:
    """The first rejected lines with their reasons, on standard error."""
    for bad in rejected[:MAX_SHOWN]:
        typer.echo(f"  {bad.file}:{bad.line}: {bad.reason}", err=True)
    if len(rejected) > MAX_SHOWN:
        typer.echo(f"  and {len(rejected) - MAX_SHOWN} more: lifespan query 'SELECT * FROM quarantine'", err=True)
