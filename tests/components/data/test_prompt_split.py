"""What training is watched and reported on has prompts of its own."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from components.data.conversations import Conversation, Message
from components.data.instruction import InstructionConfig, generate_conversations
from components.data.prompt_split import PromptSplit, prompt_of, split_by_prompt
from components.reasoning.tasks import HeldOutProblems


def prompts(split: PromptSplit) -> list[set[str]]:
    return [{prompt_of(c) for c in part} for part in (split.train, split.valid, split.test)]


def test_no_prompt_of_the_generated_conversations_is_in_two_parts() -> None:
    made = list(generate_conversations(InstructionConfig(num_conversations=4000), 0, HeldOutProblems()))
    train, valid, test = prompts(split := split_by_prompt(made, 0.03))
    assert not train & valid and not train & test and not valid & test
    for held_out in (valid, test):  # four standard errors of a share of all distinct prompts
        share, count = len(held_out) / len(train | valid | test), len(train | valid | test)
        assert share == pytest.approx(0.03, abs=4 * (0.03 * 0.97 / count) ** 0.5)
    assert Counter((*split.train, *split.valid, *split.test)) == Counter(made)  # nothing is lost, nothing is doubled
    for part in (split.valid, split.test):  # each source is there, stories with their 64 prompts too
        assert {c.source for c in part} == {"stories", "worked", "direct"}


def test_the_split_depends_on_the_conversations_and_not_on_their_order() -> None:
    made = list(generate_conversations(InstructionConfig(num_conversations=300), 0, HeldOutProblems()))
    shuffled = random.Random(0).sample(made, len(made))
    assert prompts(split_by_prompt(made, 0.1)) == prompts(split_by_prompt(shuffled, 0.1))


def test_a_prompt_is_what_is_said_before_the_first_answer_whatever_its_spaces_and_case() -> None:
    said = [Message("system", "Be brief."), Message("user", "How  ARE you?"), Message("assistant", "Well.")]
    assert prompt_of(Conversation((*said, Message("user", "And now?")), "chat")) == "how are you?"
    assert prompt_of(Conversation(tuple(said[1:]), "chat")) == prompt_of(
        Conversation.turn("how are\nyou?", "Ill.", "x")
    )


def test_what_is_added_moves_nothing_that_was_there() -> None:
    made = [Conversation.turn(f"question {i}", "answer", "chat") for i in range(400)]
    more = [Conversation.turn(f"another {i}", "answer", "other") for i in range(300)]
    for before, after in zip(
        prompts(split_by_prompt(made, 0.1)), prompts(split_by_prompt(more + made, 0.1)), strict=True
    ):
        assert before == {prompt for prompt in after if prompt.startswith("question")} and before


def test_copies_are_for_training_alone() -> None:
    made = [replace(Conversation.turn(f"question {i}", "answer", "chat"), copies=3) for i in range(60)]
    split = split_by_prompt(made, 0.1)
    assert len(split.train) == 3 * len(set(prompts(split)[0]))
    assert [len(split.valid), len(split.test)] == [len(part) for part in prompts(split)[1:]]


def test_three_prompts_give_one_to_each_part_and_two_are_refused() -> None:
    three = [Conversation.turn(f"question {i % 3}", f"answer {i}", "chat") for i in range(9)]
    split = split_by_prompt(three, 0.03)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [3, 3, 3]
    with pytest.raises(ValueError, match=r"6 conversations have 2 distinct prompts.* at least 3 prompts"):
        split_by_prompt([c for c in three if "2" not in c.messages[0].content], 0.03)


@pytest.mark.parametrize("share", [0.0, 0.34, -1.0])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="held-out share of prompts"):
        split_by_prompt([], share)
