"""The requests that policies are trained on, and those that they are judged on."""

from __future__ import annotations

from components.data.stories import NAMES, OBJECTS, story_prompt

HELD_OUT_EVERY = 2  # half: what is claimed of held-out requests has an interval over requests, so they must not be few


def story_requests() -> tuple[list[str], list[str]]:
    """Requests to train on, and others to judge on; every name and every object stands in both parts."""
    every = [(i + j, story_prompt(name, thing)) for i, name in enumerate(NAMES) for j, thing in enumerate(OBJECTS)]
    held_out = [text for diagonal, text in every if diagonal % HELD_OUT_EVERY == 0]
    return [text for diagonal, text in every if diagonal % HELD_OUT_EVERY], held_out
