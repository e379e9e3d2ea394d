"""Chat templates in Jinja, as published models carry them, rendered in a sandbox.

What a message says can never become a special token: text that spells one is marked before rendering and comes back
as text. A template that asks for the date always gets the same one: how a conversation is rendered must not depend on
the day. What a template would leave out in silence, such as a turn of a tool or the calls of an assistant, is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
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
TODAY = datetime(2024, 7, 26)  # which the templates of Llama 3 take themselves where nobody tells them the date
_PLACE = "\ue001"  # of the same plane: stands where an assistant's content would
_MARK = "\ue000"  # of a private-use plane: stands before each character of text that spells a special token


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` around what the assistant says: passed through."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """With the parameters that transformers gives this filter, in their order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return TODAY.strftime(form)


class _Arguments(dict[str, Any]):
    """Arguments of a call as an object, which some templates want, and as the JSON text that others print or join."""

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: str) -> str:
        return self._text + other

    def __radd__(self, other: str) -> str:
        return other + self._text


@dataclass(frozen=True, eq=False)
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
        environment.globals["strftime_now"] = _strftime_now
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template is not valid Jinja: {error}") from error

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation as text, in which text of a message that spells a special token is marked.

        Raises ValueError where the template refuses the conversation, fails, or would leave a turn of it out.
        """
        if tools or any(m["role"] not in ("user", "assistant") or m.get("tool_calls") for m in messages):
            shape = tuple((m["role"], bool(m.get("content")), bool(m.get("tool_calls"))) for m in messages)
            if left_out := _left_out(self, shape, bool(tools)):
                raise ValueError(left_out)
        return self._render(messages, add_generation_prompt, tools)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> str:
        marked = [_with_arguments(message) for message in self._marked(messages)]
        given = {**self.tokens, "messages": marked, "add_generation_prompt": add_generation_prompt}
        try:
            return self._compiled.render(tools=self._marked(tools) if tools else None, documents=None, **given)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"the chat template fails on the conversation: {error}") from error

    def _marked(self, value: Any) -> Any:
        """The value with all of its texts marked, and a role as it is: no text of a user's."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {key: held if key == "role" else self._marked(held) for key, held in value.items()}
        return [self._marked(held) for held in value] if isinstance(value, list | tuple) else value

    def _mark(self, text: str) -> str:
        return self._spelled.sub(lambda found: "".join(_MARK + char for char in found[0]), text.replace(_MARK, ""))

    def said(
        self,
        messages: Sequence[Mapping[str, Any]],
        text: str,
        end: str,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Where in the rendered `text` the assistant speaks: from behind each prompt to behind the `end` of the turn.

        Raises ValueError for a template that renders what was said before differently once more is said.
        """
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = len(before := self._render(messages[:index], True, tools))
            if not text.startswith(before):
                start = self._start_of(messages, index, text, tools)
            close = text.find(end, start)
            yield start, len(text) if close < 0 else close + len(end)

    def _start_of(
        self, messages: Sequence[Mapping[str, Any]], index: int, text: str, tools: Sequence[Mapping[str, Any]] | None
    ) -> int:
        """Where an assistant's content begins, for a prompt that opens something (such as thoughts) which is not there
        in the whole conversation: behind what is rendered before a content of one unheard-of character."""
        placed = [*messages[:index], {**messages[index], "content": _PLACE}, *messages[index + 1 :]]
        before, found, _ = self._render(placed, False, tools).partition(_PLACE)
        if not found or not text.startswith(before):
            raise ValueError(
                f"messages[{index}]: the chat template renders the turns before it differently than in the whole "
                "conversation, so what the assistant says cannot be told apart: split the conversation, so that each "
                "ends with one answer, or take another chat template"
            )
        return len(before)

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


def _with_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with the arguments of its calls as `_Arguments`; text that is no JSON object stays text."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    wrapped = []
    for call in calls:
        function = call.get("function", call)
        given = function.get("arguments")
        try:
            values = json.loads(given) if isinstance(given, str) else given
        except ValueError:
            values = None
        if isinstance(values, dict):
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            function = {**function, "arguments": _Arguments(values, text)}
        wrapped.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": wrapped}


@lru_cache(maxsize=1024)
def _left_out(template: ChatTemplate, shape: tuple[tuple[str, bool, bool], ...], with_tools: bool) -> str:
    """What the template leaves out of a conversation of this shape (role, whether it has content and tool calls), seen
    from one whose every part is a word of its own; an assistant's content may go, as thoughts of earlier turns do."""
    messages: list[dict[str, Any]] = []
    for number, (role, has_content, calls) in enumerate(shape):
        message: dict[str, Any] = {"role": role, "content": f"word{number}x" if has_content else ""}
        if calls:
            function = {"name": f"call{number}x", "arguments": {"argument": f"value{number}x"}}
            message["tool_calls"] = [{"id": f"id{number}abcde", "type": "function", "function": function}]
        if role == "tool":
            message |= {"name": f"call{number - 1}x", "tool_call_id": f"id{number - 1}abcde"}
        messages.append(message)
    parameters = {"type": "object", "properties": {"argument": {"type": "string", "description": "a word"}}}
    tool = {"type": "function", "function": {"name": "toolword", "description": "a tool", "parameters": parameters}}
    try:
        text = template._render(messages, False, [tool] if with_tools else None)
    except ValueError:
        return ""  # the conversation itself will say why
    if with_tools and "toolword" not in text:
        return "tools: the chat template leaves them out"
    for number, (role, has_content, calls) in enumerate(shape):
        if calls and not (f"call{number}x" in text and f"value{number}x" in text):
            return f"messages[{number}]: tool_calls: the chat template leaves them out"
        if role != "assistant" and has_content and f"word{number}x" not in text:
            return f"messages[{number}]: the chat template leaves out the turn of role {role!r}"
    return ""


def has_marks(text: str) -> bool:
    """True where a message spelled a special token."""
    return _MARK in text
