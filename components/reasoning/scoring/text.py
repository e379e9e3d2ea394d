"""Where a text says its answer: behind a marker, in a box, in a block of code.

Thoughts (`<think>…</think>`) are no answer, and a text that goes on to recite the next question ends there. A text that
was cut off has an answer only where a marker announced it before the cut, and text follows it: "#### 1" may have been
on its way to "#### 18".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKERS = ("####", "the final answer is", "the answer is", "final answer:", "answer:")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_RECITED = re.compile(r"\n\s*(?:Q|Question|Problem)\s*:")
_FENCE = re.compile(r"```[ \t]*([\w+#-]*)[^\n]*\n(.*?)```", re.DOTALL)
_REFUSAL = re.compile(
    r"\s*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)?[,.;:]?\s*(?:but )?(?:as an ai[^,.]*[,.]\s*)?"
    r"i (?:can['’]?t|cannot|can not|am unable to|['’]?m unable to|won['’]?t|will not|am not able to)\s+"
    r"(?:help|assist|answer|provide|comply|fulfil|discuss|engage|continue|do that|with)",
    re.IGNORECASE,
)


def spoken(text: str) -> str:
    """The part of an answer that speaks to the user: without thoughts, up to a recited next question."""
    without = _THOUGHT.sub("", text)
    if "</think>" in without:  # a template may have opened the thought in the prompt
        without = without.rpartition("</think>")[2]
    without = without.partition("<think>")[0]
    return _RECITED.split(without, maxsplit=1)[0]


def boxed(text: str) -> str:
    """What the last `\\boxed{…}` holds, braces nested; "" where there is none that is closed."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start + len("\\boxed{") : place].strip()
        start = text.rfind("\\boxed{", 0, start)
    return ""


def after_marker(text: str, markers: Sequence[str] = MARKERS, finished: bool = True) -> str:
    """The rest of the line behind the last marker, case ignored; "" where no marker stands. Of a text that was cut off
    only a line that another follows."""
    lowered = text.lower()
    found = max(((lowered.rfind(marker.lower()), len(marker)) for marker in markers), default=(-1, 0))
    if found[0] < 0:
        return ""
    line, newline, _ = text[found[0] + found[1] :].lstrip(" \t:*").partition("\n")
    return line.strip(" \t*") if newline or finished else ""


def marked(text: str, markers: Sequence[str], finished: bool) -> str:
    """What is announced as the answer: behind a marker or in a box, whichever stands later."""
    box, line = boxed(text), after_marker(text, markers, finished)
    if box and line:
        return boxed(line) or (box if text.rfind("\\boxed{") > _last(text, markers) else line)
    return box or line


def _last(text: str, markers: Sequence[str]) -> int:
    lowered = text.lower()
    return max((lowered.rfind(marker.lower()) for marker in markers), default=-1)


def code_block(text: str, *languages: str) -> str | None:
    """The last fenced block in one of the languages (case ignored) or without a language; without languages the last of
    any. None where there is none."""
    wanted = ("", *languages)
    blocks = [body for language, body in _FENCE.findall(text) if not languages or language.lower() in wanted]
    return str(blocks[-1]) if blocks else None


def refuses(text: str) -> bool:
    """Whether a text begins by declining to answer ("I'm sorry, but I can't help with that")."""
    return _REFUSAL.match(text) is not None
