"""The reward model with what it is worth, and GRPO on verified answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.model.config import forward_flops_per_token, training_flops_per_token
from components.reasoning.tasks import SuiteConfig
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.verifier_task_config import VerifierTaskConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.preferences import PREFERENCES
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import Completion
    from components.model.transformer import Transformer
    from components.rlhf.pairs import TokenPair
    from components.rlhf.preferences import Preference
    from components.rlhf.reward_model import Ensemble
    from components.training.guard import Guard


def asked(words: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Chat prompts, ready for an answer."""
    return [words.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)[0] for text in texts]


def said(words: Tokenizer, completion: Completion) -> str:
    return words.decode(completion.tokens).strip()


def count_generation(work: Work, model: Transformer, num_tokens: float) -> None:
    work.usage(tokens=num_tokens, flops=num_tokens * forward_flops_per_token(model.cfg, model.cfg.context_length))


def skips(step: int, metrics: Mapping[str, float], guard: Guard) -> dict[str, Any]:
    """Tell the log of updates that were not finite; what the live view shows of all so far."""
    skipped, back = (
        next((value for name, value in metrics.items() if name.endswith(end)), 0.0)
        for end in ("/skipped_updates", "/rolled_back")
    )
    if skipped:
        print(f"step {step}: {skipped:g} updates skipped: loss or gradient was not finite")
    if back:
        print(f"step {step}: back to the last snapshot, {guard.rate:g} of the rate from here on")
    return {"skipped": guard.skipped} if guard.skipped else {}


@stage(produces="reward_model", group="rlhf", seconds=20)
def train_reward_model(
    work: Work, *, config: RewardModelConfig, seed: int, sft: Artifact, preferences: Artifact, tokenizer: Artifact
) -> dict[str, Any]:
    """A Bradley-Terry reward model on the fine-tuned trunk; scores are in its standard deviations, mean 0."""
    from components.data.tokenizer import Tokenizer
    from components.rlhf import reward_model as rm
    from components.rlhf.pairs import encode_pairs, split_pairs
    from components.rlhf.preferences import read_preferences
    from components.training.checkpoints import load_model

    policy, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    judged, _ = read_preferences(work.open(preferences) / PREFERENCES)
    pairs, too_long = encode_pairs(judged, words, policy.cfg.context_length)
    training, held_out = split_pairs(pairs, config.held_out, seed)
    state = rm.RewardState.start(policy, config, seed)
    if saved := work.load_state():
        state.load_tensors(saved[1], len(training))
    total = config.num_members * rm.num_steps(len(training), config)
    for record in rm.train_reward_model(state, training, seed):
        step = int(record["step"])
        work.log(step, {name: value for name, value in record.items() if name != "step"})
        flops = record["tokens"] * training_flops_per_token(policy.cfg, policy.cfg.context_length)
        work.usage(tokens=record["tokens"], flops=flops)
        work.progress(step, total, loss=record["loss/reward"], **skips(step, record, state.guard))
        if step < total and work.state_due():
            work.save_state(step, state.tensors(len(training)), {})
    for member in state.members:
        rm.calibrate(member, [tokens for pair in training for tokens in (pair.chosen, pair.rejected)])
    ensemble = rm.Ensemble(tuple(state.members))
    rm.save_reward_model(work.out, ensemble)
    return {
        "num_pairs": len(training),
        "num_too_long": len(too_long),
        **state.guard.facts(),
        **_worth(work, ensemble, judged, training, held_out),
    }


def _worth(
    work: Work, ensemble: Ensemble, judged: list[Preference], training: list[TokenPair], held_out: list[TokenPair]
) -> dict[str, Any]:
    """The reward model on pairs it has not seen: in facts, and a row of `evals` for each pair."""
    import numpy as np

    from components.rlhf import reward_evaluation as worth
    from components.rlhf.reward_model import score_sequences
    from components.statistics import wilson

    pairs = [*training, *held_out]
    scores = score_sequences(ensemble, [p.chosen for p in pairs] + [p.rejected for p in pairs]).double().numpy()
    chosen, rejected = scores[: len(pairs)], scores[len(pairs) :]
    # Log-odds, which is what the loss made of the difference before scores were brought to unit variance.
    margins = (chosen - rejected) / np.mean([float(member.gain) for member in ensemble.members])
    right = (margins > 0).tolist()
    unseen = range(len(training), len(pairs))
    about = [judged[pairs[i].index] for i in unseen]
    facts: dict[str, Any] = {
        "disagreement": _disagreement(ensemble, [pairs[i].chosen for i in unseen]) if held_out else None,
        "accuracy_by": {
            "split": worth.accuracy_by(right, ["training"] * len(training) + ["held out"] * len(held_out)),
            "source": worth.accuracy_by([right[i] for i in unseen], [p.source or "unknown" for p in about]),
            "annotator": worth.accuracy_by([right[i] for i in unseen], [p.annotator or "unknown" for p in about]),
            "confidence": worth.accuracy_by(
                [right[i] for i in unseen], [worth.confidence_group(p.confidence) for p in about]
            ),
        },
    }
    if not held_out:
        return plain(facts)
    accuracy = wilson(sum(right[i] for i in unseen), len(held_out))
    lengths = [[len(answer) - p.num_prompt for answer in (p.chosen, p.rejected)] for p in held_out]
    facts |= {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "n": accuracy.n,
        "calibration": worth.calibration(margins[len(training) :]),
        "length": worth.length_bias(
            chosen[len(training) :], rejected[len(training) :], [c for c, _ in lengths], [r for _, r in lengths]
        ),
        "score_by_length": [
            [length, float(score)]
            for (c, r), *both in zip(lengths, chosen[len(training) :], rejected[len(training) :], strict=True)
            for length, score in zip((c, r), both, strict=True)
        ][:400],
        **_against_gold(held_out, about, chosen[len(training) :], rejected[len(training) :]),
    }
    work.rows(
        "evals",
        [
            {
                "suite": "preference pairs",
                "model": "reward model",
                "strategy": p.source or "unknown",
                "item_id": p.pair_id,
                "prompt": p.prompt,
                "answer": p.chosen if right[i] else p.rejected,
                "target": p.chosen,
                "correct": right[i],
                "score": float(margins[i]),
                "details_json": {"annotator": p.annotator, "confidence": p.confidence},
            }
            for i, p in zip(unseen, about, strict=True)
        ],
    )
    return plain(facts)


