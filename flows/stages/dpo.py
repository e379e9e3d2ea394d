"""DPO: the policy learns from the pairs themselves."""

from __future__ import annotations

from components.model.config import forward_flops_per_token, training_flops_per_token
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.results.dpo import DPOResult
from components.rlhf.rewards.settings import RewardSettings
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.bench import open_bench
from flows.stages.counting import count_generation, rough_flops, skips
from flows.stages.files import PREFERENCES
from storage.artifacts import Artifact


@stage(produces="checkpoint", group="rlhf", seconds=20)
def dpo(
    work: Work,
    *,
    config: DPOConfig,
    judging: JudgingConfig,
    seed: int,
    reward: RewardSettings,
    sft: Artifact,
    reward_model: list[Artifact],
    preferences: list[Artifact],
    prompts: list[Artifact],
    tokenizer: Artifact,
) -> DPOResult:
    """The policy learns from the pairs themselves; rewards or the reward model, if any, only judge it in the end."""
    from components.rlhf import dpo as algorithm
    from components.rlhf.pairs import encode_pairs
    from components.rlhf.preferences import read_preferences
    from components.training.checkpoints import save_trained

    bench = open_bench(
        work,
        reward=reward,
        sft=sft,
        tokenizer=tokenizer,
        prompts=prompts,
        reward_model=reward_model,
        preferences=preferences,
        max_tokens=judging.max_tokens,
        trained=False,
        adapted=config.lora is not None,
    )
    judged, _ = read_preferences(work.open(preferences[0]) / PREFERENCES)
    pairs, too_long = encode_pairs(judged, bench.words, bench.reference.cfg.context_length)
    state = algorithm.DPOState.start(bench.reference, config, seed)
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
        rough = rough_flops(cfg, record["tokens"], 4)
        work.usage(tokens=record["tokens"], flops=record["tokens"] * each, flops_6nd=rough)
        shown = {"loss": record["loss/policy"], "accuracy": record["rewards/accuracy"]}
        work.progress(step, total, **shown, **skips(step, record, state.guard))
        if step < total and work.state_due():
            work.save_state(step, state.tensors(), {})
    policy = save_trained(work.out, state.policy, bench.reference)
    judgement, num_tokens = bench.judge(policy, judging, seed + 1)
    count_generation(work, bench.reference, num_tokens)
    return DPOResult(
        mitigation="DPO",
        beta=config.beta,
        num_pairs=len(pairs),
        num_too_long=len(too_long),
        reward_accuracy=last.get("rewards/accuracy"),
        guard=state.guard.counts(),
        judged=judgement,
    )
