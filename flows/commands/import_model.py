"""`lifespan import`: a model that somebody else trained, into the store."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import friendly_errors


def import_model(
    source: Annotated[
        str,
        typer.Argument(help="Folder, .gguf file, package:NAME of an installed package, or owner/model on the hub."),
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of a hub model.")] = "main",
    context_length: Annotated[
        int, typer.Option(min=0, help="Shorten the context to this many tokens; 0: leave it as it is.")
    ] = 0,
    adapter: Annotated[
        str, typer.Option(help="Folder of a LoRA adapter in PEFT's layout, which is merged into the model.")
    ] = "",
    keep_adapter: Annotated[
        bool, typer.Option("--keep-adapter", help="Keep the adapter apart: a training with LoRA then goes on from it.")
    ] = False,
) -> None:
    """Bring somebody else's model into the store; a profile starts from it with `base.model`."""
    with friendly_errors():
        from flows.services import hermetic
        from flows.stages.imported import import_source
        from storage.home import Home

        home = Home.from_env()
        hermetic.apply(home.local, hub=True)
        for artifact in import_source(home, source, revision, context_length, typer.echo, adapter, keep_adapter):
            facts = ", ".join(f"{name} {value}" for name, value in artifact.facts.items() if value and name != "usage")
            typer.echo(f"{artifact.kind} {artifact.key}\n  {facts}")
