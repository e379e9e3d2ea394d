"""Tree search on a scripted model of sign puzzles: it finds what there is, prunes, backs up, and counts all tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.items import puzzle_item
from components.reasoning.puzzles import PuzzleConfig, SignPuzzle, is_solution, puzzle_suite, solvable, step_text
from components.reasoning.strategies.tree_of_thought import (
    Tree,
    probability_of_yes,
    puzzle_task,
    search_trees,
    tree_of_thought,
)
from components.reasoning.strategy import Trial
from components.reasoning.tree_config import TreeConfig


class PerfectPlayer:
    """Offers both signs in turn, calculates rightly, and judges as told; counts what it generates and is asked."""

    def __init__(self, wrong_sums: bool = False, opinion: float | None = None) -> None:
        self.generated = self.prompted = self.calls = 0
        self.wrong_sums, self.opinion = wrong_sums, opinion

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        self.calls += 1
        # The engine reads a state's prompt once, however many of its requests stand in a call.
        self.prompted += sum(len(user) for user, _ in groupby(prompt.user for prompt in prompts))
        return [self._answer(prompt, params.num_samples) for prompt in prompts]

    def _answer(self, prompt: TextPrompt, count: int) -> list[TextCompletion]:
        start, numbers = re.search(r"from (\d+) with ([\d ]*\d)", prompt.user).groups()  # type: ignore[union-attr]
        state = SignPuzzle(int(start), tuple(map(int, numbers.split())))
        if not prompt.stop:
            yes = self.opinion if self.opinion is not None else float(solvable(state)) * 0.98 + 0.01
            word = "yes" if yes >= 0.5 else "no"
            self.generated += 1
            return [TextCompletion(word, 1, math.log(max(yes, 1 - yes)), True, len(prompt.user))]
        moves = state.moves()
        texts = [step_text(state.start, moves[i % len(moves)]) for i in range(count)] if moves else ["?;"] * count
        if prompt.prefill:
            texts = [step_text(state.start, int(prompt.prefill[len(str(state.start)) : -1]))[len(prompt.prefill) :]]
        if self.wrong_sums:
            texts = [re.sub(r"=\d+;", "=0;", text) for text in texts]
        self.generated += sum(map(len, texts))
        self.prompted += len(prompt.prefill)
        asked = len(prompt.user) + len(prompt.prefill)
        return [TextCompletion(text, len(text), -1.0, True, asked, len(prompt.prefill)) for text in texts]


PUZZLES = puzzle_suite(PuzzleConfig(length=5, numbers=tuple(range(1, 21)), max_solutions=1), seed=3, count=12)


@pytest.mark.parametrize("search", ["breadth", "depth", "best"])
@pytest.mark.parametrize("proposals", [0, 2])
@pytest.mark.parametrize("value", ["judge", "oracle"])
def test_with_a_true_value_every_puzzle_is_solved_along_one_path(search: Any, proposals: int, value: Any) -> None:
    player = PerfectPlayer()
    config = TreeConfig(search=search, proposals=proposals, value=value, beam_width=1, max_expansions=5)
    trees = search_trees(player, [puzzle_task(puzzle) for puzzle in PUZZLES], config)
    assert all(tree.outcome().correct and tree.expansions == 5 for tree in trees)
    assert sum(tree.completion_tokens for tree in trees) == player.generated
    assert sum(tree.prompt_tokens for tree in trees) == player.prompted
    # One call a level for all puzzles together, and one for the verdicts of what is not finished.
    assert player.calls == 5 + (4 if value == "judge" else 0)


def test_depth_first_backs_up_when_its_values_mislead() -> None:
    """A judge without an opinion leaves it to search: with budget enough depth-first finds every solution."""
    tasks = [puzzle_task(puzzle) for puzzle in PUZZLES]
    config = TreeConfig(search="depth", proposals=2, max_expansions=31)
    trees = search_trees(PerfectPlayer(opinion=0.5), tasks, config)
    assert all(tree.solution is not None for tree in trees)
    assert any(tree.expansions > 10 for tree in trees)
    few = search_trees(PerfectPlayer(opinion=0.5), tasks, TreeConfig(search="depth", proposals=2, max_expansions=5))
    assert not all(tree.solution is not None for tree in few)


def test_what_is_judged_hopeless_is_never_expanded() -> None:
    trees = search_trees(
        PerfectPlayer(opinion=0.01), [puzzle_task(PUZZLES[0])], TreeConfig(search="breadth", threshold=0.05)
    )
    assert {node.status for node in trees[0].nodes} == {"expanded", "pruned"}
    assert trees[0].expansions == 1
    assert not trees[0].outcome().correct


def test_a_beam_keeps_the_most_valued_and_never_a_state_twice() -> None:
    config = TreeConfig(search="breadth", proposals=2, beam_width=3, threshold=0.0)
    (tree,) = search_trees(PerfectPlayer(opinion=0.5), [puzzle_task(PUZZLES[1])], config)
    by_depth: dict[int, int] = {}
    for node in tree.nodes:
        by_depth[node.depth] = by_depth.get(node.depth, 0) + (node.status == "expanded")
    assert max(by_depth.values()) == 3
    assert len({(node.depth, node.state) for node in tree.nodes}) == len(tree.nodes)


def test_a_goal_reached_by_a_wrong_sum_is_no_solution() -> None:
    (tree,) = search_trees(
        PerfectPlayer(wrong_sums=True),
        [puzzle_task(SignPuzzle(20, (12, 8)))],
        TreeConfig(search="best", value="log_prob"),
    )
    assert any(node.state == SignPuzzle(0, ()) and node.status == "failed" for node in tree.nodes)
    assert not tree.outcome().correct


def test_the_tree_is_handed_back_node_by_node() -> None:
    trees: list[Tree[SignPuzzle]] = search_trees(
        PerfectPlayer(), [puzzle_task(PUZZLES[2])], TreeConfig(search="best", proposals=2)
    )
    nodes, steps = trees[0].nodes, trees[0].outcome().steps
    assert [step.parent for step in steps] == [node.parent for node in nodes]
    assert steps[0].parent is None and all(step.parent < place for place, step in enumerate(steps[1:], 1))
    whole = [""] * len(steps)
    for place, step in enumerate(steps[1:], 1):
        whole[place] = whole[step.parent] + step.text
    assert [text.replace(" ", "") for text in whole] == [node.text.replace(" ", "") for node in nodes]
    solved = [place for place, step in enumerate(steps) if step.status == "solved"]
    assert len(solved) == 1
    assert is_solution(PUZZLES[2], nodes[solved[0]].text)
    assert trees[0].outcome().answer == nodes[solved[0]].text
    spent = [node.num_tokens + node.judge_tokens for node in nodes]
    assert [step.tokens for step in steps] == spent and sum(spent) > 0


def test_the_name_says_the_search_and_its_family_does_not() -> None:
    trial = Trial(PerfectPlayer(), [puzzle_item(puzzle) for puzzle in PUZZLES])
    strategy = tree_of_thought([puzzle_task(puzzle) for puzzle in PUZZLES], TreeConfig(value="oracle"))
    assert (strategy.name, strategy.family) == ("tree_of_thought[depth,oracle,30]", "tree_of_thought")
    assert (strategy.size, strategy.needs_verifier, strategy.greedy) == (None, True, False)
    assert [outcome.item_id for outcome in strategy.answer(trial)] == [puzzle.state for puzzle in PUZZLES]


@pytest.mark.parametrize(("text", "expected"), [("yes", 0.8), ("y", 0.8), ("no", 0.2), ("maybe", 0.5), ("", 0.5)])
def test_probability_of_yes(text: str, expected: float) -> None:
    assert probability_of_yes(TextCompletion(text, 1, math.log(0.8), False)) == pytest.approx(expected)
