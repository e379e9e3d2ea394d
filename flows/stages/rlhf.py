"""Reward model, PPO with a watch on what people want (gold), best-of-n, and GRPO on verified answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components.model.config import forward_flops_per_token, training_flops_per_token
from components.reasoning.tasks import SuiteConfig
from components.rlhf.config import (
    GRPOConfig,
    JudgingConfig,
    PPOConfig,
    RewardModelConfig,
    VerifierTaskConfig,
)
from flows.stage import stage
from flows.stages.preferences import PREFERENCES, SCALE
from flows.work import Work
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import Completion
    from components.model.transformer import Transformer

def _asked(words: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Chat prompts, ready for an answer."""
    return [words.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)[0] for text in texts]


def _said(words: Tokenizer, completion: Completion) -> str:
    return words.decode(completion.tokens).strip()


def _count_generation(work: Work, model: Transformer, num_tokens: float) -> None:
    work.usage(tokens=num_tokens, flops=num_tokens * forward_flops_per_token(model.cfg, model.cfg.context_length))


@stage(produces="reward_model", group="rlhf", seconds=20)
def train_reward_model(
    work: Work, *, config: RewardModelConfig, seed: int, sft: Artifact, preferences: Artifact, tokenizer: Artifact
) -> dict[str, Any]:
    """A Bradley-Terry reward model on the fine-tuned trunk; scores are in its standard deviations, mean 0."""
    import numpy as np

    from components.data.tokenizer import Tokenizer
    from components.rlhf import reward_model as rm
    from components.rlhf.gold import gold_score
    from components.rlhf.preferences import read_preferences
    from components.training.checkpoints import load_model
    from components.training.optimizers import Optimizer
    from components.training.state import load_state_tensors, state_tensors

    policy, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    judged, _ = read_preferences(work.open(preferences) / PREFERENCES)
    pairs, _ = rm.encode_pairs(judged, words, policy.cfg.context_length)
    training, held_out = rm.split_pairs(pairs, config.held_out, seed)
    model = rm.RewardModel.from_policy(policy, seed)
    optimizer = Optimizer(model, config.optimizer)
    start = 0
    if saved := work.load_state():
        start, tensors, _ = saved
        load_state_tensors(model, optimizer, tensors)
    total = rm.num_steps(len(training), config)
    for record in rm.train_reward_model(model, optimizer, training, config, seed, start):
        step = int(record["step"])
        work.log(step, {name: record[name] for name in ("loss", "accuracy", "margin", "grad_norm")})
        flops = record["tokens"] * training_flops_per_token(policy.cfg, policy.cfg.context_length)
        work.usage(tokens=record["tokens"], flops=flops)
        work.progress(step, total, loss=record["loss"])
        if step < total and work.state_due():
            work.save_state(step, state_tensors(model, optimizer), {})
    accuracy = rm.pair_accuracy(model, held_out)
    rm.calibrate(model, [tokens for pair in training for tokens in (pair.chosen, pair.rejected)])
    rm.save_reward_model(work.out, model)
    # Against the true preference, which a person's labels would only show through their noise.
    texts = [(p.prompt, answer) for p in judged for answer in (p.chosen, p.rejected)]
    chats = [
        words.render_chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])[0]
        for prompt, answer in texts[:600]
    ]
    fitting = [i for i, chat in enumerate(chats) if len(chat) <= policy.cfg.context_length]
    scores = rm.score_sequences(model, [chats[i] for i in fitting]).numpy()
    golds = np.array([gold_score(*texts[i]) for i in fitting])
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "n": accuracy.n,
        "num_pairs": len(training),
        "agreement_with_gold": float(np.corrcoef(scores, golds)[0, 1]),
    }


