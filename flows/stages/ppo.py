"""PPO against the reward model, under the watch for over-optimisation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from components.model.config import forward_flops_per_token
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.overoptimization_config import WatchConfig
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.results.policy import LawResult, Laws
from components.rlhf.results.ppo import PPOResult
from components.rlhf.rewards.settings import RewardSettings
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.bench import critic_start, failed_rows, open_bench
from flows.stages.counting import count_generation, rough_flops, skips
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from components.model.transformer import Transformer
    from components.rlhf.bench import Bench
    from components.rlhf.overoptimization import Observation
    from components.rlhf.ppo import PPORecord
    from components.training.language_model import LMBatch

SAMPLES_EVERY, SAMPLES = 10, 4


@stage(produces="checkpoint", group="rlhf", seconds=35)
def ppo(
    work: Work,
    *,
    config: PPOConfig,
    watch: WatchConfig,
    judging: JudgingConfig,
    mitigation: str,
    seed: int,
    reward: RewardSettings,
    sft: Artifact,
    reward_model: list[Artifact],
    preferences: list[Artifact],
    prompts: list[Artifact],
    tokenizer: Artifact,
    replay: list[Artifact],
) -> PPOResult:
    """PPO against rewards or the reward model; gold is watched where it is known, never trained on. `mitigation` names
    the run in the report; `replay`: token shards, where config.replay_coef asks for them."""
    from components.rlhf import ppo as algorithm
    from components.rlhf.overoptimization import alarm_now, best_observation, first_alarm
    from components.rlhf.overoptimization_laws import fit_rows
    from components.rlhf.prompts import chat_prompts, stop_tokens
    from components.rlhf.rewards.scoring import Rewards, means
    from components.rlhf.scored_answers import ScoredAnswers
    from components.training.checkpoints import save_trained
    from components.training.state import load_trained_tensors

    bench = open_bench(
        work,
        reward=reward,
        sft=sft,
        tokenizer=tokenizer,
        prompts=prompts,
        reward_model=reward_model,
        preferences=preferences,
        max_tokens=max(config.max_tokens, judging.max_tokens),
        adapted=config.lora is not None,
    )
    encoded = chat_prompts(bench.words, bench.prompts)
    score = bench.scorer(encoded)
    num_rewards = reward_passes(bench)
    state = algorithm.PPOState.start(bench.reference, critic_start(bench, seed), config, seed)
    stopping = watch.on_alarm == "stop"
    seen: list[dict[str, Any]] = []  # what `observe` takes, of every look
    best: dict[str, Tensor] = {}  # weights that sampled the most trusted answers, kept where an alarm stops the run
    if saved := work.load_state():
        _, tensors, meta = saved
        state.load_tensors(tensors)
        seen = meta["seen"]
        if isinstance(bench.proxy, Rewards):
            bench.proxy.counted(meta["rewards"])
        best = {name.removeprefix("best."): x for name, x in tensors.items() if name.startswith("best.")}
    history = [_observation(one) for one in seen]
    alarm = first_alarm(history, watch.false_alarm_rate, watch.gold)
    sampling = _weights(state.policy) if stopping else {}
    reports = algorithm.ppo(
        state,
        bench.reference,
        score,
        encoded,
        stop_tokens(bench.words),
        config,
        seed,
        _replayed(work, config, seed, replay, bench.reference.cfg.context_length) if replay else None,
    )
    for record in reports:
        step, metrics = record.iteration + 1, record.metrics
        last = step == config.num_iterations
        if isinstance(score, ScoredAnswers):
            judged = score.taken(record.rollout)
            metrics = metrics | dict(means(judged).metrics())
            work.rows("samples", failed_rows(step, judged))
        if step == 1 or last or step % watch.every == 0:
            seen.append(_look(bench, encoded, record))
            history.append(_observation(seen[-1]))
            if gold := history[-1].gold:
                metrics = metrics | {"gold": gold.value, "gold_low": gold.low, "gold_high": gold.high}
            if stopping and best_observation(history, watch.gold) is history[-1]:
                best = sampling
            alarm = alarm or alarm_now(history, watch.gold, watch.false_alarm_rate)
        sampling = _weights(state.policy) if stopping else {}
        work.log(step, metrics)
        if step % SAMPLES_EVERY == 0 or last:
            work.rows("samples", _samples(bench, encoded, record))
        # A pass to sample; one each of policy, reference, critic and reward models to judge; and forward plus backward
        # of policy and critic an epoch.
        passes = 1 + 3 + num_rewards + 2 * 3 * config.num_epochs
        flops = (
            metrics["tokens"]
            * passes
            * forward_flops_per_token(bench.reference.cfg, bench.reference.cfg.context_length)
        )
        rough = rough_flops(bench.reference.cfg, metrics["tokens"], passes)
        work.usage(tokens=metrics["tokens"], flops=flops, flops_6nd=rough)
        shown = {"reward": metrics["objective/score"]}
        if gold := history[-1].gold:
            shown["gold"] = gold.value
        work.progress(step, config.num_iterations, **shown, **skips(step, metrics, state.guard))
        if alarm and stopping:
            load_trained_tensors(state.policy, best)
            break
        if not last and work.state_due():
            counts = bench.proxy.counts if isinstance(bench.proxy, Rewards) else {}
            tensors = state.tensors() | {f"best.{name}": x for name, x in best.items()}
            work.save_state(step, tensors, {"seen": seen, "rewards": counts})
    policy = save_trained(work.out, state.policy, bench.reference)
    suspicion = first_alarm(history, watch.false_alarm_rate, gold=False)
    peak = best_observation(history, watch.gold)
    laws = Laws(gold=_fitted(history, "gold"), proxy=_fitted(history, "proxy"))
    work.rows("scaling_fits", fit_rows("rl", laws, "least squares; Student's t over requests"))
    judgement, num_tokens = bench.judge(policy, judging, seed + 1)
    count_generation(work, bench.reference, num_tokens)
    return PPOResult(
        mitigation=mitigation,
        kl_coef=config.kl_coef,
        judged=judgement,
        alarm=alarm is not None,
        alarm_step=alarm.step if alarm else None,
        alarm_reason=alarm.message() if alarm else "",
        suspicion=suspicion is not None,
        suspicion_reason=suspicion.message() if suspicion else "",
        best_step=peak.step,
        stopped=alarm is not None and stopping,
        law=laws,
        guard=state.guard.counts(),
    )


def reward_passes(bench: Bench) -> int:
    """Forward passes of reward models that judging an answer takes."""
    from components.rlhf.reward_model import Ensemble

    return len(bench.proxy.members) if isinstance(bench.proxy, Ensemble) else 0


def _weights(policy: Transformer) -> dict[str, Tensor]:
    from components.training.state import trained_tensors

    return {name: x.detach().clone() for name, x in trained_tensors(policy).items()}


def _replayed(work: Work, config: PPOConfig, seed: int, shards: list[Artifact], context_length: int) -> Any:
    """A batch of the pretraining text for every iteration."""
    from components.data.batches import batch_at
    from components.data.shards import TokenShards
    from components.training.language_model import LMBatch

    data = TokenShards.open(work.open(shards[0]))
    rows = max(1, config.batch_size // config.num_minibatches)

    def batch(iteration: int) -> LMBatch:
        drawn = batch_at(data, iteration, rows, context_length, seed)
        return LMBatch(drawn.inputs_BT, drawn.targets_BT)

    return batch


def _look(bench: Bench, encoded: Sequence[Sequence[int]], record: PPORecord) -> dict[str, Any]:
    """What the watch sees of an iteration's answers, as `observe` takes it."""
    from components.rlhf.prompts import samples_of_rollout
    from components.rlhf.rollouts import repeated_share

    rollout, metrics = record.rollout, record.metrics
    samples = samples_of_rollout(bench.words, bench.prompts, encoded, rollout)
    return {
        "step": record.iteration + 1,
        "kl": max(0.0, metrics["objective/kl"]),
        "proxy": record.scores_B.tolist(),
        "gold": bench.gold.score(samples) if bench.gold else None,
        "requests": list(rollout.prompt_index),
        "disagreement": record.scores_BM.std(1, correction=0).tolist() if record.scores_BM.shape[1] > 1 else [],
        "lengths": rollout.response_lengths_B.tolist(),
        "repeated": [repeated_share(response) for response in rollout.responses],
        "finished": rollout.finished_B.float().tolist(),
        "entropy": metrics["policy/entropy"],
        "distinct": metrics["response/distinct"],
    }


