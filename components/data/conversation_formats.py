"""Conversations as others write them: one record in, one conversation out, or the reason why it is none.

    messages           a list of {"role", "content"} (OpenAI), with tool_calls, turns of tools and `tools` beside it
    sharegpt           a list of {"from", "value"}, with `system` and `tools` beside it
    alternating texts  a list of texts: the user's, the assistant's, the user's, …
    alpaca             instruction, input (may be empty) and output; `history` of earlier pairs
    pairs              a question and an answer under the usual names, as texts or as lists of messages
    hh                 one text: "\\n\\nHuman: … \\n\\nAssistant: …"

A record tells its layout by the names of its fields; `Fields` gives other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from components.data.records import lone_surrogate

ROLES = ("system", "user", "assistant", "tool")
_ROLE_OF = {
    **dict.fromkeys(("user", "human", "prompter", "player", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "ai", "agent"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    "function_call": "function_call",
    "tool_call": "function_call",
}
_TURN_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "data")
_ROLE_NAMES = ("role", "from", "speaker")
_CONTENT_NAMES = ("content", "value", "text", "message")
_SYSTEM_NAMES = ("system", "system_prompt", "system_message")
_QUESTIONS = ("prompt", "question", "query", "problem", "input", "instruction", "user", "human", "inputs")
_ANSWERS = ("completion", "response", "answer", "output", "solution", "assistant", "gpt", "targets")
_TEXT_PARTS = ("text", "input_text", "output_text")
_HH_FIELDS = ("text", "dialogue", "chosen")
_PRINTED = re.compile(r"\s*\[\s*\{\s*'(?:role|from|speaker|content|value)'\s*:")
_HH_TURN = re.compile(r"\n\n(Human|Assistant|System):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}


class Invalid(ValueError):
    """Why a record is no conversation."""


@dataclass(frozen=True)
class Fields:
    """Names that differ from the usual ones; empty: the usual ones.

    messages: of the list of turns, with `role` and `content` of a turn. prompt, response: of a question and its answer,
    with `input` for what the question is about. dialogue: of one text in HH-RLHF's manner. system, tools: beside any of
    these. A name may lead into an object: ``body.messages``. roles: names of roles as the file has them to ours
    (system, user, assistant, tool).
    """

    messages: str = ""
    role: str = ""
    content: str = ""
    prompt: str = ""
    input: str = ""
    response: str = ""
    dialogue: str = ""
    system: str = ""
    tools: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [ours for ours in self.roles.values() if ours not in ROLES]:
            raise ValueError(f"roles: {wrong[0]!r} is no role of ours; it takes one of {', '.join(ROLES)}")
        layouts = [name for name in ("messages", "prompt", "dialogue") if getattr(self, name)]
        if len(layouts) > 1:
            raise ValueError(f"{layouts[0]} and {layouts[1]} are two layouts: name the fields of one")
        if bool(self.prompt) != bool(self.response):
            raise ValueError("prompt and response are named together, or neither")


class Told(NamedTuple):
    """A conversation: messages as an OpenAI request has them, the functions that could be called, and the layout in
    which it was written."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    layout: str


def read_conversation(row: object, fields: Fields | None = None) -> Told:
    """The conversation of one record. Raises Invalid with the reason where it is none."""
    names = fields or Fields()
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise Invalid(f"expected a JSON object, found {type(row).__name__}")
    messages, layout = _messages(row, names)
    system = _first(row, (names.system,) if names.system else _SYSTEM_NAMES)
    if system is not None:
        if not isinstance(system[1], str):
            raise Invalid(f"{system[0]} is {type(system[1]).__name__}, not text")
        if system[1].strip() and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": system[1]}, *messages]
    tools = _tools(row, names)
    _check(messages)
    if where := lone_surrogate({"messages": messages, "tools": tools}):
        raise Invalid(f"{where} holds a lone surrogate (half a character), which UTF-8 cannot write")
    return Told(messages, tools, layout)


def _messages(row: Mapping[str, Any], names: Fields) -> tuple[list[dict[str, Any]], str]:
    if names.messages:
        return turns_of(_required(row, names.messages), names.messages, names), f"messages ({names.messages})"
    if names.dialogue:
        text = _required(row, names.dialogue)
        return hh_turns(text if isinstance(text, str) else "", names.dialogue), f"hh ({names.dialogue})"
    if names.prompt:
        question, answer = _required(row, names.prompt), _required(row, names.response)
        about = _get(row, names.input) if names.input else None
        layout = f"{names.prompt}/{names.response}"
        return _pair(question, answer, about, names.prompt, names.response, names), layout
    for name in _TURN_LISTS:
        value = _json_list(row.get(name))
        if isinstance(value, list) or (isinstance(value, str) and _PRINTED.match(value)):
            return turns_of(value, name, names), _layout_of(list(value), name)
    for name in _HH_FIELDS:
        value = row.get(name)
        if isinstance(value, str) and _HH_TURN.match(value):
            return hh_turns(value, name), f"hh ({name})"
    if isinstance(row.get("chosen"), list):
        return turns_of(row["chosen"], "chosen", names), "messages (chosen)"
    return _by_names(row, names)


