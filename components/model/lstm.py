"""A recurrent language model to hold the transformer against: the same embeddings, residual stream and norms, with an
LSTM where a decoder layer has attention and a feed-forward.

Shape suffixes: B batch, T positions, D model width, H hidden width of the recurrence, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.model.config import LSTMConfig
from components.model.loss import CrossEntropy, Unembedding, chunked_cross_entropy, fits_at_once
from components.model.transformer import Hidden, Transformer


class RecurrentBlock(nn.Module):
    """x + down(LSTM(norm(x))): Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, as
    `torch.nn.LSTM` has it (oneDNN's and cuDNN's fused kernels), projected back to the residual stream."""

    def __init__(self, cfg: LSTMConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.lstm = nn.LSTM(cfg.d_model, cfg.hidden, batch_first=True)
        self.down = nn.Linear(cfg.hidden, cfg.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        # On a CPU the recurrence stays in float32: oneDNN has it in bfloat16 only where the CPU has units for that.
        bfloat16 = x_BTD.device.type != "cpu" and torch.is_autocast_enabled(x_BTD.device.type)
        with torch.autocast(x_BTD.device.type, enabled=bfloat16):
            y_BTH, _ = self.lstm(self.norm(x_BTD))
        return x_BTD + self.down(y_BTH)


class RecurrentModel(nn.Module):
    """A language model without attention: `forward(tokens_BT) -> logits_BTV`, and `hidden` and `logits` as
    `components.model.transformer.Transformer` has them, so that one loop trains both.

    A window starts from a zero state. What packs several documents into a row needs attention's mask, and is refused.
    """

    def __init__(self, cfg: LSTMConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(RecurrentBlock(cfg) for _ in range(cfg.num_layers))
        self.norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.unembedding = None if cfg.tie_embeddings else nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self.loss = CrossEntropy()
        self._initialize(torch.Generator().manual_seed(seed))

    def _initialize(self, generator: torch.Generator) -> None:
        """As the transformer's: matrices N(0, 1/fan_in), those that write to the residual stream scaled by
        1/√(2·layers), tied embeddings N(0, 0.02²). Biases 0, but 1 for the forget gate (Jozefowicz et al. 2015)."""
        depth = 1 / math.sqrt(2 * self.cfg.num_layers)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() < 2:
                    weight.fill_(0.0 if "bias" in name else 1.0)
                    if "bias_ih" in name:
                        weight.chunk(4)[1].fill_(1.0)  # gates lie in the order input, forget, cell, output
                    continue
                std = 0.02 if name == "embedding.weight" else 1 / math.sqrt(weight.shape[-1])
                weight.normal_(0.0, std * depth if name.endswith("down.weight") else std, generator=generator)

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        *,
        noise_BTD: Tensor | None = None,
    ) -> Hidden:
        """Hidden states [B, T, D] after the last norm; a recurrence counts positions itself. `noise_BTD` is added to
        the embeddings."""
        if documents_BT is not None:
            raise ValueError("a recurrent model keeps one state a row: give it one document a row, not packed ones")
        x_BTD = F.embedding(tokens_BT, self.embedding.weight)
        if noise_BTD is not None:
            x_BTD = x_BTD + noise_BTD
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return Hidden(self.norm(x_BTD))

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return F.linear(x_BTD, self.embedding.weight if self.unembedding is None else self.unembedding.weight)

    def cross_entropy(
        self, x_BTD: Tensor, targets_BT: Tensor, ignore: int, weights_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`CrossEntropy` of hidden states; in chunks where all logits would take much memory."""
        weights_N = None if weights_BT is None else weights_BT.flatten()
        if not fits_at_once(x_BTD, self.cfg.vocab_size):
            weight_VD = self.embedding.weight if self.unembedding is None else self.unembedding.weight
            x_ND, targets_N = x_BTD.flatten(0, 1), targets_BT.flatten()
            return chunked_cross_entropy(x_ND, Unembedding(weight_VD), targets_N, ignore, weights_N)
        return self.loss(self.logits(x_BTD).flatten(0, 1), targets_BT.flatten(), ignore, weights_N)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.logits(self.hidden(tokens_BT).x_BTD)


LanguageModel = Transformer | RecurrentModel  # what the training loop takes
