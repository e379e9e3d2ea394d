"""Evaluation sets of a user's own: read once, answered by every model, kept out of what models train on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from components.reasoning.evaluation_sets import EvaluationConfig
from components.reasoning.reasoning_config import ReasoningConfig
from components.reasoning.results.evaluations import EvaluationsResult
from components.reasoning.results.strategies import ReasoningResult
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import count_answers
from flows.stages.files import EVALUATIONS
from flows.stages.reasoning import summary_of
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.conversations import Conversation
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.reasoning.question_files import Question


@stage(produces="evaluations", group="data", seconds=2, exact=True)
def prepare_evaluations(
    work: Work, *, config: tuple[EvaluationConfig, ...], raw: Mapping[str, Mapping[str, str]]
) -> EvaluationsResult:
    """Read the sets. `raw`: digests of their files; only there so that other bytes make another evaluation."""
    from components.data.files import Quarantined
    from components.reasoning.evaluation_pairs import read_pairs
    from components.reasoning.evaluation_sets import read_evaluation
    from components.reasoning.question_files import write_questions

    questions: list[Question] = []
    rejected: list[Quarantined] = []
    counts: dict[str, int] = {}
    for one in config:
        if one.kind == "pairs":
            pairs, left_out = read_pairs(one.called, one.path, one.max_items)
            questions += pairs
            rejected += left_out
            counts[one.called] = len(pairs)
            continue
        for found in read_evaluation(one):
            if isinstance(found, Quarantined):
                rejected.append(found)
            else:
                questions.append(found)
                counts[one.called] = counts.get(one.called, 0) + 1
    work.rows("quarantine", [dataclasses.asdict(one) for one in rejected])
    write_questions(work.out / EVALUATIONS, questions)
    return EvaluationsResult(counts, len(rejected))


def questions_of(work: Work, evaluations: Sequence[Artifact], name: str = "") -> list[Question]:
    """The items of the sets, or of the one of that name; none where there are no sets."""
    from components.reasoning.question_files import read_questions

    found = [q for artifact in evaluations for q in read_questions(work.open(artifact) / EVALUATIONS)]
    return [q for q in found if name in ("", q.set)]


def held_out_questions(work: Work, evaluations: Sequence[Artifact]) -> list[str]:
    """What no training text may hold."""
    return [question.question for question in questions_of(work, evaluations)]


def without_held_out(
    work: Work, evaluations: Sequence[Artifact], conversations: Sequence[Conversation]
) -> list[Conversation]:
    """The conversations in which no turn holds a question of an evaluation set."""
    from components.data.decontaminate import EvalIndex

    questions = held_out_questions(work, evaluations)
    if not questions:
        return list(conversations)
    texts = ["\n".join(message.content for message in one.messages) for one in conversations]
    inside = {found.document for found in EvalIndex(questions, whole_items=True).search(texts)}
    return [one for place, one in enumerate(conversations) if place not in inside]


@stage(produces="eval_report", group="reasoning", seconds=35)
def evaluate_set(
    work: Work,
    *,
    config: EvaluationConfig,
    reasoning: ReasoningConfig,
    name: str,
    model: Artifact,
    tokenizer: Artifact,
    evaluations: Artifact,
) -> ReasoningResult:
    """A set answered once, greedily, and by votes and choices among samples. `name`: what the tables call the model.

    A question that leaves no room for an answer in the model's context goes to the table `quarantine`.
    """
    from components.data.files import Quarantined
    from components.data.tokenizer import Tokenizer
    from components.inference.text import TextPrompt, encode_prompt, text_generator
    from components.reasoning.evaluate import at_sizes, eval_rows, run_strategies
    from components.reasoning.evaluation_sets import are_ranked, as_item
    from components.reasoning.strategies.best_of_k import best_of_k
    from components.reasoning.strategies.greedy import GREEDY
    from components.reasoning.strategies.self_consistency import self_consistency
    from components.reasoning.strategy import Trial
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)).to(work.device), Tokenizer.load(work.open(tokenizer))
    questions = questions_of(work, [evaluations], config.called)
    if are_ranked(questions):
        return _ranked(work, config, name, network, words, questions)
    asked, limit = [], network.cfg.context_length
    for question in questions:
        length = len(encode_prompt(words, TextPrompt(question.prompt)))
        if length < limit:
            asked.append(question)
            continue
        reason = f"{length} tokens; the context of {name} holds {limit}"
        bad = Quarantined(question.set, question.file, question.line, reason, question.prompt[:120])
        work.rows("quarantine", [dataclasses.asdict(bad)])
    if not asked:
        raise ValueError(f"evaluation {config.called!r}: no question fits into the context of {name}, {limit} tokens")
    items = [as_item(question, config.verifier) for question in asked]
    generate = text_generator(network, words)
    trial = Trial(
        generate, items, reasoning.num_samples, reasoning.temperature, max_tokens=config.max_tokens, seed=reasoning.seed
    )
    answered = list(run_strategies([GREEDY], trial))
    work.progress(1, 3, strategy="samples")
    sampled = [*at_sizes(reasoning.num_samples, self_consistency, best_of_k)] if reasoning.num_samples > 1 else []
    if sampled:
        answered += run_strategies(sampled, trial)
    tokens = answered[0].total_tokens + (trial.samples.total_tokens if sampled else 0)
    generated = answered[0].generated_tokens + (trial.samples.generated_tokens if sampled else 0)
    count_answers(work, network.cfg, tokens - generated, generated)
    strategies = []
    for one in answered:
        work.rows("evals", eval_rows(one, config.called, name))
        found = summary_of(one, name)
        strategies.append(dataclasses.replace(found, suite=config.called).named_by(one.strategy))
        work.log(0, {f"accuracy/{one.strategy.name}": found.accuracy})
    work.progress(3, 3)
    return ReasoningResult(tuple(strategies))


def _ranked(
    work: Work,
    config: EvaluationConfig,
    name: str,
    network: Transformer,
    words: Tokenizer,
    questions: Sequence[Question],
) -> ReasoningResult:
    """Which of the given answers the model itself finds the most probable one; nothing is generated."""
    from components.data.files import Quarantined
    from components.reasoning.evaluation_pairs import STRATEGY, rank_options, rank_pairs
    from components.reasoning.results.strategies import StrategyResult
    from components.statistics import wilson

    rank = rank_pairs if config.kind == "pairs" else rank_options
    ranked, too_long = rank(network, words, questions)
    for place, reason in too_long:
        q = questions[place]
        work.rows(
            "quarantine", [dataclasses.asdict(Quarantined(q.set, q.file, q.line, f"{name}: {reason}", q.prompt[:120]))]
        )
    if not ranked:
        raise ValueError(f"evaluation {config.called!r}: none fits into the context of {name}")
    tokens = sum(one.tokens for one in ranked)
    count_answers(work, network.cfg, tokens, 0)
    work.rows(
        "evals",
        [
            {
                "suite": config.called,
                "model": name,
                "strategy": STRATEGY,
                "strategy_family": STRATEGY,
                "needs_verifier": False,
                "greedy": False,
                "item_id": one.question.id,
                "prompt": one.question.prompt,
                "answer": one.picked,
                "target": one.target,
                "correct": one.correct,
                "score": one.margin,
                "prompt_tokens": one.tokens,
                "completion_tokens": 0,
                "details_json": json.dumps({"sum_margin": one.sum_margin, "status": "answered"}),
            }
            for one in ranked
        ],
    )
    accuracy = wilson(sum(one.correct for one in ranked), len(ranked))
    work.log(0, {f"accuracy/{STRATEGY}": accuracy.value})
    return ReasoningResult(
        (
            StrategyResult(
                name,
                STRATEGY,
                accuracy.value,
                accuracy.low,
                accuracy.high,
                accuracy.n,
                completion_tokens=0.0,
                prompt_tokens=tokens / len(ranked),
                by_difficulty={},
                strategy_family=STRATEGY,
                suite=config.called,
                statuses={"answered": len(ranked)},
            ),
        )
    )
