"""Preferences of which one answer is chosen and one rejected: as text, as messages, as whole dialogues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.data.conversation_formats import Invalid, hh_turns, turns_of, turns_or_text
from components.rlhf.preferences import Preference, Turn, defect, preference_from_row

SIDES = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("chosen_response", "rejected_response"),
    ("response_j", "response_k"),
    ("winner_response", "loser_response"),
    ("accepted", "rejected"),
    ("better", "worse"),
)
_TURN_LISTS = ("conversations", "messages", "conversation")
_QUESTIONS = ("question", "query", "problem", "instruction", "history", "post", "user", "user_prompt", "human")
_ABOUT = ("input", "context")  # what a question is about
_KEPT = ("margin", "annotator", "confidence", "source")  # what a row may say of its pair
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Line:
    """The pairs of one record, how many of its comparisons are ties, and the layout in which it was written."""

    layout: str
    pairs: tuple[Preference, ...]
    ties: int = 0


# -- the prompt -------------------------------------------------------------------------------------------------------


def prompt_turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns up to the answers; none where the row names no prompt."""
    turns = _question(row)
    system = next((row[name] for name in ("system", "system_prompt") if isinstance(row.get(name), str)), "")
    if turns and system.strip() and not any(turn.role == "system" for turn in turns):
        return (Turn("system", system), *turns)
    return turns


