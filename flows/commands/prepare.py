"""`lifespan prepare`: data preparation alone, and what each step left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import FAILED, INTERRUPTED, Overrides, exit_at_once, friendly_errors, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from storage.home import Home


def prepare(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, patterns or fsspec URLs; without any, the sources of the profile."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Name of a profile, or path of your own TOML file.")] = "laptop",
    overrides: Overrides = None,
) -> None:
    """Turn text into a corpus, and show what each step left and removed."""
    with friendly_errors():
        from rich.console import Console

        from flows.runs.start import starting
        from flows.settings import read_profile

        console = Console()
        read_profile(profile)
        settings = [*(overrides or [])]
        if files:
            settings = ["data.sources=[]", f"data.own={_toml_list(files)}", "data.own_weight=1.0", *settings]
        with starting(profile, console) as start:
            start.board.say("reading the settings")
            from flows.config import load_config

            cfg = load_config(profile, settings)
            from flows.lifecycle import run_lifecycle

            result = run_lifecycle(cfg, start, profile=profile, only=["prepare_corpus"])
        for message in result.failures.values():
            console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        if outcome := result.outcomes.get("prepare_corpus"):
            for part in tables(start.home, outcome.artifact.key):
                console.print(part)
    exit_at_once({"completed": 0, "interrupted": INTERRUPTED}.get(result.status, FAILED))


def _toml_list(files: list[str]) -> str:
    import json

    return json.dumps(files, ensure_ascii=False)


_FUNNEL = "FROM funnel WHERE key = $key ORDER BY source, position, removed DESC NULLS FIRST"
_QUARANTINE = """SELECT source, reason, count(*) AS records, min(file) AS file FROM quarantine WHERE key = $key
GROUP BY source, reason ORDER BY records DESC, reason LIMIT 20"""
_SAMPLE = (
    "SELECT source, split, language, chars, excerpt FROM documents WHERE key = $key ORDER BY hash(document_id) LIMIT 5"
)


def tables(home: Home, key: str) -> list[RenderableType]:
    """The funnel of a corpus, what could not be read, and a random sample of what stayed."""
    from rich.text import Text

    from storage.queries import query

    funnel = plain_table("source", "step", "documents", "bytes", "changed", "removed", "because", title="funnel")
    for column in funnel.columns[2:6]:
        column.justify = "right"
    for row in query(home, _FUNNEL, {"key": key}).to_pylist():
        if row["reason"] is None:
            cells = [f"{row['documents']:,}", f"{row['bytes']:,}", f"{row['changed'] or ''}", "", ""]
            funnel.add_row(Text(row["source"]), Text(row["step"]), *cells)
        else:
            funnel.add_row("", "", "", "", "", f"{row['removed']:,}", Text(row["reason"]))
    parts: list[RenderableType] = [funnel]
    if bad := query(home, _QUARANTINE, {"key": key}).to_pylist():
        unread = plain_table("source", "records", "reason", "first file", right=("records",), title="quarantine")
        for row in bad:
            unread.add_row(Text(row["source"]), str(row["records"]), Text(row["reason"]), Text(row["file"] or ""))
        parts.append(unread)
    sample = plain_table("source", "split", "language", "chars", "begins", right=("chars",), title="a random sample")
    for row in query(home, _SAMPLE, {"key": key}).to_pylist():
        begins = Text(" ".join(row["excerpt"].split())[:100])
        sample.add_row(Text(row["source"]), row["split"], row["language"], str(row["chars"]), begins)
    return [*parts, sample]
