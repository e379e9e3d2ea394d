"""What every policy is judged with: the fine-tuned model, the reward models, and gold on one scale where it is known.

Shape suffixes: B answers, M reward models, A positions of an answer, T positions of prompt and answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.tokenizer import Tokenizer
from components.inference.engine import Completion, generate
from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.gold import gold_score
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.prompts import answer_text, chat_prompts, stop_tokens
from components.rlhf.requests import story_requests
from components.rlhf.results.policy import PolicyJudgement
from components.rlhf.reward_model import Ensemble, ensemble_scores, load_reward_model
from components.rlhf.rollouts import pack_responses, repeated_share, token_stats
from components.statistics import clustered_mean_interval
from components.training.checkpoints import load_model


@dataclass(frozen=True)
class Bench:
    """requests: those that policies are trained on; held_out: those that none is trained on. gold_mean, gold_std: of
    the fine-tuned model's answers to `requests`; None where the preferences are not gold's: the scorer then says what
    stories its author wanted, not what those want whose preferences were learned."""

    reference: Transformer
    words: Tokenizer
    proxy: Ensemble
    requests: list[str]
    held_out: list[str]
    gold_mean: float | None
    gold_std: float | None

    @classmethod
    def open(cls, sft: Path, reward_model: Path, gold_scale: Path, tokenizer: Path) -> Bench:
        """From the folders of the artifacts and the JSON file {mean, std} of gold's scale, which only preferences that
        are gold's have."""
        scale = json.loads(gold_scale.read_text(encoding="utf-8")) if gold_scale.exists() else {}
        return cls(
            load_model(sft),
            Tokenizer.load(tokenizer),
            load_reward_model(reward_model),
            *story_requests(),
            scale.get("mean"),
            scale.get("std"),
        )

    def golds(self, pairs: Iterable[tuple[str, str]]) -> list[float] | None:
        """Of (request, answer) pairs, in standard deviations of the fine-tuned model's answers, whose mean is 0; None
        where gold is not known."""
        return None if self.gold_mean is None else [self._gold(*pair) for pair in pairs]

    def _gold(self, request: str, answer: str) -> float:
        assert self.gold_mean is not None and self.gold_std is not None
        return (gold_score(request, answer) - self.gold_mean) / self.gold_std

    def judge(self, policy: Transformer, config: JudgingConfig, seed: int) -> tuple[PolicyJudgement, int]:
        """The finished policy on requests that no policy was trained on, and how many tokens were generated for that.

        The fine-tuned model answers the same requests: some are easier than others, and than those trained on.
        """
        texts = [self.held_out[i % len(self.held_out)] for i in range(config.num_eval)]
        prompts = chat_prompts(self.words, texts)
        params = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=seed,
            stop_ids=stop_tokens(self.words),
        )

        def answered(model: Transformer) -> tuple[list[Completion], Tensor, list[float] | None]:
            """Answers with their scores by the reward models [B, M], and gold where it is known."""
            answers = [group[0] for group in generate(model, prompts, params)]
            scores_BM = ensemble_scores(self.proxy, [[*p, *c.tokens] for p, c in zip(prompts, answers, strict=True)])
            told = ((text, answer_text(self.words, c.tokens)) for text, c in zip(texts, answers, strict=True))
            return answers, scores_BM, self.golds(told)

        answers, scores_BM, golds = answered(policy)
        start_answers, start_BM, start = answered(self.reference)
        tokens_BT, _, mask_BA = pack_responses(prompts, [c.tokens for c in answers])
        # KL of the distributions that were sampled; greedy answers have none of their own.
        temperature = config.temperature or 1.0
        with torch.no_grad():
            log_ratio_BA = (
                token_stats(policy, tokens_BT, mask_BA, temperature).log_probs_BA
                - token_stats(self.reference, tokens_BT, mask_BA, temperature).log_probs_BA
            )
        judged = PolicyJudgement(
            proxy=clustered_mean_interval((scores_BM - start_BM).mean(1).double().numpy(), texts),
            disagreement=float(scores_BM.std(1, correction=0).mean()),
            gold=None if golds is None or start is None else clustered_mean_interval(np.subtract(golds, start), texts),
            num_answers=len(answers),
            kl=float((log_ratio_BA * mask_BA).sum(1).mean()),
            length=float(np.mean([len(c.tokens) for c in answers])),
            repeated=float(np.mean([repeated_share(c.tokens) for c in answers])),
            finished=float(np.mean([c.finished for c in answers])),
        )
        return judged, sum(len(c.tokens) for c in (*answers, *start_answers))