def _layout_of(turns: list[Any], name: str) -> str:
    first = turns[0] if turns else None
    if isinstance(first, str):
        return f"alternating texts ({name})"
    return f"{'sharegpt' if isinstance(first, Mapping) and 'from' in first else 'messages'} ({name})"


def _by_names(row: Mapping[str, Any], names: Fields) -> tuple[list[dict[str, Any]], str]:
    """A question and an answer under the usual names."""
    answers = [name for name in _ANSWERS if row.get(name) is not None]
    if row.get("instruction") is not None and answers:
        question, about = "instruction", row.get("input") if row.get("input") is not None else row.get("context")
        questions = [question]
        answers = ["output"] if "output" in answers else answers
    else:
        questions, about = [name for name in _QUESTIONS if row.get(name) is not None], row.get("context")
    if not questions or not answers:
        held = ", ".join(sorted(map(str, row))[:8]) or "nothing"
        if row.get("chosen") is not None and row.get("rejected") is not None:
            raise Invalid(f"a preference, no conversation (it has {held}): bring it as preferences.path")
        raise Invalid(
            f"no conversation: the row has {held}; it takes messages, conversations, instruction and output, prompt "
            "and completion, question and answer, or an HH dialogue as text; `fields` gives other names"
        )
    for kind, found in (("question", questions), ("answer", answers)):
        if len(found) > 1:
            raise Invalid(f"the {kind} may be {' or '.join(found)}: `fields` says which (prompt = …, response = …)")
    [question], [answer] = questions, answers
    messages = _pair(row[question], row[answer], about, question, answer, names)
    history = _json_list(row.get("history"))
    if isinstance(history, list):
        earlier: list[dict[str, Any]] = []
        for index, pair in enumerate(history):
            if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                raise Invalid(f"history[{index}] is no pair of a question and an answer")
            earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        messages = [*earlier, *messages]
    return messages, f"alpaca (instruction/{answer})" if question == "instruction" else f"{question}/{answer}"


def _pair(
    question: Any, answer: Any, about: Any, question_name: str, answer_name: str, names: Fields
) -> list[dict[str, Any]]:
    question, answer = turns_or_text(question, question_name), turns_or_text(answer, answer_name)
    for name, value in ((question_name, question), (answer_name, answer)):
        if not isinstance(value, str | list):
            raise Invalid(f"{name} is {_kind(value)}, not text")
        if isinstance(value, str) and not value.strip():
            raise Invalid(f"{name} is empty")
    if isinstance(question, list):
        asked = turns_of(question, question_name, names)
    elif _HH_TURN.match(question):
        asked = hh_turns(re.sub(r"\n\nAssistant:\s*$", "", question), question_name)
    else:
        if about is not None and not isinstance(about, str):
            raise Invalid(f"what the question is about (input or context) is {_kind(about)}, not text")
        asked = [{"role": "user", "content": f"{question}\n\n{about}" if about and about.strip() else question}]
    if isinstance(answer, list):
        return [*asked, *turns_of(answer, answer_name, names)]
    return [*asked, {"role": "assistant", "content": answer}]


# -- turns ------------------------------------------------------------------------------------------------------------


