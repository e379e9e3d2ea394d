"""Chat templates in Jinja, as published models carry them, rendered in a sandbox.

What a message says can never become a special token: text that spells one is marked before rendering and comes back
as text. A template sees no clock: how a conversation is rendered must not depend on the day.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# For a base model that brings none. The space before the answer belongs to it, as it would in running text.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ (m['role'] | capitalize) + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_MARK = "\ue000"  # of a private-use plane: stands before each character of text that spells a special token


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` around what the assistant says: passed through."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it may name.

    source: Jinja text. tokens: `bos_token`, `eos_token`, … as text, absent where the model has none. special: every
    text that is a special token.
    """

    source: str
    tokens: Mapping[str, str]
    special: frozenset[str]

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template is not valid Jinja: {error}") from error

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> str:
        """The conversation as text, in which text of a message that spells a special token is marked.

        Raises ValueError where the template refuses the conversation or fails.
        """
        marked = [{**message, "content": self._mark(message["content"])} for message in messages]
        given = {**self.tokens, "messages": marked, "add_generation_prompt": add_generation_prompt}
        try:
            return self._compiled.render(tools=None, documents=None, **given)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"the chat template fails on the conversation: {error}") from error

    def _mark(self, text: str) -> str:
        return self._spelled.sub(lambda found: "".join(_MARK + char for char in found[0]), text.replace(_MARK, ""))

    def said(self, messages: Sequence[Mapping[str, str]], text: str, end: str) -> Iterator[tuple[int, int]]:
        """Where in the rendered `text` the assistant speaks: from behind each prompt to behind the `end` of the turn.

        Raises ValueError for a template that renders what was said before differently once more is said.
        """
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:index], add_generation_prompt=True)
            if not text.startswith(before):
                raise ValueError(
                    f"messages[{index}]: the chat template renders the turns before it differently than in the whole "
                    "conversation, so what the assistant says cannot be told apart: end the conversation here"
                )
            close = text.find(end, len(before))
            yield len(before), len(text) if close < 0 else close + len(end)

    def segments(self, text: str) -> Iterator[tuple[str, list[int], bool]]:
        """Rendered text cut at its real special tokens: a piece without marks, where each of its characters lies in
        `text`, and whether it is a special token."""
        start = 0
        for found in [*self._spelled.finditer(text), None]:
            stop = found.start() if found else len(text)
            places = [place for place in range(start, stop) if text[place] != _MARK]
            if places:
                yield "".join(text[place] for place in places), places, False
            if found:
                yield found[0], list(range(found.start(), found.end())), True
                start = found.end()


def has_marks(text: str) -> bool:
    """True where a message spelled a special token."""
    return _MARK in text
