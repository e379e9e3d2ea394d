"""What a language model is trained on: the cross-entropy of its logits.

Shape suffixes: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Sums over the rows whose target is not `ignore`, times their weights if given: cross-entropy in nats, and the
    squared log-normalizer, both at least in float32. Raises RuntimeError or IndexError for a target that is not a
    token id."""

    def forward(
        self, logits_NV: Tensor, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        counted_N = targets_N != ignore
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        norms_N = logits_NV.logsumexp(-1)
        picked_N = logits_NV.gather(-1, targets_N.where(counted_N, 0)[:, None])[:, 0]
        weight_N = counted_N if weights_N is None else counted_N * weights_N
        return ((norms_N - picked_N) * weight_N).sum(), (norms_N.square() * weight_N).sum()
