"""`lifespan export`: a model as a folder in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import friendly_errors


def export_model(
    model: Annotated[
        str, typer.Argument(help="Label, stage or alias in the newest run that made one, or an artifact's key.")
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Write a model as a folder that transformers can load: weights, configuration, tokenizer, chat template."""
    with friendly_errors():
        from flows.runs import models
        from storage.home import Home

        found = models.export_model(Home.from_env(), model, folder)
        typer.echo(f"{found.label} {found.checkpoint.key[:12]} -> {folder}")
