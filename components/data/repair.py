"""Text that was decoded wrongly on its way, put right by ftfy (Speer 2019, zenodo 2591652)."""

from __future__ import annotations

import re

# UTF-8 read as another encoding leaves two characters beyond ASCII side by side, or one before a blank that was one.
_SUSPICIOUS = re.compile("[^\x00-\x7f]{2}|[\x80-\x9f]|[\u00c2\u00c3\u00e2] |&[#A-Za-z][0-9A-Za-z]{1,24};")
_ENTITY = re.compile("&[#A-Za-z][0-9A-Za-z]{1,24};")
_PIECE = 100_000  # characters at a time, so that ftfy's own searches stay short


def repair(text: str) -> str:
    """Undo mojibake ("schÃ¶n" -> "schön") and HTML entities; quotation marks, ligatures and widths stay as they are.

    ftfy changes a text only where the result is less odd than what was there; most texts hold nothing to look at, and
    are not shown to it.
    """
    if not (_ENTITY if text.isascii() else _SUSPICIOUS).search(text):
        return text
    from ftfy import TextFixerConfig, fix_text

    config = TextFixerConfig(
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    lines = text.splitlines(keepends=True)
    pieces = (line[start : start + _PIECE] for line in lines for start in range(0, len(line), _PIECE))
    return "".join(fix_text(piece, config) if _SUSPICIOUS.search(piece) else piece for piece in pieces)
