"""A small fixed evaluation that any checkpoint can take in a second: what it could do before, can it do now?"""

from __future__ import annotations

from collections.abc import Sequence

from components.data.stories import NAMES, OBJECTS, story_prompt
from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextPrompt
from components.reasoning.evaluation_sets import EvaluationConfig, as_item
from components.reasoning.items import chain_item
from components.reasoning.question_files import Question
from components.reasoning.strategies.chain_of_thought import CHAIN_OF_THOUGHT
from components.reasoning.strategies.direct import DIRECT
from components.reasoning.strategies.greedy import GREEDY
from components.reasoning.strategy import Trial
from components.reasoning.tasks import Problem


def _stories(count: int) -> list[tuple[str, str, str]]:
    """(what the user says, name, object) of the first `count` pairs, names and objects taking turns."""
    pairs = [(NAMES[i % len(NAMES)], OBJECTS[(i + i // len(NAMES)) % len(OBJECTS)]) for i in range(count)]
    return [(story_prompt(name, thing), name, thing) for name, thing in pairs]


def small_suite(generate: Generate, problems: Sequence[Problem], num_stories: int) -> dict[str, list[bool]]:
    """Verdicts on greedy answers by task, item by item: chains in steps and at once, and stories that hold
    the name and the object that were asked for. No source of text should have a name of these."""
    trial = Trial(generate, [chain_item(problem) for problem in problems], max_tokens=80)
    stories = _stories(num_stories)
    answers = generate([TextPrompt(text) for text, _, _ in stories], SamplingParams(max_tokens=48, temperature=0.0))
    return {
        "chains worked": [outcome.correct for outcome in CHAIN_OF_THOUGHT.answer(trial)],
        "chains direct": [outcome.correct for outcome in DIRECT.answer(trial)],
        "stories told": [
            name in done.text and thing in done.text for (_, name, thing), (done,) in zip(stories, answers, strict=True)
        ],
    }


def greedy_verdicts(generate: Generate, config: EvaluationConfig, questions: Sequence[Question]) -> list[bool]:
    """Whether the greedy answer to each question is right."""
    items = [as_item(question, config.verifier) for question in questions]
    return [outcome.correct for outcome in GREEDY.answer(Trial(generate, items, max_tokens=config.max_tokens))]
