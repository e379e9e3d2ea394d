"""Sampled answers as tensors, and the log-probabilities of what was sampled.

Shape suffixes: B sequences, T tokens, A = T - 1 actions (action t chooses token t+1), N response tokens of the whole
batch, D model width, V vocabulary. Sequences are padded on the right, so a causal model never sees the padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.transformer import Hidden, Transformer


@dataclass(frozen=True)
class Rollout:
    """Prompts with one response each. `mask_BA` is true on response tokens (the end token included); `prompt_index`
    says which prompt each row answers; `sampler_log_probs_BA` is what the generator reported (0 outside the mask).
    `spare`: columns of padding kept behind the longest row (see `widened`)."""

    tokens_BT: Tensor
    lengths_B: Tensor
    mask_BA: Tensor
    finished_B: Tensor
    prompt_index: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    sampler_log_probs_BA: Tensor
    spare: int = 0

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def response_lengths_B(self) -> Tensor:
        """Response tokens per row."""
        return self.mask_BA.sum(1)

    def trimmed(self, rows: Tensor) -> tuple[Tensor, Tensor, int]:
        """tokens_BT and mask_BA of these rows, cut to the longest of them, and the number of actions left."""
        longest = int(self.lengths_B[rows].max()) + self.spare
        return self.tokens_BT[rows, :longest], self.mask_BA[rows, : longest - 1], longest - 1

    def widened(self) -> Rollout:
        """The same with one column of padding behind the longest row: a step after the end token then has a place."""
        return replace(
            self,
            tokens_BT=F.pad(self.tokens_BT, (0, 1)),
            mask_BA=F.pad(self.mask_BA, (0, 1)),
            sampler_log_probs_BA=F.pad(self.sampler_log_probs_BA, (0, 1)),
            spare=self.spare + 1,
        )

    def after_end_BA(self) -> Tensor:
        """True at the step after the end token of each row that has one; the rollout must be `widened`."""
        after_BA = torch.zeros_like(self.mask_BA)
        rows = torch.nonzero(self.finished_B).flatten()
        after_BA[rows, self.lengths_B[rows] - 1] = True
        return after_BA

    def rows(self, rows: Tensor) -> Rollout:
        """These rows only."""
        picked = rows.tolist()
        return Rollout(
            self.tokens_BT[rows],
            self.lengths_B[rows],
            self.mask_BA[rows],
            self.finished_B[rows],
            tuple(self.prompt_index[i] for i in picked),
            tuple(self.responses[i] for i in picked),
            self.sampler_log_probs_BA[rows],
        )


def join_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """All rows of the parts in their order, padded to the longest."""
    longest = max(int(part.lengths_B.max()) for part in parts)

    def join(tensors: Sequence[Tensor], width: int) -> Tensor:
        padded = [F.pad(x[:, :width], (0, width - min(width, x.shape[1]))) for x in tensors]
        return torch.cat(padded)

    return Rollout(
        join([part.tokens_BT for part in parts], longest),
        torch.cat([part.lengths_B for part in parts]),
        join([part.mask_BA for part in parts], longest - 1),
        torch.cat([part.finished_B for part in parts]),
        tuple(i for part in parts for i in part.prompt_index),
        tuple(r for part in parts for r in part.responses),
        join([part.sampler_log_probs_BA for part in parts], longest - 1),
    )


def pad_right(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] padded with 0 on the right, and lengths [B]."""
    lengths = [len(tokens) for tokens in sequences]
    tokens_BT = torch.zeros(len(sequences), max(lengths, default=0), dtype=torch.long)
    for row, tokens in enumerate(sequences):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return tokens_BT, torch.tensor(lengths)


def pack_responses(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """tokens_BT, lengths_B and mask_BA of prompts that are each followed by a response of at least one token."""
    tokens_BT, lengths_B = pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)])
    starts_B = torch.tensor([len(p) for p in prompts])
    position_A = torch.arange(1, tokens_BT.shape[1])
    mask_BA = (position_A >= starts_B[:, None]) & (position_A < lengths_B[:, None])
    return tokens_BT, lengths_B, mask_BA


def sample_rollout(
    policy: Transformer, prompts: Sequence[Sequence[int]], prompt_index: Sequence[int], params: SamplingParams
) -> Rollout:
    """`params.num_samples` answers to each of `prompts[i] for i in prompt_index`; answers to one prompt are adjacent.

    Raises ValueError for sampling that the trainer's log-probabilities would not describe.
    """
    if params.temperature <= 0 or params.top_k or params.top_p < 1 or params.ban_ids:
        raise ValueError("rollouts sample the whole distribution at a temperature above 0: no top-k, top-p or ban")
    groups = generate(policy, [prompts[i] for i in prompt_index], params)
    completions = [c for group in groups for c in group]
    index = tuple(i for i in prompt_index for _ in range(params.num_samples))
    tokens_BT, lengths_B, mask_BA = pack_responses([prompts[i] for i in index], [c.tokens for c in completions])
    log_probs_BA = torch.zeros(mask_BA.shape)
    log_probs_BA[mask_BA] = torch.tensor([x for c in completions for x in c.log_probs])
    return Rollout(
        tokens_BT,
        lengths_B,
        mask_BA,
        torch.tensor([c.finished for c in completions]),
        index,
        tuple(tuple(c.tokens) for c in completions),
        log_probs_BA,
    )


