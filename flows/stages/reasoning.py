"""How the model should think when it answers: every strategy on the same held-out items."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import TYPE_CHECKING

from components.reasoning.config import AdaptiveConfig, PuzzleStudyConfig, ReasoningConfig
from components.reasoning.results.strategies import (
    PuzzleSearchResult,
    ReasoningResult,
    StrategyResult,
    TreeComparison,
)
from components.reasoning.tasks import SuiteConfig
from components.stage_results import to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.reasoning.evaluate import Answered


def summary_of(answered: Answered, model: str) -> StrategyResult:
    """A strategy's accuracy (Wilson, 95%) and tokens per item, over all and by difficulty."""
    from components.reasoning.evaluate import summarize

    overall, *by_difficulty = summarize(answered)
    return StrategyResult(
        model=model,
        strategy=answered.strategy,
        accuracy=overall.accuracy.value,
        low=overall.accuracy.low,
        high=overall.accuracy.high,
        n=overall.accuracy.n,
        completion_tokens=overall.tokens,
        prompt_tokens=overall.prompt_tokens,
        by_difficulty={str(s.difficulty): s.accuracy for s in by_difficulty},
    )


@stage(produces="eval_report", group="reasoning", seconds=35)
def evaluate_reasoning(
    work: Work,
    *,
    config: ReasoningConfig,
    adaptive: AdaptiveConfig | None,
    suite: SuiteConfig,
    name: str,
    model: Artifact,
    tokenizer: Artifact,
) -> ReasoningResult:
    """Chains answered directly, in steps, by votes, and adaptively. `name`: what the tables call the model."""
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.model.config import forward_flops_per_token
    from components.reasoning.adaptive import cross_fitted, drawn_from, policy_table
    from components.reasoning.evaluate import eval_rows, read_samples, run_strategies
    from components.reasoning.strategies import chain_item, chain_of_thought, direct, draw
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)), Tokenizer.load(work.open(tokenizer))
    generate = text_generator(network, words)
    items = [chain_item(problem) for problem in suite.problems()]
    greedy = {
        "direct": lambda g, i: direct(g, i, config.max_direct_tokens),
        "cot": lambda g, i: chain_of_thought(g, i, config.max_tokens),
    }
    answered = list(run_strategies(generate, items, greedy))
    work.progress(1, 3, strategy="samples")
    began = time.perf_counter()
    samples = draw(generate, items, config.num_samples, config.temperature, config.max_tokens, config.seed)
    work.progress(2, 3, strategy="votes")
    # Votes of all sizes, best-of-k and the adaptive controller are read from one set of samples.
    votes = list(read_samples(samples, time.perf_counter() - began))
    if adaptive is not None:
        drawn = drawn_from(answered[0], answered[1], samples)
        controlled, policies = cross_fitted(policy_table(drawn, adaptive), drawn, tolerance=adaptive.tolerance)
        votes.append(controlled)
        chosen = [dataclasses.asdict(policy) for policy in policies]
        (work.out / "policies.json").write_text(json.dumps(chosen, indent=1), encoding="utf-8")
    per_token = forward_flops_per_token(network.cfg, network.cfg.context_length)
    tokens = sum(one.total_tokens for one in answered) + samples.total_tokens
    work.usage(tokens=tokens, flops=tokens * per_token)
    strategies = []
    for one in [*answered, *votes]:
        work.rows("evals", eval_rows(one, "chains", name))
        strategies.append(summary_of(one, name))
        work.log(0, {f"accuracy/{one.strategy}": strategies[-1].accuracy})
    work.progress(3, 3)
    result = ReasoningResult(tuple(strategies))
    (work.out / "strategies.json").write_text(json.dumps(to_facts(result)["strategies"], indent=1), encoding="utf-8")
    return result


@stage(produces="eval_report", group="reasoning", seconds=60)
def search_puzzles(
    work: Work, *, config: PuzzleStudyConfig, model: Artifact, tokenizer: Artifact
) -> PuzzleSearchResult:
    """Tree of Thought against greedy, votes and best-of-k (with the exact verifier) on the same puzzles.

    A tree's tokens are all that it generated, the judge's verdicts included.
    """
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.model.config import forward_flops_per_token
    from components.reasoning.evaluate import Answered, compare, eval_rows, read_samples, run_strategies
    from components.reasoning.evaluate import strongest_at_tokens as strongest
    from components.reasoning.puzzles import puzzle_suite
    from components.reasoning.strategies import best_of_k, chain_of_thought, draw, puzzle_item
    from components.reasoning.tree_of_thought import puzzle_task, tree_of_thought
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)), Tokenizer.load(work.open(tokenizer))
    generate = text_generator(network, words)
    puzzles = puzzle_suite(config.puzzle, config.seed, config.num_puzzles)
    items = [puzzle_item(puzzle) for puzzle in puzzles]
    rounds = 2 + len(config.trees)
    rivals = list(run_strategies(generate, items, {"greedy": chain_of_thought}))
    work.progress(1, rounds, strategy="samples")
    began = time.perf_counter()
    samples = draw(generate, items, config.num_samples, config.temperature, seed=config.seed)
    rivals += read_samples(samples, time.perf_counter() - began)
    paid = rivals[0].total_tokens + samples.total_tokens
    per_sample = next(one.tokens for one in rivals if one.strategy == "self_consistency@1")
    trees = []
    for index, tree_config in enumerate(config.trees):
        work.progress(2 + index, rounds, strategy=f"tree, {tree_config.search}")
        began = time.perf_counter()
        grown = tree_of_thought(generate, [puzzle_task(puzzle) for puzzle in puzzles], tree_config)
        label = f"tree_of_thought[{tree_config.search},{tree_config.value},{tree_config.max_expansions}]"
        trees.append(
            Answered(label, tuple(items), tuple(tree.outcome() for tree in grown), time.perf_counter() - began)
        )
    # Powers of two are too coarse for "at equal tokens": the choice that spends just what each tree did, too.
    for size in sorted({min(config.num_samples, math.ceil(tree.tokens / per_sample)) for tree in trees}):
        if f"best_of@{size}" not in {one.strategy for one in rivals}:
            rivals.append(Answered(f"best_of@{size}", tuple(items), tuple(best_of_k(samples, size)), 0.0))
    tokens = paid + sum(tree.total_tokens for tree in trees)
    work.usage(tokens=tokens, flops=tokens * forward_flops_per_token(network.cfg, network.cfg.context_length))
    strategies, comparisons = [], []
    for one in [*rivals, *trees]:
        work.rows("evals", eval_rows(one, "puzzles", "puzzles"))
        strategies.append(summary_of(one, "puzzles"))
    for tree in trees:
        rival = strongest(rivals, tree.tokens)
        if rival is not None:
            gap = compare(tree, rival)
            comparisons.append(
                TreeComparison(
                    tree=tree.strategy,
                    rival=rival.strategy,
                    tree_tokens=tree.tokens,
                    rival_tokens=rival.tokens,
                    difference=gap.value,
                    low=gap.low,
                    high=gap.high,
                    n=gap.n,
                )
            )
    result = PuzzleSearchResult(tuple(strategies), tuple(comparisons))
    (work.out / "search.json").write_text(json.dumps(to_facts(result), indent=1), encoding="utf-8")
    work.progress(rounds, rounds)
    return result
