"""One tuning for all widths: with `optimizer.base_width` set, rates tuned at that width hold at any other.

Maximal-update parametrization (Yang et al. 2022, table 8), for AdamW alone and for Muon. With r = d_model / base_width:

- matrices inside the blocks and routers: N(0, 1/fan_in) at the start, as always; AdamW moves them at lr / r, Muon at
  lr · √(fan_out / fan_in) (Yang et al. 2023, condition 1);
- embeddings, gains, biases: AdamW at lr; an output matrix of its own starts at N(0, 1/base_width), as the embedding
  starts at the same size whatever the width;
- logits: divided by r. The division lies in the gain of the last norm, which starts at 1/r and learns at lr / r. For
  Adam, whose step does not depend on the size of the gradient, that is the same as a fixed factor of 1/r behind a gain
  that starts at 1 and learns at lr; and a checkpoint then needs no field that other programs do not know.

Heads keep their size (more of them when wider), so attention's scale of 1/√head_dim stands.
"""

from __future__ import annotations

import torch

from components.model.transformer import Transformer
from components.training.config import OptimizerConfig
from components.training.optimizers import width_ratio


@torch.no_grad()
def scale_output(model: Transformer, cfg: OptimizerConfig) -> None:
    """Give the output of a model that is still untrained the size for its width, in place."""
    ratio = width_ratio(model, cfg)
    model.norm.weight.div_(ratio)
    if model.unembedding is not None:
        model.unembedding.weight.mul_(ratio**0.5)