def hh_turns(text: str, name: str) -> list[dict[str, Any]]:
    """The turns of a dialogue as HH-RLHF writes it. Raises Invalid, which names the field, for any other text."""
    parts = _HH_TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise Invalid(f"{name} does not begin with '\\n\\nHuman:'")
    return [
        {"role": _HH_ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def turns_of(value: object, name: str, names: Fields | None = None) -> list[dict[str, Any]]:
    """A list of turns in any of the known spellings, as messages. Raises Invalid, which names the field and turn."""
    names = names or Fields()
    value = _json_list(value)
    if isinstance(value, str):
        turns_or_text(value, name)
    if not isinstance(value, list):
        raise Invalid(f"{name} is {_kind(value)}, not a list of turns")
    if value and all(isinstance(turn, str) for turn in value):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    messages: list[dict[str, Any]] = []
    for index, turn in enumerate(value):
        messages.append(_turn(turn, f"{name}[{index}]", names))
    return messages


def _turn(turn: object, where: str, names: Fields) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise Invalid(f"{where} is {_kind(turn)}, not a turn with a role and a content")
    role_name = names.role or next((name for name in _ROLE_NAMES if turn.get(name) is not None), "")
    content_name = names.content or next((name for name in _CONTENT_NAMES if name in turn), "")
    said = turn.get(role_name)
    if not isinstance(said, str):
        held = ", ".join(map(str, turn)) or "nothing"
        raise Invalid(f"{where} has no role (it has {held})" if said is None else f"{where}: the role is no text")
    role = names.roles.get(said) or (_ROLE_OF.get(said.strip().lower()) if not names.roles else None)
    if role is None and said in ROLES:
        role = said
    if role is None:
        raise Invalid(f"{where}: unknown role {said!r}; it takes {', '.join(ROLES)}; `fields.roles` translates others")
    calls = _calls(turn, where)
    content = _text(turn.get(content_name), bool(calls), where)
    if role == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _written_calls(content, where)}
    if turn.get("weight") == 0 and role == "assistant":
        raise Invalid(f"{where}: weight 0: an answer that is not to be learned cannot be left out of a conversation")
    message: dict[str, Any] = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        if isinstance(turn.get(name), str) and role == "tool":
            message[name] = turn[name]
    return message


def _text(content: object, may_be_missing: bool, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None and may_be_missing:
        return ""
    if isinstance(content, list):
        parts = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") in _TEXT_PARTS else part
            if not isinstance(text, str):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise Invalid(f"{where}: a part of the content is {kind!r}: only text can be learned")
            parts.append(text)
        return "".join(parts)
    raise Invalid(f"{where}: content is {'missing' if content is None else _kind(content) + ', not text'}")


def _calls(turn: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    given = turn.get("tool_calls")
    if not given and isinstance(turn.get("function_call"), Mapping):
        given = [{"function": turn["function_call"]}]
    if not given:
        return []
    if not isinstance(given, list):
        raise Invalid(f"{where}: tool_calls is {_kind(given)}, not a list")
    return [_call(one, f"{where}: tool_calls[{index}]") for index, one in enumerate(given)]


def _call(call: object, where: str) -> dict[str, Any]:
    """A call with its arguments as an object: in requests they are JSON as text, in templates an object."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Invalid(f"{where} names no function")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise Invalid(f"{where}: the arguments are no JSON") from None
    if not isinstance(arguments or {}, Mapping):
        raise Invalid(f"{where}: the arguments are {_kind(arguments)}, not an object")
    made = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments or {})}}
    identity = call.get("id") if isinstance(call, Mapping) else None
    return {"id": identity, **made} if isinstance(identity, str) else made


def _written_calls(content: str, where: str) -> list[dict[str, Any]]:
    try:
        written = json.loads(content)
    except (ValueError, RecursionError):
        raise Invalid(f"{where}: a call of a function that is no JSON with name and arguments") from None
    return [_call(one, where) for one in (written if isinstance(written, list) else [written])]


def _tools(row: Mapping[str, Any], names: Fields) -> list[dict[str, Any]]:
    found = _first(row, (names.tools,) if names.tools else ("tools", "functions"))
    value = _json_list(found[1]) if found else None
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise Invalid(f"{found[0] if found else 'tools'} is no list of functions")
    return [dict(one) if "function" in one else {"type": "function", "function": dict(one)} for one in value]


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise Invalid("no turn of the assistant: there is nothing to learn" if messages else "no turns")
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and not any(m["role"] == "user" for m in messages[:index]):
            raise Invalid(f"messages[{index}]: the assistant speaks before the user: there is no prompt")
        if (
            message["role"] in ("user", "assistant")
            and not message["content"].strip()
            and not message.get("tool_calls")
        ):
            raise Invalid(f"messages[{index}]: the turn of the {message['role']} is empty")


# -- fields -----------------------------------------------------------------------------------------------------------


def _get(row: Any, name: str) -> Any:
    """The field of that name, or what a path of names with dots leads to; None where there is nothing."""
    if isinstance(row, Mapping) and name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def _required(row: Mapping[str, Any], name: str) -> Any:
    value = _get(row, name)
    if value is None:
        raise Invalid(f"no field {name!r}; the row has {', '.join(sorted(map(str, row))[:8]) or 'none'}")
    return value


def _first(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    return next(((name, value) for name in names if (value := _get(row, name)) is not None), None)


def _json_list(value: Any) -> Any:
    """A list that a cell of a table holds as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


def turns_or_text(value: Any, name: str) -> Any:
    """A question or an answer: text that spells a list of turns in JSON is that list, any other JSON is text.

    Raises Invalid, which names the field, for turns as Python or numpy print them: they would be learned as prose.
    """
    if isinstance(value, str) and _PRINTED.match(value):
        raise Invalid(
            f"{name} holds turns as Python prints them, not JSON: write them with json.dumps, or as JSON lines"
        )
    found = _json_list(value)
    if isinstance(found, list) and all(isinstance(turn, Mapping) and set(turn) & {*_ROLE_NAMES} for turn in found):
        return found
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
