"""GRPO on rewards: an exact verifier of our worked chains, or what the user pays for their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.model.config import forward_flops_per_token
from components.reasoning.tasks import SuiteConfig
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.results.grpo import GRPOResult
from components.rlhf.rewards.settings import RewardSettings
from components.rlhf.verifier_task_config import VerifierTaskConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.bench import failed_rows, fitting, opened, own_prompts
from flows.stages.counting import rough_flops, skips
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.prompt_files import Prompt
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.rlhf.reward_model import Ensemble
    from components.rlhf.rewards.scoring import Judged, Rewards
    from components.statistics import Interval


def passes_per_token(config: GRPOConfig, metrics: Mapping[str, float], routed: bool) -> float:
    """Forward passes that GRPO makes of a token of an iteration's answers; a backward counts two.

    One samples it, and those of discarded draws. The rows of groups with equal rewards cost no more, unless a KL or a
    router (`routed`) needs them; the others are passed forward and back in each epoch, once for their old
    log-probabilities where their minibatch is not the first, and once through the reference where there is a KL.
    """
    learned = 1.0 if config.kl_coef or routed else 1.0 - metrics["groups/zero_variance"]
    each = 3 * config.num_epochs + (config.num_minibatches - 1) / config.num_minibatches + bool(config.kl_coef)
    return metrics["groups/sampled"] / config.num_prompts + learned * each


HELD_OUT_SAMPLES = 4  # answers to each held-out prompt where a reward is no verdict


@dataclass(frozen=True)
class Task:
    """What GRPO practises and what it is held to.

    Attributes:
        prompts: to train on.
        held_out: to compare with the start; none of them is trained on.
        watched: those of them that are looked at on the way.
        rewards, gold: what is paid, and what is only watched.
        by_verdict: whether the reward is one verdict, right or wrong.
    """

    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    watched: Sequence[Prompt]
    rewards: Rewards
    gold: Rewards | None
    by_verdict: bool


def chains(task: VerifierTaskConfig, suite: SuiteConfig, seed: int) -> Task:
    """Our worked chains with the exact verifier: an answer must end by itself, at any token that ends one, and right.
    None that is practised has a question or a solution of the suite."""
    import random

    from components.data.prompt_files import user_says
    from components.reasoning.tasks import HeldOutProblems, Problem, chain_problem, extract_answer, prompt, spread
    from components.rlhf.rewards.answers import Sample, Score, missing, verdict
    from components.rlhf.rewards.scoring import Part, Rewards

    held_out = suite.problems()
    forbidden = HeldOutProblems.of(held_out)
    rng = random.Random(f"grpo-{seed}")
    practice: dict[str, Problem] = {}
    while len(practice) < task.num_problems:
        problem = chain_problem(rng, rng.randint(task.min_difficulty, task.max_difficulty))
        if not forbidden.forbids(problem):
            practice.setdefault(problem.question, problem)
    final = [p for p in held_out if task.min_difficulty <= p.difficulty <= task.max_difficulty]

    def asked(problems: Sequence[Problem]) -> list[Prompt]:
        return [user_says(prompt(problem, "worked"), problem.answer) for problem in problems]

    def score(sample: Sample) -> Score:
        found = extract_answer(sample.completion) if sample.finished else ""
        return verdict(found == sample.answer, found) if found else missing(sample)

    rewards = Rewards((Part("verifier", 1.0, lambda samples: [score(sample) for sample in samples]),))
    watched = spread(final, task.num_watch)  # the first of them all would be the easiest alone
    return Task(asked(list(practice.values())), asked(final), asked(watched), rewards, None, by_verdict=True)


def own(
    work: Work,
    task: VerifierTaskConfig,
    reward: RewardSettings,
    prompts: Sequence[Artifact],
    reference: Transformer,
    words: Tokenizer,
    max_tokens: int,
    practised: Task | None,
    ensemble: Ensemble | None,
) -> Task:
    """The user's rewards, on the user's prompts or, where there are none, on those of `practised`."""
    from components.rlhf.rewards.kinds import VERIFIERS

    training, held_out = own_prompts(work, prompts[0]) if prompts else (practised.prompts, practised.held_out)  # type: ignore[union-attr]
    room, judges = reference.cfg.context_length - max_tokens, (*reward.rewards, *reward.gold)
    training = fitting(work, words, training, room, judges, "to train on")
    held_out = fitting(work, words, held_out, room, judges, "held out to judge on")
    both = [*training, *held_out]
    gold = opened(reward, reward.gold, both, words, ensemble) if reward.gold else None
    by_verdict = len(reward.rewards) == 1 and reward.rewards[0].kind in VERIFIERS and reward.rewards[0].weight == 1.0
    rewards = opened(reward, reward.rewards, both, words, ensemble)
    return Task(training, held_out, held_out[: task.num_watch], rewards, gold, by_verdict)


@stage(produces="checkpoint", group="rlhf", seconds=90)
def grpo(
    work: Work,
    *,
    config: GRPOConfig,
    task: VerifierTaskConfig,
    suite: SuiteConfig,
    reward: RewardSettings,
    seed: int,
    sft: Artifact,
    reward_model: list[Artifact],
    prompts: list[Artifact],
    tokenizer: Artifact,
) -> GRPOResult:
    """GRPO on the user's rewards and prompts, or on worked chains with the exact verifier; watched on held-out ones."""
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf import grpo as algorithm
    from components.rlhf.prompts import as_answers, chat_prompts, samples_of, stop_tokens
    from components.rlhf.rewards.scoring import means
    from components.rlhf.scored_answers import ScoredAnswers, reward_gains
    from components.statistics import clustered_mean_interval, wilson
    from components.training.checkpoints import load_adapted, load_model, save_trained

    load = load_adapted if config.lora else load_model  # adapters that the start keeps apart go on
    reference, words = load(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    stops = stop_tokens(words)
    practised = None if prompts else chains(task, suite, seed)
    if reward.rewards:
        from components.rlhf.reward_model import load_reward_model

        ensemble = load_reward_model(work.open(reward_model[0]), like=reference) if reward_model else None
        ensemble = ensemble and ensemble.to(work.device)
        goal = own(work, task, reward, prompts, reference, words, config.max_tokens, practised, ensemble)
    elif practised is not None:
        goal = practised
    else:
        raise ValueError('grpo has prompts and no rewards: say what an answer is worth, as in rewards = ["number"]')
    reference.to(work.device)

    # A verdict is asked for greedily, as users would; of a reward the mean of samples is what is optimised.
    each = 1 if goal.by_verdict else HELD_OUT_SAMPLES
    params = SamplingParams(
        max_tokens=config.max_tokens,
        temperature=0.0 if goal.by_verdict else config.temperature,
        num_samples=each,
        seed=seed + 1,
        stop_ids=stops,
    )

    def answered(model: Transformer, prompts: Sequence[Prompt]) -> list[Judged]:
        encoded = chat_prompts(words, prompts)
        answers = [one for group in generate(model, encoded, params) for one in group]
        places = [place for place in range(len(prompts)) for _ in range(each)]
        asked, rendered = [prompts[place] for place in places], [encoded[place] for place in places]
        return goal.rewards.judge(samples_of(words, asked, rendered, as_answers(answers)))

    def worth(judged: Sequence[Judged]) -> Interval:
        totals = [one.total for one in judged]
        if goal.by_verdict:
            return wilson(sum(x == 1.0 for x in totals), len(totals))
        return clustered_mean_interval(totals, [place // each for place in range(len(totals))])

    measure = "greedy_accuracy" if goal.by_verdict else "held_out_reward"
    before = answered(reference, goal.held_out)
    state = algorithm.GRPOState.start(reference, config, seed)
    if saved := work.load_state():
        state.load_tensors(saved[1])
        goal.rewards.counted(saved[2])
    else:
        work.log(0, {measure: worth(answered(reference, goal.watched)).value})
    encoded = chat_prompts(words, goal.prompts)
    score = ScoredAnswers(goal.rewards, words, goal.prompts, encoded)
    for record in algorithm.grpo(state, reference, score, encoded, stops, config, seed):
        step, metrics = record.iteration + 1, record.metrics
        judged = score.taken(record.rollout)
        watched_now = step % task.evaluate_every == 0 or step == config.num_iterations
        extra = {measure: worth(answered(state.policy, goal.watched)).value} if watched_now else {}
        work.log(step, metrics | dict(means(judged).metrics()) | extra)
        work.rows("samples", failed_rows(step, judged))
        passes = passes_per_token(config, metrics, routed=reference.cfg.moe is not None)
        flops = metrics["tokens"] * passes * forward_flops_per_token(reference.cfg, reference.cfg.context_length)
        rough = rough_flops(reference.cfg, metrics["tokens"], passes)
        work.usage(tokens=metrics["tokens"], flops=flops, flops_6nd=rough)
        told = skips(step, metrics, state.guard)
        work.progress(step, config.num_iterations, reward=metrics["objective/reward"], **told)
        if step < config.num_iterations and work.state_due():
            work.save_state(step, state.tensors(), goal.rewards.counts)
    policy = save_trained(work.out, state.policy, reference)
    after = answered(policy, goal.held_out)
    places = [str(place // each) for place in range(len(after))]
    gold = None
    if goal.gold is not None:
        first, second = (goal.gold.judge([one.sample for one in judged]) for judged in (before, after))
        gold = clustered_mean_interval([b.total - a.total for a, b in zip(first, second, strict=True)], places)
    return GRPOResult(
        worth(before),
        worth(after),
        state.guard.counts(),
        measure="accuracy" if goal.by_verdict else "reward",
        rewards=reward_gains(before, after, places),
        gold_name=" + ".join(goal.gold.names) if goal.gold else "none",
        gold=gold,
        statuses={str(status): share for status, share in means(after).statuses.items()},
    )
