"""What is billed is what the engine computes: prompts that are shared are read once, and each token once generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import components.inference.engine as engine
from components.data.tokenizer import Tokenizer
from components.inference.decoders import open_decoder
from components.inference.text import text_generator
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.reasoning.items import puzzle_item
from components.reasoning.puzzles import PuzzleConfig, judge_prompt, puzzle_suite, solution_text, solve_prompt
from components.reasoning.strategies.self_consistency import self_consistency
from components.reasoning.strategies.tree_of_thought import puzzle_task, search_trees
from components.reasoning.strategy import Trial
from components.reasoning.tree_config import TreeConfig

(PUZZLE,) = puzzle_suite(PuzzleConfig(length=6), seed=1, count=1)


class Counting:
    """A decoder that counts the rows it computes: one per token that is read or fed back."""

    rows = 0

    def __init__(self, *given: Any) -> None:
        self.inner, self.slots = open_decoder(*given), given[1]

    def forward(self, tokens_N: Any, *where: Any) -> Any:
        Counting.rows += len(tokens_N)
        return self.inner.forward(tokens_N, *where)

    def copy(self, source: int, target: int, length: int) -> None:
        self.inner.copy(source, target, length)


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    texts = [solve_prompt(PUZZLE), judge_prompt(PUZZLE), solution_text(PUZZLE, PUZZLE.moves()[:1])]
    words = Tokenizer.train(texts * 4, 300)
    model = Transformer(ModelConfig(words.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=128), 3)
    monkeypatch.setattr(engine, "open_decoder", Counting)
    Counting.rows = 0
    return text_generator(model, words)


@pytest.mark.parametrize("proposals", [0, 3])
def test_a_tree_is_billed_what_its_calls_compute(generate: Any, proposals: int) -> None:
    """Of each sequence the last token is generated and not fed back; copies of one prompt feed its last token each."""
    config = TreeConfig(proposals=proposals, max_expansions=4, threshold=0.0, temperature=1.0)
    (tree,) = search_trees(generate, [puzzle_task(PUZZLE)], config)
    billed = tree.prompt_tokens + tree.completion_tokens
    requests = tree.expansions * max(2, proposals) + len(tree.nodes)
    assert tree.expansions > 0
    assert (
        Counting.rows <= billed <= Counting.rows + 4 * requests
    )  # shared beginnings of listed steps are cheaper still


def test_a_vote_is_billed_its_prompt_once_and_computes_it_once(generate: Any) -> None:
    trial = Trial(generate, [puzzle_item(PUZZLE)], num_samples=8, max_tokens=12)
    (outcome,) = self_consistency(8).answer(trial)
    # The prompt, its last token for each of the seven others, and every token but the last of each sample.
    assert Counting.rows == outcome.prompt_tokens + 7 + outcome.completion_tokens - 8
    assert np.isclose(outcome.prompt_tokens, trial.samples.completions[0][0].prompt_tokens)
