from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from typing import Any

import pytest

from components.data.instruction import ConversationSource, InstructionConfig, generate_conversations
from components.data.stories import NAMES, OBJECTS, generate_stories, generate_story_conversations, story, story_prompt
from components.reasoning.tasks import HeldOutProblems, SuiteConfig
from flows.config import load_config


def test_shares_are_those_asked_for_and_held_out_questions_are_left_out() -> None:
    held_out = SuiteConfig(difficulties=(1,), per_difficulty=400).held_out()
    sums = ConversationSource("sums", "sums", weight=0.7, max_difficulty=1, worked_share=0.75)
    config = InstructionConfig(3000, (ConversationSource("stories", "stories", weight=0.3), sums))
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


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": ""}, "no name"),
        ({"path": ""}, "'mine': kind 'files' takes a path"),
        ({"kind": "sums"}, "'mine': kind 'sums' takes no path"),
        ({"weight": 0}, "weight is 0"),
        ({"max_bad_share": 1.1}, "max_bad_share is 1.1"),
        ({"worked_share": -0.1}, "worked_share is -0.1"),
        ({"max_difficulty": 0}, "max_difficulty is 0"),
    ],
)
def test_a_wrong_setting_of_a_source_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ConversationSource(**({"name": "mine", "path": "x.jsonl"} | settings))


def test_sources_without_any_or_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="num_conversations is 0"):
        InstructionConfig(num_conversations=0)
    with pytest.raises(ValueError, match="no instruction source"):
        InstructionConfig(sources=())
    with pytest.raises(ValueError, match="'a' is named twice"):
        InstructionConfig(sources=(ConversationSource("a", "sums"), ConversationSource("a", "stories")))


def test_the_default_life_learns_from_the_conversations_that_it_always_had() -> None:
    """A digest of what was generated before sources could be named: the laptop's 14,000 and the default 12,000."""
    for config, digest in (
        (load_config("laptop").instruction, "69fd88c9a0d4a5a5"),
        (InstructionConfig(), "595020e1be6ae0ee"),
    ):
        whole = hashlib.sha256()
        for made in generate_conversations(config, 0, HeldOutProblems()):
            whole.update(json.dumps([made.as_dicts(), made.source]).encode())
        assert whole.hexdigest()[:16] == digest
