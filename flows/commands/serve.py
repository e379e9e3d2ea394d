"""`lifespan serve`: a model behind the OpenAI API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import ModelName, exit_at_once, friendly_errors
from flows.services.sockets import LOOPBACK


def serve(
    model: ModelName,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines can reach requires a key.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    api_key: Annotated[
        Path | None, typer.Option(help="File with the key that clients must send; by default LIFESPAN_API_KEY, if set.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Sequences that are generated at the same time.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Sequences that may wait; beyond that, requests get a 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until an answer must be complete.")] = 600.0,
    context_length: Annotated[
        int, typer.Option(min=0, help="Tokens of prompt and answer together; 0: the model's context length.")
    ] = 0,
    reasoning: Annotated[
        str, typer.Option(metavar="auto|off", help="auto: think about each question as long as --budget allows.")
    ] = "off",
    budget: Annotated[
        str, typer.Option(metavar="600tokens", help="What a question may cost on average; by default as it was tuned.")
    ] = "",
) -> None:
    """Serve a model with an OpenAI-compatible API."""
    with friendly_errors():
        from flows.runs.models import open_model
        from flows.runs.thinking_controller import served_controller
        from flows.services.credentials import read_secret
        from flows.services.model_server import KEY_VARIABLE, ServeOptions, serve_model
        from flows.settings import ConfigError
        from storage.home import Home

        key = read_secret(KEY_VARIABLE, api_key, "--api-key")
        options = ServeOptions(host, port, key, slots, queue, timeout, context_length)
        if reasoning not in ("auto", "off"):
            raise ConfigError(f"--reasoning {reasoning}: takes auto or off")
        if budget and reasoning == "off":
            raise ConfigError("--budget is of --reasoning auto: give both")
        home = Home.from_env()
        opened = open_model(home, model, context_length)
        reasoner = None
        if reasoning == "auto":
            reasoner, told = served_controller(home, opened, budget)
            typer.echo(told, err=True)
        serve_model(opened.name, opened.model, opened.tokenizer, options, typer.echo, reasoner)
    exit_at_once(0)