def _disagreement(ensemble: Ensemble, sequences: list[tuple[int, ...]]) -> float:
    from components.rlhf.reward_model import ensemble_scores

    return float(ensemble_scores(ensemble, sequences).std(1, correction=0).mean())


def _against_gold(pairs: list[TokenPair], about: list[Preference], chosen: Any, rejected: Any) -> dict[str, Any]:
    """Held-out answers against the true preference, which a person's labels only show through their noise: correlation,
    and how often the best of four answers to a request is found."""
    import numpy as np

    from components.rlhf.gold import known_gold_score
    from components.rlhf.reward_evaluation import best_of_four, groups_of_four

    score: dict[tuple[int, ...], float] = {}
    gold: dict[tuple[int, ...], float] = {}
    by_prompt: dict[str, list[tuple[int, ...]]] = {}
    for pair, p, c, r in zip(pairs, about, chosen, rejected, strict=True):
        for tokens, text, x in ((pair.chosen, p.chosen, c), (pair.rejected, p.rejected, r)):
            known = known_gold_score(p.prompt, text)
            if known is not None and tokens not in gold:
                gold[tokens], score[tokens] = known, float(x)
                by_prompt.setdefault(p.prompt, []).append(tokens)
    if len(gold) < 3:
        return {"agreement_with_gold": None, "best_of_four": None}
    names = list(gold)
    place = {tokens: i for i, tokens in enumerate(names)}
    fours = groups_of_four([[(place[t], gold[t]) for t in answers] for answers in by_prompt.values()])
    best = (
        best_of_four([[score[names[i]] for i in ids] for ids, _ in fours], [top for _, top in fours]) if fours else None
    )
    both = np.array([[score[t], gold[t]] for t in names])
    return {
        "agreement_with_gold": float(np.corrcoef(both.T)[0, 1]),
        "best_of_four": best,
    }


def plain(value: Any) -> Any:
    """Dataclasses as objects, NaN as null: what the facts of a stage are made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
) -> dict[str, Any]:
    """GRPO on worked chains with the exact verifier as reward, watched on held-out problems."""
    import random

    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.reasoning.tasks import Problem, chain_problem, is_correct, prompt, spread
    from components.rlhf import grpo as algorithm
    from components.statistics import Interval, wilson
    from components.training.checkpoints import load_model, save_model

    reference, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    held_out = suite.problems()
    known = {problem.question for problem in held_out}
    rng = random.Random(f"grpo-{seed}")
    practice: dict[str, Problem] = {}
    while len(practice) < task.num_problems:
        problem = chain_problem(rng, rng.randint(task.min_difficulty, task.max_difficulty))
        if problem.question not in known:
            practice.setdefault(problem.question, problem)
    problems = list(practice.values())
    final_items = [p for p in held_out if task.min_difficulty <= p.difficulty <= task.max_difficulty]
    watched = spread(final_items, task.num_watch)  # the first of them all would be the easiest alone

    def accuracy(model: Transformer, items: list[Problem]) -> Interval:
        params = SamplingParams(max_tokens=config.max_tokens, temperature=0.0, stop_ids=(words.end_id,))
        answers = generate(model, asked(words, [prompt(p, "worked") for p in items]), params)
        right = [is_correct(p, said(words, group[0])) for p, group in zip(items, answers, strict=True)]
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
            list(tokens[-1:]) == [words.end_id] and is_correct(problems[index], words.decode(tokens).strip())
        ),
        asked(words, [prompt(p, "worked") for p in problems]),
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
    return {
        "before": before.value,
        "before_low": before.low,
        "before_high": before.high,
        "after": after.value,
        "after_low": after.low,
        "after_high": after.high,
        "n": after.n,
        **state.guard.facts(),
    }
