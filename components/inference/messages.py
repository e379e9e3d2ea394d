"""The messages of a chat request, as the chat template takes them.

What a template cannot show is refused by name where the conversation is rendered; nothing of a message is dropped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data.tokenizer import Tokenizer
from components.inference.api_error import ApiError, kind_of, shown

# Fields of a message beside these that say nothing when they are empty.
_EMPTY = ("refusal", "audio", "annotations", "function_call", "tool_calls", "reasoning_content", "reasoning", "prefix")
_PASSED = ("name", "tool_call_id", "reasoning_content")


def read_messages(value: Any, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A field `messages`. Raises ApiError naming the message and what of it is wrong or cannot be shown."""
    if not isinstance(value, list) or not value:
        raise ApiError(400, f"messages is {shown(value)}; it takes a list of at least one message", "messages")
    return [_message(message, f"messages[{index}]", tokenizer) for index, message in enumerate(value)]


def _message(message: Any, where: str, tokenizer: Tokenizer) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ApiError(400, f"{where} is {shown(message)}; it takes an object", "messages")
    role = message.get("role")
    if not isinstance(role, str):
        raise ApiError(400, f"{where}.role is {shown(role)}; it takes a string", "messages")
    if role == "developer" and not tokenizer.knows_role(role):
        role = "system"  # its newer name in OpenAI's API
    read: dict[str, Any] = {
        "role": role,
        "content": _content(message.get("content"), where, bool(message.get("tool_calls"))),
    }
    if message.get("tool_calls"):
        read["tool_calls"] = _calls(message["tool_calls"], f"{where}.tool_calls")
    for name, held in message.items():
        if name in _PASSED and held is not None:
            if not isinstance(held, str):
                raise ApiError(400, f"{where}.{name} is {shown(held)}; it takes a string", "messages")
            read[name] = held
        elif name not in ("role", "content", "tool_calls") and (name not in _EMPTY or held) and held is not None:
            raise ApiError(400, f"{where}.{name} is {shown(held)}: this server does not support it", "messages")
    return read


def _content(content: Any, where: str, calls: bool) -> str:
    if content is None and calls:
        return ""  # no template says more for null, and some can only join text
    if isinstance(content, list):  # a list of parts: this model can only read text
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) < len(content) or not all(isinstance(part, str) for part in parts):
            raise ApiError(400, f"{where}.content has a part that is not text", "messages")
        return "".join(map(str, parts))
    if not isinstance(content, str):
        raise ApiError(400, f"{where}.content is {kind_of(content)}; it takes a string", "messages")
    return content


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Calls of tools that an assistant made earlier, in OpenAI's form: arguments are JSON text."""
    if not isinstance(calls, list):
        raise ApiError(400, f"{where} is {shown(calls)}; it takes a list of calls", "messages")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        texts = isinstance(function, Mapping) and (function.get("name"), function.get("arguments"))
        if not texts or not all(isinstance(text, str) for text in texts):
            takes = 'an object with function: {"name": …, "arguments": "JSON text"}'
            raise ApiError(400, f"{where}[{number}] is {shown(call)}; it takes {takes}", "messages")
    return [dict(call) for call in calls]
