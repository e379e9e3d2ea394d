"""Preferences as others write them: one record in, its pairs out, or the reason why it has none.

    trl            prompt, chosen, rejected as text; or chosen and rejected alone, which begin with the same prompt
    trl-chat       the same with lists of messages {"role", "content"}; the prompt may be text beside them
    sharegpt       conversations, with chosen and rejected as a turn {"from", "value"} each
    openai         {"input": {"messages"}, "preferred_output", "non_preferred_output"}
    hh             chosen and rejected as whole dialogues: "\\n\\nHuman: …\\n\\nAssistant: …"
    ultrafeedback  a prompt and completions with a score (or a rank) each; every two of different score become a pair,
                   equal scores are dropped and counted
    compared       a prompt, two answers (response_1 and response_2, answer_a and answer_b, …) and which one is better,
                   or a score for each; tasks of Label Studio and records of Argilla

The prompt may be called prompt, question, query, problem or instruction (with its input), with a system text beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.data.conversation_formats import Invalid
from components.data.records import lone_surrogate
from components.rlhf.chosen_rejected import SIDES, Line, chosen_and_rejected
from components.rlhf.judged_answers import argilla, by_score, compared, label_studio, scored_answers


def pairs_of(row: object) -> Line:
    """The pairs of one record. Raises Invalid with the reason where it has none."""
    if not isinstance(row, Mapping):
        raise Invalid(f"a {type(row).__name__}, not an object with chosen and rejected, or with completions")
    found = _pairs_of(row)
    for pair in found.pairs:
        if where := lone_surrogate(vars(pair) | {"context": [vars(turn) for turn in pair.context]}):
            raise Invalid(f"{where} holds a lone surrogate (half a character), which UTF-8 cannot write")
    return found


def _pairs_of(row: Mapping[str, Any]) -> Line:
    if isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list):
        return label_studio(row["data"], row["annotations"])
    if isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping):
        return argilla(row["fields"], row["responses"])
    for names in SIDES:
        if all(row.get(name) is not None for name in names):
            return chosen_and_rejected(row, *names)
    if (answers := scored_answers(row)) is not None:
        return by_score(row, answers)
    if (found := compared(row)) is not None:
        return found
    for name in ("chosen", "rejected"):
        if row.get(name) is None and row.keys() & {"chosen", "rejected"}:
            raise Invalid(f"{name} is missing")
    held = ", ".join(sorted(map(str, row))[:8]) or "nothing"
    raise Invalid(
        f"no preference: the row has {held}; it takes chosen and rejected, completions with scores, or two answers "
        "(response_1, response_2) and a preference"
    )