def repeated_share(tokens: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that occurred before in the same answer: 0 in varied text, near 1 in a loop."""
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Lengths, ends and repetition of the answers, and lengths of the prompts (docs/metrics.md)."""
    lengths_B, finished_B = rollout.response_lengths_B.float(), rollout.finished_B
    prompts_B = rollout.lengths_B - rollout.response_lengths_B
    return {
        "response/length": float(lengths_B.mean()),
        "response/length_min": float(lengths_B.min()),
        "response/length_max": float(lengths_B.max()),
        "response/length_finished": float(lengths_B[finished_B].mean()),
        "response/finished": float(finished_B.float().mean()),
        "response/repeated": float(np.mean([repeated_share(response) for response in rollout.responses])),
        "response/distinct": len(set(rollout.responses)) / len(rollout),
        "response/tokens": int(lengths_B.sum()),
        "prompt/length": float(prompts_B.float().mean()),
        "prompt/length_max": float(prompts_B.max()),
        "tokens": int(rollout.lengths_B.sum()),
    }


Score = Callable[[Rollout], Tensor]
"""What the answers of a rollout are worth: scores_B, or scores_BM of an ensemble."""


def of_sequences(score: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score of a model that reads prompt and answer: (tokens_BT, lengths_B), padded on the right, to its scores."""
    return lambda rollout: score(rollout.tokens_BT, rollout.lengths_B)


def of_answers(reward: Callable[[int, Sequence[int]], float]) -> Score:
    """The score of a function of single answers: (prompt index, response tokens) to a number."""
    return lambda rollout: torch.tensor(
        [float(reward(i, r)) for i, r in zip(rollout.prompt_index, rollout.responses, strict=True)]
    )


@dataclass(frozen=True)
class TokenStats:
    """log_probs_BA of the chosen tokens and entropy_BA of the distributions that they were chosen from (nats, 0
    outside the mask; entropy without gradient), and the routers' loss of a mixture of experts."""

    log_probs_BA: Tensor
    entropy_BA: Tensor
    auxiliary_loss: Tensor


def token_stats(
    policy: Transformer, tokens_BT: Tensor, mask_BA: Tensor, temperature: float = 1.0, entropy: bool = False
) -> TokenStats:
    """One pass over tokens_BT; logits are made for the mask alone, which saves the prompts' and padding's share. The
    entropy is left at 0 unless asked for: it costs as much as the log-probabilities."""
    hidden = read(policy, tokens_BT, mask_BA)
    device = hidden.x_BTD.device
    x_ND, targets_N = hidden.x_BTD[mask_BA.to(device)], tokens_BT[:, 1:][mask_BA].to(device)
    log_probs_N, entropy_N = policy.log_probs(x_ND, targets_N, temperature, entropy)
    zeros_BA = torch.zeros(mask_BA.shape, dtype=log_probs_N.dtype)
    return TokenStats(  # what is computed from a number of each token is computed on the CPU, wherever the model is
        zeros_BA.masked_scatter(mask_BA, log_probs_N.cpu()),
        zeros_BA.masked_scatter(mask_BA, entropy_N.cpu()),
        hidden.auxiliary_loss().cpu(),
    )


def read(policy: Transformer, tokens_BT: Tensor, mask_BA: Tensor) -> Hidden:
    """The pass of `token_stats`, where the policy is."""
    device = policy.embedding.weight.device
    return policy.hidden(tokens_BT[:, :-1].to(device), real_BT=up_to_last(mask_BA).to(device))


def up_to_last(mask_BA: Tensor) -> Tensor:
    """True up to the last true place of each row, [B, A]: what a pass is for, without the padding behind it."""
    return mask_BA.flip(1).cummax(1).values.flip(1)


def seeded(*words: int) -> np.random.Generator:
    """A generator that depends on these numbers alone: all randomness of an iteration is a function of its index."""
    return np.random.default_rng(list(words))


def minibatch_rows(num_rows: int, num_minibatches: int, rng: np.random.Generator) -> list[Tensor]:
    """A random partition of the rows into minibatches of nearly equal size."""
    return [torch.from_numpy(part) for part in np.array_split(rng.permutation(num_rows), num_minibatches) if len(part)]


def passes(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """The rows of a minibatch in parts of at most `size` (0: all at once), whose gradients add up."""
    return rows.split(size or max(1, len(rows)))


def draw_prompts(num_prompts: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` prompt indices without repetition until all were drawn once."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += rng.permutation(num_prompts).tolist()
    return drawn[:count]
