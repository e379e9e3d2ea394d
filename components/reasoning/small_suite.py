"""A small fixed evaluation that any checkpoint can take in a second: what it could do before, can it do now?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from components.data.stories import NAMES, OBJECTS, story_prompt
from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextPrompt
from components.reasoning.strategies import chain_item, chain_of_thought, direct
from components.reasoning.tasks import Problem


def spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """The first problems of each difficulty, `count` in all, or all if there are fewer."""
    levels = [list(group) for _, group in groupby(problems, key=lambda problem: problem.difficulty)]
    each = -(-count // max(1, len(levels)))
    return [problem for level in levels for problem in level[:each]][:count]


def story_requests(count: int) -> list[tuple[str, str, str]]:
    """(what the user says, name, object) of the first `count` pairs, names and objects taking turns."""
    pairs = [(NAMES[i % len(NAMES)], OBJECTS[(i + i // len(NAMES)) % len(OBJECTS)]) for i in range(count)]
    return [(story_prompt(name, thing), name, thing) for name, thing in pairs]


def small_suite(generate: Generate, problems: Sequence[Problem], num_stories: int) -> dict[str, list[bool]]:
    """Verdicts on greedy answers by task, item by item: chains in steps and at once, and stories that hold
    the name and the object that were asked for. No source of text should have a name of these."""
    items = [chain_item(problem) for problem in problems]
    asked = story_requests(num_stories)
    told = generate([TextPrompt(text) for text, _, _ in asked], SamplingParams(max_tokens=48, temperature=0.0))
    return {
        "chains worked": [outcome.correct for outcome in chain_of_thought(generate, items, 80)],
        "chains direct": [outcome.correct for outcome in direct(generate, items)],
        "stories told": [
            name in done.text and thing in done.text for (_, name, thing), (done,) in zip(asked, told, strict=True)
        ],
    }