def _observation(look: dict[str, Any]) -> Observation:
    from components.rlhf.overoptimization import observe

    return observe(**look)


def _samples(bench: Bench, encoded: Sequence[Sequence[int]], record: PPORecord) -> list[dict[str, Any]]:
    from components.rlhf.prompts import samples_of_rollout

    samples = samples_of_rollout(bench.words, bench.prompts, encoded, record.rollout)[:SAMPLES]
    golds = bench.gold.score(samples) if bench.gold else [None] * len(samples)
    scores, lengths = record.scores_B.tolist(), map(len, record.rollout.responses)
    return [
        {
            "step": record.iteration + 1,
            "prompt": sample.prompt,
            "completion": sample.completion,
            "scores_json": json.dumps({"proxy": score} | ({} if gold is None else {"gold": gold})),
            "tokens": length,
        }
        for sample, score, gold, length in zip(samples, scores, golds, lengths, strict=False)
    ]


def _fitted(history: Sequence[Observation], target: Literal["gold", "proxy"]) -> LawResult | None:
    """Gao's law for RL over the looks of a run; None where the run has too few different KLs, or no such scores. A gain
    is over the same request's first answers, so that what the start happened to sample is in the intervals."""
    if getattr(history[0], target) is None:
        return None
    import numpy as np

    from components.rlhf.overoptimization_laws import fit_overoptimization

    def values(look: Observation) -> dict[int, float]:
        by_request: dict[int, list[float]] = {}
        for request, value in zip(look.requests, getattr(look, f"{target}_values"), strict=True):
            by_request.setdefault(request, []).append(value)
        return {request: float(np.mean(found)) for request, found in by_request.items()}

    start = values(history[0])
    points = [
        (look.kl, value - start[request], request)
        for look in history
        for request, value in values(look).items()
        if request in start
    ]
    try:
        kls, gains, requests = zip(*points, strict=True)
        return fit_overoptimization(kls, gains, requests, "rl").result()
    except ValueError:
        return None
