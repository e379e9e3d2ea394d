"""`lifespan serve`: a model behind the OpenAI API."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import ModelName, exit_at_once, friendly_errors
from flows.services.sockets import LOOPBACK

if TYPE_CHECKING:
    import torch

    from components.inference.capacity import Weights
    from components.model.config import ModelConfig


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
        int,
        typer.Option(min=0, help="Tokens of prompt and answer together; 0: the model's, as far as they fit."),
    ] = 0,
    weights: Annotated[
        str, typer.Option(help="float32, bfloat16 (half the memory), or int8 (a quarter; a scale for each row).")
    ] = "float32",
    cache_gb: Annotated[
        float,
        typer.Option(min=0.001, help="Memory for keys and values; where it is short, fewer sequences go together."),
    ] = 1.0,
    device: Annotated[str, typer.Option(help="cpu, or an accelerator as torch names it: cuda.")] = "cpu",
    reasoning: Annotated[
        str, typer.Option(metavar="auto|off", help="auto: think about each question as long as --budget allows.")
    ] = "off",
    budget: Annotated[
        str, typer.Option(metavar="600tokens", help="What a question may cost on average; by default as it was tuned.")
    ] = "",
) -> None:
    """Serve a model with an OpenAI-compatible API."""
    with friendly_errors():
        from components.inference.capacity import check_fit, fit_cache, free_memory
        from flows.engine.device import usable
        from flows.runs.models import open_model
        from flows.runs.thinking_controller import served_controller
        from flows.services.credentials import read_secret
        from flows.services.model_server import KEY_VARIABLE, ServeOptions, serve_model
        from flows.settings import ConfigError
        from storage.home import Home

        key = read_secret(KEY_VARIABLE, api_key, "--api-key")
        options = ServeOptions(host, port, key, slots, queue, timeout, context_length)
        kind, where = precision(weights), usable(device)
        if reasoning not in ("auto", "off"):
            raise ConfigError(f"--reasoning {reasoning}: takes auto or off")
        if budget and reasoning == "off":
            raise ConfigError("--budget is of --reasoning auto: give both")
        if reasoning == "auto" and kind != "float32":
            raise ConfigError("--reasoning auto: the controller was tuned on float32 weights: leave out --weights")
        home = Home.from_env()

        def check(cfg: ModelConfig) -> None:
            cache = fit_cache(cfg, kind, slots, context_length, cache_gb * 1e9).cache_bytes
            check_fit(cfg, kind, cache, free_memory() if where.type == "cpu" else free_on(where), model)

        opened = open_model(home, model, context_length, kind, check)
        reasoner = None
        if reasoning == "auto":
            reasoner, told = served_controller(home, opened, budget)
            typer.echo(told, err=True)
        opened.model.to(where)
        fit = fit_cache(opened.model.cfg, kind, slots, context_length, cache_gb * 1e9)
        if opened.weight_error:
            typer.echo(f"8-bit weights: {opened.weight_error:.2%} off, as root mean square over that of the weights")
        if (fit.slots, fit.tokens) != (slots, opened.model.cfg.context_length):
            typer.echo(
                f"{fit.slots} sequences of {fit.tokens:,} tokens at a time: {fit.cache_bytes / 1e9:.2f} GB of keys and "
                "values (--cache-gb)"
            )
        options = dataclasses.replace(options, slots=fit.slots, context_length=fit.tokens)
        serve_model(opened.name, opened.model, opened.tokenizer, options, typer.echo, reasoner)
    exit_at_once(0)


def precision(name: str) -> Weights:
    """The precision of weights that is called so. Raises ConfigError for any other name."""
    from typing import cast, get_args

    from components.inference.capacity import Weights
    from flows.settings import ConfigError

    if name not in get_args(Weights):
        raise ConfigError(f"--weights {name}: takes {', '.join(get_args(Weights))}")
    return cast("Weights", name)


def free_on(device: torch.device) -> float:
    """Bytes that are free on an accelerator."""
    import torch

    return float(torch.cuda.mem_get_info(device)[0])
