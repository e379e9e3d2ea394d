"""What every policy is judged with: the model that it began as, its own prompts and rewards, and gold where it is
known.

Shape suffixes: B answers, M scores of an ensemble, A positions of an answer, T positions of prompt and answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.prompt_files import Prompt, user_says
from components.data.tokenizer import Tokenizer
from components.inference.engine import Completion, generate
from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.gold import gold_score
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.prompts import as_answers, chat_prompts, samples_of, stop_tokens
from components.rlhf.requests import story_requests
from components.rlhf.results.policy import STORY_GOLD, PolicyJudgement
from components.rlhf.reward_model import Ensemble, ensemble_scores, load_reward_model
from components.rlhf.rewards.answers import Sample
from components.rlhf.rewards.scoring import Judged, Rewards
from components.rlhf.rollouts import Score, of_sequences, pack_responses, repeated_share, token_stats
from components.rlhf.scored_answers import ScoredAnswers, reward_gains
from components.statistics import clustered_mean_interval
from components.training.checkpoints import load_model


@dataclass(frozen=True)
class Gold:
    """What policies are watched with and never paid, by name; scores in the order of the samples."""

    name: str
    score: Callable[[Sequence[Sample]], list[float]]

    @classmethod
    def of_stories(cls, mean: float = 0.0, std: float = 1.0) -> Gold:
        """What a reader of our stories wants, in standard deviations of the fine-tuned model's answers."""
        return cls(STORY_GOLD, lambda samples: [(gold_score(s.prompt, s.completion) - mean) / std for s in samples])

    @classmethod
    def on_scale(cls, file: Path) -> Gold | None:
        """Of our stories, on the scale {mean, std} of a JSON file; None where it is not there: then nobody said that
        the preferences are gold's."""
        if not file.exists():
            return None
        scale = json.loads(file.read_text(encoding="utf-8"))
        return cls.of_stories(scale["mean"], scale["std"])

    @classmethod
    def of_rewards(cls, rewards: Rewards) -> Gold:
        """A weighted sum of rewards in its own unit."""
        return cls(" + ".join(rewards.names), lambda samples: [one.total for one in rewards.judge(samples)])


@dataclass(frozen=True)
class Bench:
    """reference: the model that policies begin as. prompts: those that policies are trained on; held_out: those that
    none is trained on. proxy: what they are paid; None for a policy that learns from pairs alone. gold: None where
    nobody knows what is truly wanted: the scorer of our stories says what their author wanted, not what those want
    whose preferences were learned."""

    reference: Transformer
    words: Tokenizer
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    proxy: Ensemble | Rewards | None
    gold: Gold | None

    @classmethod
    def of_stories(cls, sft: Path, reward_model: Path, gold_scale: Path, tokenizer: Path) -> Bench:
        """From the folders of the artifacts and the JSON file {mean, std} of gold's scale, which only preferences that
        are gold's have."""
        return cls(
            load_model(sft),
            Tokenizer.load(tokenizer),
            *story_prompts(),
            load_reward_model(reward_model),
            Gold.on_scale(gold_scale),
        )

    def scorer(self, encoded: Sequence[Sequence[int]]) -> Score:
        """What the policy is paid for a rollout of `prompts`; a `ScoredAnswers` where they are rewards by name."""
        if isinstance(self.proxy, Rewards):
            return ScoredAnswers(self.proxy, self.words, self.prompts, encoded)
        if self.proxy is None:
            raise ValueError("this bench has no reward to train on")
        return of_sequences(self.proxy.scores)

    def rewarded(
        self, samples: Sequence[Sample], sequences: Sequence[Sequence[int]]
    ) -> tuple[Tensor | None, list[Judged]]:
        """Scores [B, M] of answers by what policies are paid (None where that is nothing), and what each reward said.
        `sequences`: the samples as tokens."""
        if isinstance(self.proxy, Rewards):
            judged = self.proxy.judge(samples)
            return torch.tensor([[one.total] for one in judged]), judged
        return None if self.proxy is None else ensemble_scores(self.proxy, sequences), []

    def judge(self, policy: Transformer, config: JudgingConfig, seed: int) -> tuple[PolicyJudgement, int]:
        """The finished policy on prompts that no policy was trained on, and how many tokens were generated for that.

        The model that it began as answers the same prompts: some are easier than others, and than those trained on.
        """
        asked = [self.held_out[i % len(self.held_out)] for i in range(config.num_eval)]
        names = [prompt.id for prompt in asked]
        prompts = chat_prompts(self.words, asked)
        params = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=seed,
            stop_ids=stop_tokens(self.words),
        )

        def answered(model: Transformer) -> tuple[list[Completion], Tensor | None, list[Judged], list[float]]:
            """Answers with their scores by what policies are paid [B, M], part by part, and gold."""
            answers = [group[0] for group in generate(model, prompts, params)]
            samples = samples_of(self.words, asked, prompts, as_answers(answers))
            scores_BM, judged = self.rewarded(samples, [[*p, *c.tokens] for p, c in zip(prompts, answers, strict=True)])
            return answers, scores_BM, judged, self.gold.score(samples) if self.gold else []

        answers, scores_BM, judged, golds = answered(policy)
        start_answers, start_BM, before, start = answered(self.reference)
        tokens_BT, _, mask_BA = pack_responses(prompts, [c.tokens for c in answers])
        # KL of the distributions that were sampled; greedy answers have none of their own.
        temperature = config.temperature or 1.0
        with torch.no_grad():
            log_ratio_BA = (
                token_stats(policy, tokens_BT, mask_BA, temperature).log_probs_BA
                - token_stats(self.reference, tokens_BT, mask_BA, temperature).log_probs_BA
            )
        proxy = None
        if scores_BM is not None and start_BM is not None:
            proxy = clustered_mean_interval((scores_BM - start_BM).mean(1).double().numpy(), names)
        result = PolicyJudgement(
            proxy=proxy,
            disagreement=0.0 if scores_BM is None else float(scores_BM.std(1, correction=0).mean()),
            num_answers=len(answers),
            kl=float((log_ratio_BA * mask_BA).sum(1).mean()),
            length=float(np.mean([len(c.tokens) for c in answers])),
            repeated=float(np.mean([repeated_share(c.tokens) for c in answers])),
            finished=float(np.mean([c.finished for c in answers])),
            gold=clustered_mean_interval(np.subtract(golds, start), names) if self.gold else None,
            gold_name=self.gold.name if self.gold else "none",
            rewards=reward_gains(before, judged, names) if judged else None,
        )
        return result, sum(len(c.tokens) for c in (*answers, *start_answers))


def story_prompts() -> tuple[list[Prompt], list[Prompt]]:
    """Our own requests for stories as prompts: to train on, and to judge on."""
    training, held_out = story_requests()
    return [user_says(text) for text in training], [user_says(text) for text in held_out]
