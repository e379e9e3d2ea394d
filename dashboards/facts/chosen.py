"""Settings of a profile that were chosen because an effect shows with them: a reader must know that they were."""

from __future__ import annotations

# By profile and part of the report; where each was tried stands in docs/log.md.
CHOSEN = {
    ("laptop", "emergence"): (
        "sizes three to four times apart and sums up to 19, with which models of 54k parameters learned to calculate "
        "in 1,500 steps in five of six trainings; with sums up to 99 they did not"
    ),
    ("laptop", "scaling"): (
        "widths from 24 on, since smaller models do not follow the law; nothing was chosen that makes the irreducible "
        "loss identified, and it is not"
    ),
}


def chosen(profile: str, part: str) -> str:
    """In words, what was chosen; empty where nothing was."""
    return CHOSEN.get((profile, part), "")
