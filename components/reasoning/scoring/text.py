"""Where a text says its answer: behind a marker, in a box, in a block of code.

Thoughts (`<think>…</think>`) are no answer, and a text that goes on to recite the next question ends there. A text that
was cut off has an answer only where a marker announced it before the cut, and text follows it: "#### 1" may have been
on its way to "#### 18".
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

MARKERS = ("####", "answer is", "answer should be", "answer would be", "answer =", "answer:")
_RECITED = re.compile(r"\n[ \t]*(?:Q|Question|Problem)\s*:")
_BRACE = re.compile(r"\\f?boxed\s*\{|[{}]")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(r'"(?:final_)?answer"\s*:\s*("(?:[^"\\]|\\.)*"|[-\w.+]+)', re.IGNORECASE)
_BLANKS = re.compile(r"(?:\\ )+")
_HEADING = r"(?m:^[#*_ \t]*(?:final )?answer[*_ \t]*$)"
_FENCE = re.compile(r"```[ \t]*([\w+#-]*)[^\n`]*\n(.*?)```", re.DOTALL)
_REFUSAL = re.compile(
    r"\s*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)?[,.;:]?\s*(?:but )?(?:as an ai[^,.]*[,.]\s*)?"
    r"i (?:can['’]?t|cannot|can not|am unable to|['’]?m unable to|won['’]?t|will not|am not able to)\s+"
    r"(?:help|assist|answer|provide|comply|fulfil|discuss|engage|continue|do that|with)",
    re.IGNORECASE,
)


def spoken(text: str) -> str:
    """The part of an answer that speaks to the user: without thoughts, up to a recited next question."""
    without = _without_thoughts(text)
    if "</think>" in without:  # a template may have opened the thought in the prompt
        without = without.rpartition("</think>")[2]
    without = without.partition("<think>")[0]
    return _RECITED.split(without, maxsplit=1)[0]


def _without_thoughts(text: str) -> str:
    """Without what stands between a beginning and an end of thoughts; one pass, however many there are."""
    kept, at = [], 0
    while (start := text.find("<think>", at)) >= 0 and (end := text.find("</think>", start)) >= 0:
        kept.append(text[at:start])
        at = end + len("</think>")
    return "".join([*kept, text[at:]])


def boxed(text: str) -> str:
    """What the last `\\boxed{…}` holds, braces nested; "" where there is none that is closed."""
    return _boxed(text)[1]


def enclosed(text: str) -> tuple[int, str]:
    """Where the last answer in a box, in `<answer>…</answer>`, or in a JSON object under "answer" begins, and what it
    is; (-1, "") where there is none."""
    found = [_boxed(text)]
    for pattern in (_TAGGED, _JSON):
        if (last := next(iter(deque(pattern.finditer(text), maxlen=1)), None)) is not None:
            found.append((last.start(), last[1].strip().strip('"')))
    start, inner = max(found)
    return start, boxed(inner) or inner


def _boxed(text: str) -> tuple[int, str]:
    opened: list[int] = []  # where what a brace holds begins, -1 for one that is no box
    last = (-1, -1)
    for token in _BRACE.finditer(text):
        if token[0] != "}":
            opened.append(token.end() if len(token[0]) > 1 else -1)
        elif opened and (start := opened.pop()) > last[0]:
            last = (start, token.start())
    return (last[0], text[last[0] : last[1]].strip()) if last[0] >= 0 else (-1, "")


def after_marker(text: str, markers: Sequence[str] = MARKERS, finished: bool = True) -> str:
    """The rest of the line behind the last marker, case ignored, or the line below where that is the last; "" where no
    marker stands. Of a text that was cut off only a line that another follows."""
    found = _last(text, markers)
    if found is None:
        return ""
    rest = text[found.end() :].lstrip(" \t:*_")
    below = rest.strip()
    line, newline, _ = (below, "", "") if rest.startswith("\n") and "\n" not in below else rest.partition("\n")
    return line.strip(" \t*") if newline or finished else ""


def marked(text: str, markers: Sequence[str], finished: bool) -> str:
    """What is announced as the answer: behind a marker or enclosed, whichever stands later."""
    (start, inner), line = enclosed(text), after_marker(text, markers, finished)
    if inner and line:
        place = _last(text, markers)
        return enclosed(line)[1] or (inner if place is None or start > place.start() else line)
    return inner or line


def _last(text: str, markers: Sequence[str]) -> re.Match[str] | None:
    """The last marker."""
    return next(iter(deque(_any_of(tuple(markers)).finditer(text), maxlen=1)), None)


@lru_cache(maxsize=64)
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Case ignored, asterisks of emphasis let pass; "answer:" also as a heading; without markers it finds none. What is
    said not to be the answer is not announced."""
    forms = [_BLANKS.sub(r"[\\s*_]+", re.escape(marker)).replace(":", r"[*_]*\s?[:：]") for marker in markers]
    forms += [_HEADING] if "answer:" in (marker.lower() for marker in markers) else []
    return re.compile(rf"(?:{'|'.join(forms)})(?!\s+not\b)" if forms else r"(?!)", re.IGNORECASE)


def code_block(text: str, *languages: str) -> str | None:
    """The last fenced block in one of the languages (case ignored) or without a language; without languages the last of
    any. None where there is none."""
    wanted = ("", *languages)
    blocks = [body for language, body in _FENCE.findall(text) if not languages or language.lower() in wanted]
    return str(blocks[-1]) if blocks else None


def refuses(text: str) -> bool:
    """Whether a text begins by declining to answer ("I'm sorry, but I can't help with that")."""
    return _REFUSAL.match(text.lstrip()[:300]) is not None