@stage(produces="checkpoint", group="rlhf", seconds=35)
def ppo(
    work: Work,
    *,
    config: PPOConfig,
    judging: JudgingConfig,
    seed: int,
    sft: Artifact,
    reward_model: Artifact,
    preferences: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """PPO against the reward model; gold is watched, never trained on."""
    import numpy as np

    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf import ppo as algorithm
    from components.rlhf.config import story_requests
    from components.rlhf.gold import gold_score
    from components.rlhf.overoptimization import first_alarm, observe
    from components.rlhf.reward_model import load_reward_model, score_sequences
    from components.rlhf.rollouts import pack_responses, token_stats
    from components.statistics import mean_interval
    from components.training.checkpoints import load_model, save_model

    reference, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    proxy_model = load_reward_model(work.open(reward_model))
    scale = json.loads((work.open(preferences) / SCALE).read_text(encoding="utf-8"))
    requests, held_out = story_requests()

    def gold(text: str, answer: str) -> float:
        return (gold_score(text, answer) - float(scale["mean"])) / float(scale["std"])

    state = algorithm.PPOState.start(reference, proxy_model, config)
    history: list[dict[str, Any]] = []  # scores of every iteration's answers, for the watch
    if saved := work.load_state():
        _, tensors, meta = saved
        state.load_tensors(tensors)
        history = meta["history"]
    reports = algorithm.ppo(state, reference, proxy_model.score, _asked(words, requests), (words.end_id,), config, seed)
    for record in reports:
        step = record.iteration + 1
        answers = [
            (requests[i], words.decode(tokens).strip())
            for i, tokens in zip(record.rollout.prompt_index, record.rollout.responses, strict=True)
        ]
        golds = [gold(*answer) for answer in answers]
        interval = mean_interval(golds)
        metrics = record.metrics
        history.append({"step": step, "kl": metrics["objective/kl"], "proxy": record.scores_B.tolist(), "gold": golds})
        work.log(
            step,
            metrics
            | {
                "objective/scores": metrics["objective/score"],
                "gold": interval.value,
                "gold_low": interval.low,
                "gold_high": interval.high,
                "entropy": metrics["policy/entropy"],
                "length": metrics["response/length"],
            },
        )
        if step % 10 == 0 or step == config.num_iterations:
            work.rows(
                "samples",
                [
                    {
                        "step": step,
                        "prompt": text,
                        "completion": answer,
                        "scores_json": json.dumps({"proxy": float(score), "gold": gold(text, answer)}),
                        "tokens": len(tokens),
                    }
                    for (text, answer), tokens, score in list(
                        zip(answers, record.rollout.responses, record.scores_B, strict=True)
                    )[:4]
                ],
            )
        # A pass of policy, reference and critic to judge, and forward plus backward of policy and critic an epoch.
        passes = 3 + 2 * 3 * config.num_epochs
        flops = metrics["tokens"] * passes * forward_flops_per_token(reference.cfg, reference.cfg.context_length)
        work.usage(tokens=metrics["tokens"], flops=flops)
        work.progress(step, config.num_iterations, reward=metrics["objective/score"], gold=interval.value)
        if step < config.num_iterations and work.state_due():
            work.save_state(step, state.tensors(), {"history": history})
    save_model(work.out, state.policy)

    # The finished policy on requests that it was not trained on.
    texts = [held_out[i % len(held_out)] for i in range(judging.num_eval)]
    prompts = _asked(words, texts)
    params = SamplingParams(
        max_tokens=judging.max_tokens, temperature=judging.temperature, seed=seed + 1, stop_ids=(words.end_id,)
    )
    said = [group[0] for group in generate(state.policy, prompts, params)]
    golds = [gold(text, _said(words, completion)) for text, completion in zip(texts, said, strict=True)]
    proxies = score_sequences(proxy_model, [[*p, *c.tokens] for p, c in zip(prompts, said, strict=True)])
    tokens_BT, _, mask_BA = pack_responses(prompts, [c.tokens for c in said])
    import torch

    with torch.no_grad():
        difference = (
            token_stats(state.policy, tokens_BT, mask_BA).log_probs_BA
            - token_stats(reference, tokens_BT, mask_BA).log_probs_BA
        )
    final = mean_interval(golds)
    alarm = first_alarm([observe(h["step"], h["kl"], h["proxy"], h["gold"]) for h in history])
    return {
        "kl_coef": config.kl_coef,
        "proxy": float(proxies.mean()),
        "gold": final.value,
        "gold_low": final.low,
        "gold_high": final.high,
        "n": final.n,
        "kl": float((difference * mask_BA).sum(1).mean()),
        "length": float(np.mean([len(c.tokens) for c in said])),
        "alarm": alarm is not None,
        "alarm_reason": alarm.message() if alarm else "",
    }


@stage(produces="eval_report", group="rlhf", seconds=15)
def best_of_n(
    work: Work,
    *,
    best_of: tuple[int, ...],
    judging: JudgingConfig,
    seed: int,
    sft: Artifact,
    reward_model: Artifact,
    preferences: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """What picking the reward model's favourite of n answers gains, at which KL: no training, more tokens."""
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value
    from components.rlhf.config import story_requests
    from components.rlhf.gold import gold_score
    from components.rlhf.reward_model import load_reward_model, score_sequences
    from components.statistics import mean_interval
    from components.training.checkpoints import load_model

    model, words = load_model(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    judge = load_reward_model(work.open(reward_model))
    scale = json.loads((work.open(preferences) / SCALE).read_text(encoding="utf-8"))
    _, texts = story_requests()
    prompts = _asked(words, texts)
    # Each request stands several times, so that the interval is over independent groups of answers.
    copies = max(1, judging.num_eval // (4 * len(texts)))
    texts, prompts = texts * copies, prompts * copies
    params = SamplingParams(
        max_tokens=judging.max_tokens,
        temperature=judging.temperature,
        num_samples=max(best_of),
        seed=seed + 2,
        stop_ids=(words.end_id,),
    )
    groups = generate(model, prompts, params)
    _count_generation(work, model, sum(len(c.tokens) for group in groups for c in group))
    scores = [
        score_sequences(judge, [[*prompt, *c.tokens] for c in group]).numpy()
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    golds = [
        [(gold_score(text, _said(words, c)) - scale["mean"]) / scale["std"] for c in group]
        for text, group in zip(texts, groups, strict=True)
    ]
    rows = []
    for n in best_of:
        gold = mean_interval([best_of_n_value(s, g, n) for s, g in zip(scores, golds, strict=True)])
        proxy = mean_interval([best_of_n_value(s, s, n) for s in scores])
        rows.append(
            {
                "n": n,
                "items": gold.n,
                "kl": best_of_n_kl(n),
                "proxy": proxy.value,
                "gold": gold.value,
                "gold_low": gold.low,
                "gold_high": gold.high,
            }
        )
    (work.out / "best_of_n.json").write_text(json.dumps(rows), encoding="utf-8")
    return {"rows": rows, "n": len(texts)}


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
    from components.reasoning.tasks import Problem, chain_problem, is_correct, prompt
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
    watched = [p for p in held_out if task.min_difficulty <= p.difficulty <= task.max_difficulty][: task.num_watch]

    def accuracy(model: Transformer, items: list[Problem]) -> Interval:
        params = SamplingParams(max_tokens=config.max_tokens, temperature=0.0, stop_ids=(words.end_id,))
        answers = generate(model, _asked(words, [prompt(p, "worked") for p in items]), params)
        right = [is_correct(p, _said(words, group[0])) for p, group in zip(items, answers, strict=True)]
        return wilson(sum(right), len(right))

    final_items = [p for p in held_out if task.min_difficulty <= p.difficulty <= task.max_difficulty]
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
        _asked(words, [prompt(p, "worked") for p in problems]),
        (words.end_id,),
        config,
        seed,
    )
    for record in reports:
        step, metrics = record.iteration + 1, record.metrics
        watched_now = step % task.evaluate_every == 0 or step == config.num_iterations
        extra = {"greedy_accuracy": accuracy(state.policy, watched).value} if watched_now else {}
        aliases = {"reward": metrics["objective/reward"], "zero_std_share": metrics["groups/zero_variance"]}
        work.log(step, metrics | aliases | extra)
        passes = 1 + 3 * config.num_epochs
        flops = metrics["tokens"] * passes * forward_flops_per_token(reference.cfg, reference.cfg.context_length)
        work.usage(tokens=metrics["tokens"], flops=flops)
        work.progress(step, config.num_iterations, reward=metrics["objective/reward"])
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
    }
