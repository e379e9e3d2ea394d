"""`lifespan export`: a model as a folder in Hugging Face's layout, or as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import friendly_errors


def export_model(
    model: Annotated[
        str, typer.Argument(help="Label, stage or alias in the newest run that made one, or an artifact's key.")
    ],
    target: Annotated[
        Path | None, typer.Argument(help="A new folder, or a new .gguf file; by default called as the model is.")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors (a folder that transformers loads), gguf (a file for llama.cpp), or peft (only the LoRA "
            "adapters of a training with LoRA).",
        ),
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="Of the matrices: f32, f16 or bf16; in a GGUF file q8_0, too, and f16 by default.")
    ] = "",
) -> None:
    """Write a model as a folder that transformers can load, or as a GGUF file: weights, configuration, tokenizer, chat
    template."""
    with friendly_errors():
        from flows.runs import models
        from storage.home import Home

        found, written = models.export_model(Home.from_env(), model, target, form, dtype)
        typer.echo(f"{found.label} {found.checkpoint.key[:12]} -> {written}")
