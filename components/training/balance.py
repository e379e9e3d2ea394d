"""Experts that are balanced over a whole batch, although it is passed in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from components.model.moe import MixtureOfExperts, RouterStats
from components.model.transformer import Hidden


@contextmanager
def balanced_over(model: nn.Module, parts: Sequence[Callable[[], Hidden]]) -> Iterator[None]:
    """Routers balance the load of all parts together meanwhile, as they would in one batch (Qiu et al. 2025). parts:
    the pass over each.

    Which experts the last part chooses has a say in the gradient of the first, so this takes a forward pass more.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MixtureOfExperts)]
    if len(parts) > 1 and any(layer.cfg.load_balance_coef for layer in layers):
        with torch.no_grad():
            share_loads(layers, [part().routers for part in parts])
    try:
        yield
    finally:
        for layer in layers:
            layer.whole_load_E = None


def share_loads(layers: Sequence[MixtureOfExperts], routed: Sequence[Sequence[RouterStats]]) -> None:
    """Tell each layer what share of the tokens of all parts each expert got. routed: of each part, by layer."""
    for layer, stats in zip(layers, zip(*routed, strict=True), strict=True):
        weight_P = torch.stack([one.num_tokens for one in stats]).to(stats[0].load_E.dtype)
        load_PE = torch.stack([one.load_E for one in stats])
        layer.whole_load_E = torch.tensordot(weight_P / weight_P.sum().clamp_min(1), load_PE, 1)
