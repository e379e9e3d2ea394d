"""`lifespan chat`: talk with a model in the terminal, or pipe questions through it, one a line."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.commands.serve import Opened

if TYPE_CHECKING:
    from rich.console import Console

    from components.inference.engine import Engine

HELP = "/reset forgets the conversation, /quit ends; Ctrl-C stops an answer"


@dataclass
class Conversation:
    """The turns so far, and an engine of one slot that keeps what it has read of them."""

    opened: Opened
    engine: Engine
    temperature: float = 0.7
    max_tokens: int = 0
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    turns: list[dict[str, str]] = field(default_factory=list)
    dropped: int = 0

    def answer(self, text: str) -> Iterator[str]:
        """Pieces of the answer as they come. The oldest exchanges are dropped where the context has no room for them.

        An answer that is not taken to its end stays in the conversation as far as it came. Raises ValueError for a text
        that is too long by itself or that the chat template refuses; it is forgotten then.
        """
        from components.inference.engine import Request
        from components.inference.sampling import SamplingParams
        from components.inference.streams import TextStream

        tokenizer, whole = self.opened.tokenizer, self.engine.context_length
        wanted = min(self.max_tokens or whole // 2, whole // 2)
        self.turns.append({"role": "user", "content": text})
        try:
            prompt = self._prompt(wanted, whole)
        except ValueError:
            self.turns.pop()
            raise
        params = SamplingParams(
            max_tokens=min(self.max_tokens or whole, whole - len(prompt)),
            temperature=self.temperature,
            seed=self.seed,
            stop_ids=tuple(sorted(tokenizer.stop_ids)),
            ban_ids=tuple(sorted(tokenizer.special_ids - tokenizer.stop_ids)),
        )
        # The stream of the turn: the same question twice is answered by other draws.
        ticket = self.engine.submit(Request(tuple(prompt), params, len(self.turns), stepwise=True))
        stream, said, told = TextStream(tokenizer), "", 0
        try:
            while True:
                for update in self.engine.step():
                    tokens = update.completion.tokens
                    piece = stream.push(tokens[told:], update.ended)
                    told, said = len(tokens), said + piece
                    yield piece
                    if update.ended:
                        return
        finally:
            self.engine.cancel(ticket)
            self.turns.append({"role": "assistant", "content": said})

    def _prompt(self, wanted: int, whole: int) -> list[int]:
        """The turns as ids, without the oldest exchanges where a context of `whole` has no room for `wanted` more."""
        self.dropped = 0
        while True:
            prompt, _ = self.opened.tokenizer.render_chat(self.turns, add_generation_prompt=True)
            if len(prompt) + (wanted if len(self.turns) > 1 else 1) <= whole:
                return prompt
            if len(self.turns) == 1:
                raise ValueError(f"that is {len(prompt)} tokens; the model's context has {whole}")
            del self.turns[:2]
            self.dropped += 1

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()


def chat(conversation: Conversation, console: Console, read: Callable[[], str | None]) -> None:
    """Ask and answer until `read` returns None or the user quits. In a terminal with prompts and hints; in a pipe the
    answers alone, one after the other."""
    shown = console.is_terminal
    if shown:
        console.print(f"{conversation.opened.name}: {HELP}", style="dim", markup=False, highlight=False)
    while (line := read()) is not None:
        text = line.strip()
        if text in ("/quit", "/exit"):
            return
        if text == "/reset":
            conversation.reset()
            if shown:
                console.print("forgotten", style="dim")
        elif text.startswith("/") and text[1:].isalpha():
            console.print(f"{text}: no such command; {HELP}", style="dim", markup=False, highlight=False)
        elif text:
            _exchange(conversation, text, console, shown)


def _exchange(conversation: Conversation, text: str, console: Console, shown: bool) -> None:
    try:
        for piece in conversation.answer(text):
            console.print(
                piece, end="", markup=False, highlight=False, soft_wrap=True, style="green" if shown else None
            )
            console.file.flush()
    except ValueError as error:
        console.print(str(error), style="yellow", markup=False, highlight=False, soft_wrap=True, end="")
    except KeyboardInterrupt:
        if not shown:
            raise
        console.print(" (stopped)", style="dim", end="")
    console.print()
    if shown and conversation.dropped:
        told = (
            "the oldest exchange no longer fits" if conversation.dropped == 1 else "the oldest exchanges no longer fit"
        )
        console.print(f"({told} into the context and was dropped)", style="dim", markup=False)


def reader(console: Console) -> Callable[[], str | None]:
    """Lines of the user, None at their end (Ctrl-D, Ctrl-C at the prompt, or the end of a pipe).

    In a terminal they can be edited and called back, and are not cut at the 4096 bytes that a terminal holds itself.
    """
    asks = console.is_terminal and sys.stdin.isatty()
    if asks:
        with suppress(ImportError):  # some builds of Python have none
            import readline  # noqa: F401 - `input` finds it

    def read() -> str | None:
        try:
            return input("> ") if asks else next(sys.stdin)
        except (EOFError, StopIteration):
            return None
        except KeyboardInterrupt:
            console.print()
            return None

    return read
