"""How the model should think when it answers: every strategy on the same held-out items."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from components.reasoning.adaptive_config import AdaptiveConfig
from components.reasoning.puzzle_study_config import PuzzleStudyConfig
from components.reasoning.reasoning_config import ReasoningConfig
from components.reasoning.results.strategies import PuzzleSearchResult, ReasoningResult, StrategyResult
from components.reasoning.tasks import SuiteConfig
from components.stage_results import to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import count_answers
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.reasoning.evaluate import Answered


def summary_of(answered: Answered, model: str) -> StrategyResult:
    """A strategy's accuracy (Wilson, 95%) and tokens per item, over all and by difficulty."""
    from components.reasoning.evaluate import summarize

    overall, *by_difficulty = summarize(answered)
    return StrategyResult(
        model=model,
        strategy=answered.strategy.name,
        accuracy=overall.accuracy.value,
        low=overall.accuracy.low,
        high=overall.accuracy.high,
        n=overall.accuracy.n,
        completion_tokens=overall.tokens,
        prompt_tokens=overall.prompt_tokens,
        by_difficulty={str(s.difficulty): s.accuracy for s in by_difficulty},
        statuses=statuses_of(answered),
    )


def statuses_of(answered: Answered) -> dict[str, int] | None:
    """How many items were answered, unparsed or truncated; None for strategies that do not tell."""
    told = [str(outcome.details["status"]) for outcome in answered.outcomes if "status" in outcome.details]
    return {name: told.count(name) for name in sorted(set(told))} if told else None


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
    from components.reasoning.evaluate import at_sizes, eval_rows, run_strategies
    from components.reasoning.items import chain_item
    from components.reasoning.strategies import adaptive as controller
    from components.reasoning.strategies.best_of_k import best_of_k
    from components.reasoning.strategies.chain_of_thought import CHAIN_OF_THOUGHT
    from components.reasoning.strategies.direct import DIRECT
    from components.reasoning.strategies.direct_vote import direct_vote
    from components.reasoning.strategies.self_consistency import self_consistency
    from components.reasoning.strategies.until_right import until_right
    from components.reasoning.strategy import Trial
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)).to(work.device), Tokenizer.load(work.open(tokenizer))
    generate = text_generator(network, words)
    items = [chain_item(problem) for problem in suite.problems()]
    limits = {"max_tokens": config.max_tokens, "max_direct_tokens": config.max_direct_tokens}
    counts = {"num_samples": config.num_samples, "num_direct_samples": config.num_direct_samples}
    trial = Trial(generate, items, temperature=config.temperature, seed=config.seed, **limits, **counts)
    answered = list(run_strategies([DIRECT, CHAIN_OF_THOUGHT], trial))
    work.progress(1, 3, strategy="samples")
    samples = [trial.samples, trial.direct_samples]
    work.progress(2, 3, strategy="votes")
    # Votes of all sizes, best-of-k and the adaptive controller are read from one set of samples.
    thinking = [*at_sizes(config.num_samples, self_consistency, best_of_k, until_right)]
    thinking += [vote for vote in at_sizes(config.num_direct_samples, direct_vote) if vote.size != 1]
    if adaptive is not None:
        table = controller.policy_table(controller.drawn_from(trial), adaptive)
        policies = controller.tuned(table, adaptive.tolerance)
        thinking.append(controller.adaptive(policies, table.folds_N))
        chosen = [dataclasses.asdict(policy) for policy in policies]
        (work.out / "policies.json").write_text(json.dumps(chosen, indent=1), encoding="utf-8")
    tokens, generated = (
        sum(getattr(one, name) for one in (*answered, *samples)) for name in ("total_tokens", "generated_tokens")
    )
    count_answers(work, network.cfg, tokens - generated, generated)
    strategies = []
    answered += run_strategies(thinking, trial)
    for one in answered:
        work.rows("evals", eval_rows(one, "chains", name))
        strategies.append(summary_of(one, name))
        work.log(0, {f"accuracy/{one.strategy.name}": strategies[-1].accuracy})
    work.progress(3, 3)
    summaries = to_facts(ReasoningResult(tuple(strategies)))["strategies"]
    (work.out / "strategies.json").write_text(json.dumps(summaries, indent=1), encoding="utf-8")
    return ReasoningResult(tuple(s.named_by(one.strategy) for s, one in zip(strategies, answered, strict=True)))


@stage(produces="eval_report", group="reasoning", seconds=60)
def search_puzzles(
    work: Work, *, config: PuzzleStudyConfig, model: Artifact, tokenizer: Artifact
) -> PuzzleSearchResult:
    """Tree of Thought, greedy, votes, best-of-k, and samples until one is right, on the same puzzles.

    The exact verifier that ends a tree serves the last two as well. A tree's tokens include those of its judge.
    """
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.reasoning.evaluate import at_sizes, eval_rows, fine_sizes, run_strategies, tree_rows
    from components.reasoning.items import puzzle_item
    from components.reasoning.puzzles import puzzle_suite
    from components.reasoning.strategies.best_of_k import best_of_k
    from components.reasoning.strategies.greedy import GREEDY
    from components.reasoning.strategies.self_consistency import self_consistency
    from components.reasoning.strategies.tree_of_thought import puzzle_task, tree_of_thought
    from components.reasoning.strategies.until_right import until_right
    from components.reasoning.strategy import Trial
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)).to(work.device), Tokenizer.load(work.open(tokenizer))
    generate = text_generator(network, words)
    puzzles = puzzle_suite(config.puzzle, config.seed, config.num_puzzles)
    items = [puzzle_item(puzzle) for puzzle in puzzles]
    rounds = 3 + len(config.trees)
    trial = Trial(
        generate,
        items,
        config.num_samples,
        config.temperature,
        seed=config.seed,
        max_attempts=config.max_attempts,
    )
    answered = list(run_strategies([GREEDY], trial))
    work.progress(1, rounds, strategy="samples")
    answered += run_strategies(at_sizes(config.num_samples, self_consistency, best_of_k), trial)
    work.progress(2, rounds, strategy="samples until one is right")
    paid = answered[0].total_tokens + trial.attempts.total_tokens
    # A fine grid, so that one of these costs about what a tree does, at whatever prices the run measures.
    sizes = [size for size in fine_sizes(max(config.max_attempts, config.num_samples)) if size > 1]
    answered += run_strategies(map(until_right, sizes), trial)
    tasks = [puzzle_task(puzzle) for puzzle in puzzles]
    trees: list[Answered] = []
    for index, tree_config in enumerate(config.trees):
        work.progress(3 + index, rounds, strategy=f"tree, {tree_config.search}")
        trees += run_strategies([tree_of_thought(tasks, tree_config)], trial)
    tokens = paid + sum(tree.total_tokens for tree in trees)
    generated = answered[0].generated_tokens + trial.attempts.generated_tokens
    generated += sum(tree.generated_tokens for tree in trees)
    count_answers(work, network.cfg, tokens - generated, generated)
    strategies = []
    for one in [*answered, *trees]:
        work.rows("evals", eval_rows(one, "puzzles", "puzzles"))
        work.rows("trees", tree_rows(one.strategy, one.items, one.outcomes))
        strategies.append(summary_of(one, "puzzles").named_by(one.strategy))
    result = PuzzleSearchResult(tuple(strategies))
    (work.out / "search.json").write_text(json.dumps(to_facts(result), indent=1), encoding="utf-8")
    work.progress(rounds, rounds)
    return result
