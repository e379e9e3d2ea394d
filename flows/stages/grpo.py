"""GRPO on verified answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.model.config import forward_flops_per_token
from components.reasoning.tasks import SuiteConfig
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.results.grpo import GRPOResult
from components.rlhf.verifier_task_config import VerifierTaskConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import skips
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.model.transformer import Transformer


def passes_per_token(config: GRPOConfig, metrics: Mapping[str, float], routed: bool) -> float:
    """Forward passes that GRPO makes of a token of an iteration's answers; a backward counts two.

    One samples it, and those of discarded draws. The rows of groups with equal rewards cost no more, unless a KL or a
    router (`routed`) needs them; the others are passed forward and back in each epoch, once for their old
    log-probabilities where their minibatch is not the first, and once through the reference where there is a KL.
    """
    learned = 1.0 if config.kl_coef or routed else 1.0 - metrics["groups/zero_variance"]
    each = 3 * config.num_epochs + (config.num_minibatches - 1) / config.num_minibatches + bool(config.kl_coef)
    return metrics["groups/sampled"] / config.num_prompts + learned * each


@stage(produces="checkpoint", group="rlhf", seconds=90)
def grpo(
    work: Work,
    *,
    config: GRPOConfig,
    task: VerifierTaskConfig,
    suite: SuiteConfig,
    seed: int,
    sft: Artifact,
    tokenizer: Artifact,
) -> GRPOResult:
    """GRPO on worked chains with the exact verifier as reward, watched on held-out problems."""
    import random

    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.reasoning.tasks import HeldOutProblems, Problem, chain_problem, is_correct, prompt, spread
    from components.rlhf import grpo as algorithm
    from components.rlhf.prompts import answer_text, chat_prompts
    from components.statistics import Interval, wilson
    from components.training.checkpoints import load_model, save_model

    reference, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    held_out = suite.problems()
    forbidden = HeldOutProblems.of(held_out)
    rng = random.Random(f"grpo-{seed}")
    practice: dict[str, Problem] = {}
    while len(practice) < task.num_problems:
        problem = chain_problem(rng, rng.randint(task.min_difficulty, task.max_difficulty))
        if not forbidden.forbids(problem):
            practice.setdefault(problem.question, problem)
    problems = list(practice.values())
    final_items = [p for p in held_out if task.min_difficulty <= p.difficulty <= task.max_difficulty]
    watched = spread(final_items, task.num_watch)  # the first of them all would be the easiest alone

    def accuracy(model: Transformer, items: list[Problem]) -> Interval:
        params = SamplingParams(max_tokens=config.max_tokens, temperature=0.0, stop_ids=(words.end_id,))
        answers = generate(model, chat_prompts(words, [prompt(p, "worked") for p in items]), params)
        right = [is_correct(p, answer_text(words, group[0].tokens)) for p, group in zip(items, answers, strict=True)]
        return wilson(sum(right), len(right))

    before = accuracy(reference, final_items)
    state = algorithm.GRPOState.start(reference, config)
    if saved := work.load_state():
        state.load_tensors(saved[1])
    else:
        work.log(0, {"greedy_accuracy": accuracy(reference, watched).value})
    reports = algorithm.grpo(
        state,
        reference,
        lambda index, tokens: float(
            list(tokens[-1:]) == [words.end_id] and is_correct(problems[index], answer_text(words, tokens))
        ),
        chat_prompts(words, [prompt(p, "worked") for p in problems]),
        (words.end_id,),
        config,
        seed,
    )
    for record in reports:
        step, metrics = record.iteration + 1, record.metrics
        watched_now = step % task.evaluate_every == 0 or step == config.num_iterations
        extra = {"greedy_accuracy": accuracy(state.policy, watched).value} if watched_now else {}
        work.log(step, metrics | extra)
        passes = passes_per_token(config, metrics, routed=reference.cfg.moe is not None)
        flops = metrics["tokens"] * passes * forward_flops_per_token(reference.cfg, reference.cfg.context_length)
        work.usage(tokens=metrics["tokens"], flops=flops)
        told = skips(step, metrics, state.guard)
        work.progress(step, config.num_iterations, reward=metrics["objective/reward"], **told)
        if step < config.num_iterations and work.state_due():
            work.save_state(step, state.tensors(), {})
    save_model(work.out, state.policy)
    after = accuracy(state.policy, final_items)
    return GRPOResult(before, after, state.guard.counts())