def _question(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    given = turns_or_text(row.get("prompt"), "prompt")
    if isinstance(given, Mapping):
        given = given.get("messages")
    if given is not None:
        if isinstance(given, str):
            return _from_text(given + _about(row), "prompt")
        return _turns(given, "prompt")
    if isinstance(row.get("input"), Mapping):
        return _turns(row["input"].get("messages"), "input.messages")
    for name in _TURN_LISTS:
        if row.get(name) is not None:
            return _turns(row[name], name)
    held = [name for name in _QUESTIONS if row.get(name) is not None] or ["input"]
    if len(held) > 1:
        raise Invalid(f"the prompt may be {' or '.join(held)}: call the right one prompt")
    value = row.get(held[0])
    if isinstance(value, Mapping):  # WebGPT's comparisons
        value = value.get("full_text")
    if value is None:
        return ()
    if not isinstance(value, str):
        return _turns(value, held[0])
    return _from_text(value if held[0] == "input" else value + _about(row), held[0])


def _about(row: Mapping[str, Any]) -> str:
    """What stands behind a question: an empty line, and what it is about."""
    texts = [row[name] for name in _ABOUT if isinstance(row.get(name), str) and row[name].strip()]
    return "".join(f"\n\n{text}" for text in texts)


def _from_text(text: str, name: str) -> tuple[Turn, ...]:
    if _HH_TURN.match(text):
        return _as_turns(hh_turns(re.sub(r"\n\nAssistant:\s*$", "", text), name), name)
    return (Turn("user", text),)


def _turns(value: object, name: str) -> tuple[Turn, ...]:
    if isinstance(value, Mapping):
        inner = next((value[held] for held in _TURN_LISTS if held in value), None)
        value = [value] if inner is None else inner
    return _as_turns(turns_of(value, name), name)


def _as_turns(messages: Sequence[Mapping[str, Any]], name: str) -> tuple[Turn, ...]:
    for index, message in enumerate(messages):
        if message["role"] == "tool" or message.get("tool_calls"):
            raise Invalid(f"{name}[{index}]: turns and calls of tools have no place in a preference")
    return tuple(Turn(message["role"], message["content"]) for message in messages)


# -- chosen and rejected ----------------------------------------------------------------------------------------------


def chosen_and_rejected(row: Mapping[str, Any], chosen_name: str, rejected_name: str) -> Line:
    chosen, rejected = _answer(row[chosen_name], chosen_name), _answer(row[rejected_name], rejected_name)
    named = {"chosen": chosen, "rejected": rejected}
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        return _chat(row, _turns(chosen, chosen_name), _turns(rejected, rejected_name))
    for name, value in ((chosen_name, chosen), (rejected_name, rejected)):
        if not isinstance(value, str):
            raise Invalid(f"{name} is {type(value).__name__} where the other is text")
    prompt = turns_or_text(row.get("prompt"), "prompt")
    if isinstance(prompt, str) and not (_HH_TURN.match(prompt) or _system(row) or _about(row)):
        return Line("trl", (_sourced(_checked({**row, **named}), "trl"),))
    asked = prompt_turns(row)
    if not asked and (_HH_TURN.match(chosen) or _HH_TURN.match(rejected)):
        return _hh(chosen, rejected)
    if not asked:
        return _implicit_text(row, chosen, rejected, {chosen_name, rejected_name})
    return from_turns("trl", asked, (Turn("assistant", chosen),), (Turn("assistant", rejected),), row)


def _answer(value: Any, name: str) -> Any:
    """A text, or turns: those that a cell of a table holds as JSON, and the one text of a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    return turns_or_text(value, name)


def _system(row: Mapping[str, Any]) -> bool:
    return any(isinstance(row.get(name), str) and row[name].strip() for name in ("system", "system_prompt"))


def _checked(row: Mapping[str, Any]) -> Preference:
    found = preference_from_row(row)
    if isinstance(found, str):
        raise Invalid(found)
    return found


def _sourced(preference: Preference, source: str) -> Preference:
    return preference if preference.source else replace(preference, source=source)


def _implicit_text(row: Mapping[str, Any], chosen: str, rejected: str, sides: set[str]) -> Line:
    """The prompt is what both begin with, up to the last white space, so that no word is cut; only where no other
    field can hold it."""
    if reason := defect("-", chosen, rejected):
        raise Invalid(reason)
    others = [str(name) for name, value in row.items() if isinstance(value, str) and name not in (*sides, *_KEPT)]
    if texts := [name for name in others if len(row[name].split()) > 1]:
        raise Invalid(f"prompt is missing, and {texts[0]} is not read: call the field with the prompt prompt")
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    same = min(len(chosen), len(rejected)) if same is None else same
    cut = max((m.end() for m in re.finditer(r"\s+", chosen[:same])), default=0)
    prompt = chosen[:cut].strip()
    if not prompt:
        raise Invalid("prompt is missing, and chosen and rejected do not begin with the same words")
    found = _checked({**row, "prompt": prompt, "chosen": chosen[cut:], "rejected": rejected[cut:]})
    return Line("trl", (_sourced(found, "trl"),))


def _chat(row: Mapping[str, Any], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> Line:
    asked = prompt_turns(row)
    spoken = tuple(turn for turn in asked if turn.role != "system")
    for start in (asked, spoken):  # dialogues that begin with the prompt, with or without its system turn
        if start and all(_begins(side, start) for side in (chosen, rejected)):
            asked = ()
    layout = "sharegpt" if "conversations" in row else "openai" if "preferred_output" in row else "trl-chat"
    return from_turns(layout, asked, chosen, rejected, row)


def _begins(side: tuple[Turn, ...], start: tuple[Turn, ...]) -> bool:
    heard = side[1:] if side[:1] and side[0].role == "system" and start[0].role != "system" else side
    return len(heard) > len(start) and heard[: len(start)] == start


def from_turns(
    layout: str, prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...], row: Mapping[str, Any]
) -> Line:
    """A pair from two continuations; without a prompt, from two dialogues that begin alike and differ at their end."""
    if not prompt:
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        if same is None:
            if len(chosen) != len(rejected):
                raise Invalid("one dialogue is the beginning of the other")
            raise Invalid("chosen and rejected are equal" if chosen else "chosen is empty")
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side:
            raise Invalid(f"{name} is empty")
        if len(side) > 1:
            raise Invalid(f"{name} has {len(side)} turns after the shared prompt: it takes one answer")
        if side[0].role != "assistant":
            raise Invalid(f"{name} answers as {side[0].role!r}: an answer is the assistant's")
    if not prompt or prompt[-1].role != "user":
        raise Invalid("the prompt does not end with a turn of the user" if prompt else "prompt is missing")
    fields = {
        **{name: row[name] for name in _KEPT if name in row},
        "prompt": prompt[-1].content,
        "chosen": chosen[0].content,
        "rejected": rejected[0].content,
        "context": [{"role": turn.role, "content": turn.content} for turn in prompt[:-1]],
    }
    return Line(layout, (_sourced(_checked(fields), layout),))


def _hh(chosen: str, rejected: str) -> Line:
    sides = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        turns = _as_turns(hh_turns(text, name), name)
        if turns[-1].role != "assistant":
            raise Invalid(f"{name} does not end with a turn of the assistant")
        sides.append(turns)
    return from_turns("hh", (), sides[0], sides[1], {})
