"""Plain text cut into documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def cut_passages(lines: Iterable[str], passage_chars: int) -> Iterator[str]:
    """Join lines into passages that end at a blank line once `passage_chars` are reached, at any line at twice that.

    A single line longer than twice the length is cut at blanks. ``"".join`` of the result is the text. 0: one passage.
    """
    held: list[str] = []
    length = 0
    for line in _short_lines(lines, 2 * passage_chars) if passage_chars else lines:
        held.append(line)
        length += len(line)
        ends_paragraph = not line.strip() or "\n" not in line
        if passage_chars and (length >= 2 * passage_chars or (length >= passage_chars and ends_paragraph)):
            yield "".join(held)
            held, length = [], 0
    if held:
        yield "".join(held)


def _short_lines(lines: Iterable[str], most: int) -> Iterator[str]:
    for line in lines:
        while len(line) > most:
            sentence_end = line.rfind(". ", most // 4, most // 2)
            cut = (sentence_end + 1 or line.rfind(" ", 1, most // 2)) if most > 2 else 0
            cut = cut + 1 if cut > 0 else most
            yield line[:cut]
            line = line[cut:]
        yield line
