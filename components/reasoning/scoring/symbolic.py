"""Answers as mathematics, through `math-verify` (LaTeX and expressions, compared by sympy). Nothing is run."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any

_SECONDS = 5
_MAX_CHARS = 20_000  # of the end of a text


def expressions(text: str, seconds: int = _SECONDS) -> tuple[Any, ...]:
    """The last expression of a text in the forms that math-verify reads it in; empty where it has none. An expression
    on its own needs no delimiters."""
    return _parsed(text[-_MAX_CHARS:], seconds if _has_alarm() else None)


def as_latex(text: str) -> str:
    """An expression on its own: math-verify reads LaTeX only between delimiters."""
    plain = text.replace("\\$", "")  # of dollars
    return plain if "$" in plain or "\\[" in plain or "\\(" in plain else f"${plain}$"


def equal(wanted: tuple[Any, ...], found: tuple[Any, ...], seconds: int = _SECONDS) -> bool:
    """Whether two answers are one; False where that takes longer than `seconds`."""
    from math_verify import verify

    return bool(verify(list(wanted), list(found), timeout_seconds=seconds if _has_alarm() else None))


@lru_cache(maxsize=4096)
def _parsed(text: str, seconds: int | None) -> tuple[Any, ...]:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # what it cannot read, it returns nothing for
    return tuple(parse(text, parsing_timeout=seconds))


def _has_alarm() -> bool:
    """Its time limit is a signal, which only a main thread can take."""
    return threading.current_thread() is threading.main_thread()
