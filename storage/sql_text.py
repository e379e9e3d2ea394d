"""SQL as people type it: where a statement ends, whether anything is left, which parameters it has."""

from __future__ import annotations

import re

# Quoted texts and comments as a whole, unfinished ones up to the end, so that a `;` inside them ends nothing.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(\w*)\$.*?(?:\$\1\$|\Z)|;|.""", re.S
)


def split_statements(text: str) -> tuple[list[str], str]:
    """The statements of a text, each without its `;`, and the unfinished rest."""
    statements = []
    while (end := end_of_statement(text)) is not None:
        statements.append(text[:end])
        text = text[end + 1 :]
    return [statement for statement in statements if not is_blank(statement)], text


def end_of_statement(text: str) -> int | None:
    """Position of the first `;` outside quotes and comments; None when there is none."""
    return next((token.start() for token in _TOKEN.finditer(text) if token[0] == ";"), None)


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space and comments."""
    return not re.sub(r"--[^\n]*|/\*.*?(?:\*/|\Z)", "", text, flags=re.S).strip()


def parameter_names(sql: str) -> set[str]:
    """The names of the parameters, `$name`, in a statement."""
    return set(re.findall(r"\$([A-Za-z_]\w*)", sql))
