"""Policies that learn from preferences: PPO under the watch, DPO, and best-of-n, which learns nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.model.config import forward_flops_per_token, training_flops_per_token
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.overoptimization_config import WatchConfig
from components.rlhf.ppo_config import PPOConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.preferences import PREFERENCES, SCALE
from flows.stages.rlhf import asked, count_generation, said, skips
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from components.data.tokenizer import Tokenizer
    from components.inference.engine import Completion
    from components.model.transformer import Transformer
    from components.rlhf.overoptimization import Observation
    from components.rlhf.overoptimization_laws import Law
    from components.rlhf.ppo import PPORecord
    from components.rlhf.reward_model import Ensemble
    from components.training.language_model import LMBatch

SAMPLES_EVERY, SAMPLES = 10, 4


@dataclass(frozen=True)
class _Bench:
    """What every stage here judges with. gold: in standard deviations of the fine-tuned model's answers to the requests
    that policies are trained on, its mean there 0."""

    reference: Transformer
    words: Tokenizer
    proxy: Ensemble
    requests: list[str]
    held_out: list[str]
    scale: dict[str, float]

    @classmethod
    def open(
        cls, work: Work, sft: Artifact, reward_model: Artifact, preferences: Artifact, tokenizer: Artifact
    ) -> _Bench:
        from components.data.tokenizer import Tokenizer
        from components.rlhf.requests import story_requests
        from components.rlhf.reward_model import load_reward_model
        from components.training.checkpoints import load_model

        scale = json.loads((work.open(preferences) / SCALE).read_text(encoding="utf-8"))
        return cls(
            load_model(work.open(sft)),
            Tokenizer.load(work.open(tokenizer)),
            load_reward_model(work.open(reward_model)),
            *story_requests(),
            scale,
        )

    def gold(self, request: str, answer: str) -> float:
        from components.rlhf.gold import gold_score

        return (gold_score(request, answer) - self.scale["mean"]) / self.scale["std"]

    def judge(self, work: Work, policy: Transformer, config: JudgingConfig, seed: int) -> dict[str, Any]:
        """The finished policy on requests that no policy was trained on. proxy, gold: what it earns there over the
        fine-tuned model, which answers the same requests: some are easier than others, and than those trained on."""
        import numpy as np
        import torch

        from components.inference.engine import generate
        from components.inference.sampling import SamplingParams
        from components.rlhf.reward_model import ensemble_scores
        from components.rlhf.rollouts import pack_responses, repeated_share, token_stats
        from components.statistics import clustered_mean_interval

        texts = [self.held_out[i % len(self.held_out)] for i in range(config.num_eval)]
        prompts = asked(self.words, texts)
        params = SamplingParams(
            max_tokens=config.max_tokens, temperature=config.temperature, seed=seed, stop_ids=(self.words.end_id,)
        )

        def answered(model: Transformer) -> tuple[list[Completion], Tensor, list[float]]:
            """Answers with their scores by the reward models [B, M], and gold."""
            answers = [group[0] for group in generate(model, prompts, params)]
            count_generation(work, model, sum(len(c.tokens) for c in answers))
            scores_BM = ensemble_scores(self.proxy, [[*p, *c.tokens] for p, c in zip(prompts, answers, strict=True)])
            golds = [self.gold(t, said(self.words, c)) for t, c in zip(texts, answers, strict=True)]
            return answers, scores_BM, golds

        answers, scores_BM, golds = answered(policy)
        _, start_BM, start = answered(self.reference)
        gold = clustered_mean_interval(np.subtract(golds, start), texts)
        tokens_BT, _, mask_BA = pack_responses(prompts, [c.tokens for c in answers])
        # KL of the distributions that were sampled; greedy answers have none of their own.
        temperature = config.temperature or 1.0
        with torch.no_grad():
            log_ratio_BA = (
                token_stats(policy, tokens_BT, mask_BA, temperature).log_probs_BA
                - token_stats(self.reference, tokens_BT, mask_BA, temperature).log_probs_BA
            )
        return {
            "proxy": float(scores_BM.mean() - start_BM.mean()),
            "disagreement": float(scores_BM.std(1, correction=0).mean()),
            "gold": gold.value,
            "gold_low": gold.low,
            "gold_high": gold.high,
            "n": gold.n,
            "num_answers": len(answers),
            "kl": float((log_ratio_BA * mask_BA).sum(1).mean()),
            "length": float(np.mean([len(c.tokens) for c in answers])),
            "repeated": float(np.mean([repeated_share(c.tokens) for c in answers])),
            "finished": float(np.mean([c.finished for c in answers])),
        }


@stage(produces="checkpoint", group="rlhf", seconds=35)
def ppo(
    work: Work,
    *,
    config: PPOConfig,
    watch: WatchConfig,
    judging: JudgingConfig,
    mitigation: str,
    seed: int,
    sft: Artifact,
    reward_model: Artifact,
    preferences: Artifact,
    tokenizer: Artifact,
    replay: list[Artifact],
) -> dict[str, Any]:
    """PPO against the reward model; gold is watched, never trained on. `mitigation` names the run in the report;
    `replay`: token shards, where config.replay_coef asks for them."""
    from components.rlhf import ppo as algorithm
    from components.rlhf.overoptimization import alarm_now, best_observation, first_alarm
    from components.training.checkpoints import save_model

    bench = _Bench.open(work, sft, reward_model, preferences, tokenizer)
    state = algorithm.PPOState.start(bench.reference, bench.proxy.members[0], config)
    stopping = watch.on_alarm == "stop"
    seen: list[dict[str, Any]] = []  # what `observe` takes, of every look
    best: dict[str, Tensor] = {}  # weights that sampled the most trusted answers, kept where an alarm stops the run
    if saved := work.load_state():
        _, tensors, meta = saved
        state.load_tensors(tensors)
        seen = meta["seen"]
        best = {name.removeprefix("best."): x for name, x in tensors.items() if name.startswith("best.")}
    history = [_observation(one) for one in seen]
    alarm = first_alarm(history, watch.false_alarm_rate, watch.gold)
    sampling = _weights(state.policy) if stopping else {}
    reports = algorithm.ppo(
        state,
        bench.reference,
        bench.proxy.scores,
        asked(bench.words, bench.requests),
        (bench.words.end_id,),
        config,
        seed,
        _replayed(work, config, seed, replay, bench.reference.cfg.context_length) if replay else None,
    )
    for record in reports:
        step, metrics = record.iteration + 1, record.metrics
        last = step == config.num_iterations
        if step == 1 or last or step % watch.every == 0:
            seen.append(_look(bench, record))
            history.append(_observation(seen[-1]))
            gold = history[-1].gold
            assert gold is not None
            metrics = metrics | {"gold": gold.value, "gold_low": gold.low, "gold_high": gold.high}
            if stopping and best_observation(history, watch.gold) is history[-1]:
                best = sampling
            alarm = alarm or alarm_now(history, watch.gold, watch.false_alarm_rate)
        sampling = _weights(state.policy) if stopping else {}
        work.log(step, metrics)
        if step % SAMPLES_EVERY == 0 or last:
            work.rows("samples", _samples(bench, record))
        # A pass to sample; one each of policy, reference, critic and reward models to judge; and forward plus backward
        # of policy and critic an epoch.
        passes = 1 + 3 + len(bench.proxy.members) + 2 * 3 * config.num_epochs
        flops = (
            metrics["tokens"]
            * passes
            * forward_flops_per_token(bench.reference.cfg, bench.reference.cfg.context_length)
        )
        work.usage(tokens=metrics["tokens"], flops=flops)
        shown = {"reward": metrics["objective/score"], "gold": history[-1].gold.value}  # type: ignore[union-attr]
        work.progress(step, config.num_iterations, **shown, **skips(step, metrics, state.guard))
        if alarm and stopping:
            state.policy.load_state_dict(best)
            break
        if not last and work.state_due():
            work.save_state(step, state.tensors() | {f"best.{name}": x for name, x in best.items()}, {"seen": seen})
    save_model(work.out, state.policy)
    suspicion = first_alarm(history, watch.false_alarm_rate, gold=False)
    peak = best_observation(history, watch.gold)
    law = {target: _fitted([o.kl for o in history], history, target) for target in ("gold", "proxy")}
    work.rows("scaling_fits", _fit_rows("rl", law, "least squares over the looks of one run, which are correlated"))
    return {
        "mitigation": mitigation,
        "kl_coef": config.kl_coef,
        **bench.judge(work, state.policy, judging, seed + 1),
        "alarm": alarm is not None,
        "alarm_step": alarm.step if alarm else None,
        "alarm_reason": alarm.message() if alarm else "",
        "suspicion": suspicion is not None,
        "suspicion_reason": suspicion.message() if suspicion else "",
        "best_step": peak.step,
        "stopped": alarm is not None and stopping,
        "law": law,
        **state.guard.facts(),
    }


def _weights(policy: Transformer) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in policy.state_dict().items()}


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


def _look(bench: _Bench, record: PPORecord) -> dict[str, Any]:
    """What the watch sees of an iteration's answers, as `observe` takes it."""
    from components.rlhf.rollouts import repeated_share

    rollout, metrics = record.rollout, record.metrics
    return {
        "step": record.iteration + 1,
        "kl": max(0.0, metrics["objective/kl"]),
        "proxy": record.scores_B.tolist(),
        "gold": [bench.gold(*pair) for pair in _answers(bench, record)],
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


def _answers(bench: _Bench, record: PPORecord) -> list[tuple[str, str]]:
    return [
        (bench.requests[i], bench.words.decode(tokens).strip())
        for i, tokens in zip(record.rollout.prompt_index, record.rollout.responses, strict=True)
    ]


def _samples(bench: _Bench, record: PPORecord) -> list[dict[str, Any]]:
    shown = list(zip(_answers(bench, record), record.rollout.responses, record.scores_B.tolist(), strict=True))
    return [
        {
            "step": record.iteration + 1,
            "prompt": text,
            "completion": answer,
            "scores_json": json.dumps({"proxy": score, "gold": bench.gold(text, answer)}),
            "tokens": len(tokens),
        }
        for (text, answer), tokens, score in shown[:SAMPLES]
    ]


def _fitted(kls: Sequence[float], history: Sequence[Observation], target: str) -> dict[str, Any] | None:
    """Gao's law for RL over the looks of a run; None where the run has too few different KLs."""
    from components.rlhf.overoptimization_laws import fit_overoptimization

    values = [getattr(o, target).value for o in history]
    try:
        fit = fit_overoptimization(kls, [v - values[0] for v in values], "rl")
    except ValueError:
        return None
    return fit.as_facts()


def _fit_rows(law: Law, fits: dict[str, dict[str, Any] | None], method: str) -> list[dict[str, Any]]:
    """α and β of each fit as rows of `scaling_fits`."""
    return [
        {
            "sweep": "overoptimization",
            "law": f"{law}, {target}",
            "parameter": name,
            "value": fit[name],
            "low": fit[f"{name}_low"],
            "high": fit[f"{name}_high"],
            "n": fit["n"],
            "method": method,
        }
        for target, fit in fits.items()
        if fit is not None
        for name in ("alpha", "beta")
    ]


@stage(produces="checkpoint", group="rlhf", seconds=20)
def dpo(
    work: Work,
    *,
    config: DPOConfig,
    judging: JudgingConfig,
    seed: int,
    sft: Artifact,
    reward_model: Artifact,
    preferences: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """The policy learns from the pairs themselves; the reward model only judges it in the end."""
    from components.rlhf import dpo as algorithm
    from components.rlhf.pairs import encode_pairs
    from components.rlhf.preferences import read_preferences
    from components.training.checkpoints import save_model

    bench = _Bench.open(work, sft, reward_model, preferences, tokenizer)
    judged, _ = read_preferences(work.open(preferences) / PREFERENCES)
    pairs, too_long = encode_pairs(judged, bench.words, bench.reference.cfg.context_length)
    state = algorithm.DPOState.start(bench.reference, config)
    if saved := work.load_state():
        state.load_tensors(saved[1])
    total = algorithm.num_steps(len(pairs), config)
    last: dict[str, float] = {}
    for record in algorithm.dpo(state, bench.reference, pairs, config, seed):
        last = record
        step = int(record["step"])
        work.log(step, {name: value for name, value in record.items() if name != "step"})
        cfg = bench.reference.cfg
        each = training_flops_per_token(cfg, cfg.context_length) + forward_flops_per_token(cfg, cfg.context_length)
        work.usage(tokens=record["tokens"], flops=record["tokens"] * each)
        shown = {"loss": record["loss/policy"], "accuracy": record["rewards/accuracy"]}
        work.progress(step, total, **shown, **skips(step, record, state.guard))
        if step < total and work.state_due():
            work.save_state(step, state.tensors(), {})
    save_model(work.out, state.policy)
    return {
        "mitigation": "DPO",
        "beta": config.beta,
        "num_pairs": len(pairs),
        "num_too_long": len(too_long),
        "reward_accuracy": last.get("rewards/accuracy"),
        **state.guard.facts(),
        **bench.judge(work, state.policy, judging, seed + 1),
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
    import numpy as np

    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value
    from components.rlhf.overoptimization_laws import bootstrap_overoptimization
    from components.rlhf.reward_model import score_sequences
    from components.statistics import cluster_rows, clustered_mean_interval

    bench = _Bench.open(work, sft, reward_model, preferences, tokenizer)
    # Each request stands several times; what is gained there is one observation, since its answers are alike.
    texts = bench.held_out * max(1, judging.num_eval // (4 * len(bench.held_out)))
    prompts = asked(bench.words, texts)
    params = SamplingParams(
        max_tokens=judging.max_tokens,
        temperature=judging.temperature,
        num_samples=max(best_of),
        seed=seed + 2,
        stop_ids=(bench.words.end_id,),
    )
    groups = generate(bench.reference, prompts, params)
    count_generation(work, bench.reference, sum(len(c.tokens) for group in groups for c in group))
    scores = [
        score_sequences(bench.proxy, [[*prompt, *c.tokens] for c in group]).double().numpy()
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    golds = [[bench.gold(text, said(bench.words, c)) for c in group] for text, group in zip(texts, groups, strict=True)]
    kls = [best_of_n_kl(n) for n in best_of]
    # Gains over one sample, item by item: requests differ in how well they are answered to begin with.
    gained = {
        "proxy": np.array([[best_of_n_value(s, s, n) - s.mean() for n in best_of] for s in scores]),
        "gold": np.array(
            [[best_of_n_value(s, g, n) - np.mean(g) for n in best_of] for s, g in zip(scores, golds, strict=True)]
        ),
    }
    rows = []
    for place, n in enumerate(best_of):
        gold = clustered_mean_interval(gained["gold"][:, place], texts)
        rows.append(
            {
                "n": n,
                "items": gold.n,
                "kl": kls[place],
                "proxy": float(gained["proxy"][:, place].mean()),
                "gold": gold.value,
                "gold_low": gold.low,
                "gold_high": gold.high,
            }
        )
    (work.out / "best_of_n.json").write_text(json.dumps(rows), encoding="utf-8")
    law = {}
    for target, values_IN in gained.items():
        by_request = np.stack([values_IN[places].mean(0) for places in cluster_rows(texts)])
        fit = bootstrap_overoptimization(kls, by_request, "best_of_n", seed)
        law[target] = fit.as_facts() if fit else None
    requests = len(bench.held_out)
    work.rows("scaling_fits", _fit_rows("best_of_n", law, f"least squares; bootstrap over {requests} requests"))
    return {"rows": rows, "n": requests, "num_groups": len(texts), "law": law}
