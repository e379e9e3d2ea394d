"""Exact match as a task of lm-evaluation-harness defines it: filters find the answer in a text, which is compared."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.rlhf.rewards.answers import Sample, Score

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)
OPTIONS, RULES = "lm_eval_options", "lm_eval_rules"  # of a question's metadata


@dataclass(frozen=True)
class LmEvalVerifier:
    """Exact match after the filters of the task, which lie in the metadata of each of its questions."""

    kind: str = "lm_eval"

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt cannot be judged; "" where it can."""
        return "" if RULES in metadata else "the rules of its task are not with it"

    def score(self, sample: Sample) -> Score:
        """1 where the filtered answer equals the reference; one in which no filter finds any is unparsed or truncated.
        What follows a text that ends an answer is no part of it."""
        rules = json.loads(str(sample.metadata[RULES]))
        found: str | None = sample.completion
        finished = sample.finished or any(stop in sample.completion for stop in rules.get("stop", []))
        for stop in rules.get("stop", []):
            found = found.partition(stop)[0] if found else found
        for step in rules.get("filters", []):
            found = _filtered(step, found) if found is not None else None
        if found is None:
            return Score(0.0, "unparsed" if finished else "truncated")
        right = _comparable(found, rules) == _comparable(sample.answer, rules)
        return Score(float(right), "answered", found.strip())


def _filtered(step: Mapping[str, Any], text: str) -> str | None:
    """A text through one filter; None where a pattern finds nothing."""
    if step["function"] == "lowercase":
        return text.lower()
    if step["function"] == "remove_whitespace":
        return text[1:] if text.startswith(" ") else text
    found = re.findall(str(step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)")), text)
    try:
        chosen = found[int(step.get("group_select", 0))]
    except IndexError:
        return None
    caught = next((one for one in chosen if one), "") if isinstance(chosen, tuple) else chosen
    return str(caught).strip()


def _comparable(text: str, rules: Mapping[str, Any]) -> str:
    for pattern in rules.get("regexes_to_ignore", []):
        text = re.sub(pattern, "", text)
    text = text.lower() if rules.get("ignore_case") else text
    text = text.translate(_PUNCTUATION) if rules.get("ignore_punctuation") else text
    return text.translate(_DIGITS) if rules.get("ignore_numbers") else text
