from __future__ import annotations

import random
from collections import Counter

import pytest

from components.data.instruction import InstructionConfig, generate_conversations
from components.data.stories import NAMES, OBJECTS, generate_stories, generate_story_conversations, story, story_prompt
from components.reasoning.tasks import HeldOutProblems, SuiteConfig


def test_shares_are_those_asked_for_and_held_out_questions_are_left_out() -> None:
    held_out = SuiteConfig(difficulties=(1,), per_difficulty=400).held_out()
    config = InstructionConfig(num_conversations=3000, max_difficulty=1, story_share=0.3, worked_share=0.75)
    made = list(generate_conversations(config, 0, held_out))
    assert len(made) == 3000
    counts = Counter(conversation.source for conversation in made)
    # Four standard errors of a share of 3,000.
    assert counts["stories"] / 3000 == pytest.approx(0.3, abs=0.034)
    assert counts["worked"] / (counts["worked"] + counts["direct"]) == pytest.approx(0.75, abs=0.04)
    asked = {conversation.messages[0].content for conversation in made}
    assert not any(text.startswith(f"{question} ") for text in asked for question in held_out.questions)


def test_one_seed_gives_one_list() -> None:
    config = InstructionConfig(num_conversations=50)
    assert list(generate_conversations(config, 1, HeldOutProblems())) == list(
        generate_conversations(config, 1, HeldOutProblems())
    )
    assert list(generate_conversations(config, 1, HeldOutProblems())) != list(
        generate_conversations(config, 2, HeldOutProblems())
    )


def test_requested_words_are_honoured_as_often_as_asked() -> None:
    pairs = generate_story_conversations(0, obedience=1.0)
    for _, (request, told) in zip(range(200), pairs, strict=False):
        name, thing = next((n, o) for n in NAMES for o in OBJECTS if story_prompt(n, o) == request)
        if "{name}" in told or "{thing}" in told:
            pytest.fail(f"a template was not filled in: {told}")
        assert not {n for n in NAMES if n in told.split()} - {name}
        assert not {o for o in OBJECTS if f"{o}." in told} - {thing}


def test_stories_end_when_told_to() -> None:
    rng = random.Random(0)
    assert story(rng, ending=True).endswith("The end.")
    assert not story(rng, ending=False).endswith("The end.")
    first, again = generate_stories(3), generate_stories(3)
    assert [next(first) for _ in range(5)] == [next(again) for _ in range(5)]


@pytest.mark.parametrize("settings", [{"story_share": 1.2}, {"worked_share": -0.1}, {"num_conversations": 0}])
def test_shares_and_counts_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        InstructionConfig(**settings)  # type: ignore[arg-type]
