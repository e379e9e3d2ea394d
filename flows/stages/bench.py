"""The bench of a policy, opened from the artifacts of a life: its prompts, what it is paid, and gold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.rlhf.rewards.settings import RewardSettings
from flows.engine.work import Work
from flows.stages.files import GOLD_SCALE, PREFERENCES, PROMPTS
from flows.stages.judges import reward_judge
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.prompt_files import Prompt
    from components.data.tokenizer import Tokenizer
    from components.model.transformer import Transformer
    from components.rlhf.bench import Bench, Gold
    from components.rlhf.rewards.answers import Scorer
    from components.rlhf.rewards.kinds import RewardConfig
    from components.rlhf.rewards.scoring import Judged, Rewards


def open_bench(
    work: Work,
    *,
    reward: RewardSettings,
    sft: Artifact,
    tokenizer: Artifact,
    prompts: Sequence[Artifact],
    reward_model: Sequence[Artifact],
    preferences: Sequence[Artifact],
    max_tokens: int,
    trained: bool = True,
    adapted: bool = False,
) -> Bench:
    """Prompts: the user's, else those of the pairs where they came from a file, else our requests for stories. Paid:
    the rewards, else the reward model, else nothing. Gold: the user's, else that of our stories where these are asked
    for and the preferences are gold's.

    max_tokens: of an answer; prompts that leave no room for it go to the table `quarantine`. trained: a policy learns
    from the prompts, so some must be left that are not held out. adapted: adapters that the policy's start keeps apart
    stay so, to go on. Raises ValueError where none is left.
    """
    from components.data.tokenizer import Tokenizer
    from components.rlhf.bench import Bench, Gold, story_prompts
    from components.rlhf.reward_model import load_reward_model
    from components.training.checkpoints import load_adapted, load_model

    load = load_adapted if adapted else load_model
    reference, words = load(work.open(sft)), Tokenizer.load(work.open(tokenizer))
    stories = not prompts and not from_file(preferences)
    if prompts:
        training, held_out = own_prompts(work, prompts[0])
    elif stories:
        training, held_out = story_prompts()
    else:
        training, held_out = prompts_of_pairs(work, preferences[0])
    room = reference.cfg.context_length - max_tokens
    judges = (*reward.rewards, *reward.gold)
    training = fitting(work, words, training, room, judges, "to train on" if trained else "")
    held_out = fitting(work, words, held_out, room, judges, "held out to judge on")
    ensemble = load_reward_model(work.open(reward_model[0]), like=reference) if reward_model else None
    reference.to(work.device)
    ensemble = ensemble and ensemble.to(work.device)
    gold: Gold | None = None
    if reward.gold:
        gold = Gold.of_rewards(opened(reward, reward.gold, [*training, *held_out], words, ensemble))
    elif stories and preferences:
        gold = Gold.on_scale(work.open(preferences[0]) / GOLD_SCALE)
    proxy = opened(reward, reward.rewards, [*training, *held_out], words, ensemble) if reward.rewards else ensemble
    return Bench(reference, words, training, held_out, proxy, gold)


def from_file(preferences: Sequence[Artifact]) -> bool:
    """Whether pairs came from a file of the user's, and so from prompts of theirs."""
    return bool(preferences) and preferences[0].facts.get("source") == "file"


def own_prompts(work: Work, prompts: Artifact) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts of `[[prompts]]`: to train on, and held out."""
    from components.data.prompt_files import read_prompts

    return read_prompts(work.open(prompts) / PROMPTS)


def prompts_of_pairs(work: Work, preferences: Artifact) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts of a file of pairs, a tenth of them held out to judge on."""
    from components.data.prompt_files import Prompt, PromptsConfig, held_out_of
    from components.rlhf.preferences import read_preferences

    pairs, _ = read_preferences(work.open(preferences) / PREFERENCES)
    made = {
        prompt.id: prompt
        for pair in pairs
        for prompt in [
            Prompt(
                (
                    *({"role": turn.role, "content": turn.content} for turn in pair.context),
                    {"role": "user", "content": pair.prompt},
                ),
                source="preferences",
            )
        ]
    }
    held = held_out_of(list(made.values()), PromptsConfig("preferences"), 0)
    return [p for name, p in made.items() if name not in held], [p for name, p in made.items() if name in held]


def fitting(
    work: Work, words: Tokenizer, prompts: Sequence[Prompt], room: int, judges: Sequence[RewardConfig], what: str
) -> list[Prompt]:
    """The prompts that can be asked and judged; the others go to the table `quarantine`. `what`: the error's name for
    them where none is left; "" where that is none."""
    from components.rlhf.prompts import usable

    kept, left_out = usable(words, prompts, room, judges)
    work.rows("quarantine", [dataclasses.asdict(one) for one in left_out])
    if left_out:
        print(f"{len(left_out)} of {len(prompts)} prompts left out; the first: {left_out[0].reason}")
    if not kept and what:
        first = f"; {left_out[0].file}:{left_out[0].line}: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"no prompt is left {what}: {len(left_out)} cannot be used{first}")
    return kept


def opened(
    reward: RewardSettings,
    configs: Sequence[RewardConfig],
    prompts: Sequence[Prompt],
    words: Tokenizer,
    ensemble: Any = None,
) -> Rewards:
    """Rewards by name, ready to judge answers to these prompts. `ensemble`: the reward model of the life, if it has
    one. Raises RewardError for one that cannot be used."""
    from components.rlhf.rewards.scoring import open_rewards

    columns = sorted({name for prompt in prompts for name in prompt.metadata})
    model = _model_scorer(ensemble, words) if ensemble else None
    return open_rewards(configs, columns, reward.limits.max_failed, judge=reward_judge, reward_model=model)


def _model_scorer(ensemble: Any, words: Tokenizer) -> Scorer:
    from components.rlhf.reward_model import score_sequences
    from components.rlhf.rewards.reward_model import open_reward_model

    def encode(sample: Any) -> list[int]:
        prompt, _ = words.render_chat([dict(m) for m in sample.messages], add_generation_prompt=True)
        return [*prompt, *words.encode(sample.completion), words.end_id]

    return open_reward_model(lambda sequences: score_sequences(ensemble, sequences).tolist(), encode)


def failed_rows(step: int, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Rows of the table `samples` for answers that a reward failed on, with what it said."""
    return [
        {
            "step": step,
            "prompt": one.sample.prompt,
            "completion": one.sample.completion,
            "scores_json": json.dumps({"failed": one.failures}, ensure_ascii=False),
        }
        for one in judged
        if one.failures
    ]


def critic_start(bench: Bench, seed: int) -> Any:
    """What PPO's critic begins as a copy of: the reward model, or the model that the policy begins as with a value
    head."""
    from components.rlhf.reward_model import Ensemble, RewardModel

    if isinstance(bench.proxy, Ensemble):
        return bench.proxy.members[0]
    policy: Transformer = bench.reference
    return RewardModel(policy, seed)
