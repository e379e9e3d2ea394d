"""`lifespan chat`: talk with a model at the terminal, or pipe questions through it, one per line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import FAILED, ModelName, exit_at_once, friendly_errors, print_error

if TYPE_CHECKING:
    from rich.console import Console

    from components.inference.conversation import Conversation

HELP = "/reset forgets the conversation, /quit ends it; Ctrl-C stops an answer"


def chat(
    model: ModelName,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0 always takes the most probable token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=0, help="Tokens of an answer; 0: as many as fit the context.")] = 0,
    context_length: Annotated[
        int, typer.Option(min=0, help="Tokens of the conversation; 0: the model's context length.")
    ] = 0,
) -> None:
    """Chat with a model at the terminal, or pipe questions in, one per line."""
    with friendly_errors():
        from rich.console import Console

        from components.inference.conversation import Conversation
        from components.inference.engine import Engine
        from flows.runs.models import open_model
        from storage.home import Home

        opened, console = open_model(Home.from_env(), model, context_length), Console()
        engine = Engine(opened.model, 1, context_length or None)
        conversation = Conversation(opened.tokenizer, engine, temperature, max_tokens)
        unanswered = talk(conversation, opened.name, console, reader(console))
    exit_at_once(FAILED if unanswered and not console.is_terminal else 0)


def talk(conversation: Conversation, name: str, console: Console, read: Callable[[], str | None]) -> int:
    """Ask and answer until `read` returns None or the user quits: at a terminal with prompts and hints, in a pipe only
    the answers, one after the other, and errors on standard error. How many questions got no answer."""
    shown, unanswered = console.is_terminal, 0
    if shown:
        console.print(f"{name}: {HELP}", style="dim", markup=False, highlight=False)
    while (line := read()) is not None:
        text = line.strip()
        if text in ("/quit", "/exit"):
            break
        if text == "/reset":
            conversation.reset()
            if shown:
                console.print("conversation forgotten", style="dim")
        elif text.startswith("/") and text[1:].isalpha():
            console.print(f"{text}: unknown command; {HELP}", style="dim", markup=False, highlight=False)
        elif text:
            unanswered += not _exchange(conversation, text, console, shown)
    return unanswered


def _exchange(conversation: Conversation, text: str, console: Console, shown: bool) -> bool:
    """One question and its answer; False where the question was refused."""
    try:
        for piece in conversation.answer(text):
            console.print(
                piece, end="", markup=False, highlight=False, soft_wrap=True, style="green" if shown else None
            )
            console.file.flush()
    except ValueError as error:
        if shown:
            console.print(str(error), style="yellow", markup=False, highlight=False, soft_wrap=True)
        else:
            print_error(str(error))
        return False
    except KeyboardInterrupt:
        if not shown:
            raise
        console.print(" (stopped)", style="dim", end="")
    console.print()
    if shown and conversation.dropped:
        what = "oldest exchange was" if conversation.dropped == 1 else "oldest exchanges were"
        console.print(f"(the {what} dropped: the context is full)", style="dim", markup=False)
    return True


def reader(console: Console) -> Callable[[], str | None]:
    """The user's lines; None at the end (Ctrl-D, Ctrl-C at the prompt, or the end of a pipe).

    At a terminal, lines can be edited and recalled, and are not cut at the 4096 bytes of a terminal's own buffer.
    """
    prompts = console.is_terminal and sys.stdin.isatty()
    if prompts:
        with suppress(ImportError):  # some builds of Python lack it
            import readline  # noqa: F401 - `input` finds it

    def read() -> str | None:
        try:
            return input("> ") if prompts else next(sys.stdin)
        except (EOFError, StopIteration):
            return None
        except KeyboardInterrupt:
            console.print()
            return None

    return read
