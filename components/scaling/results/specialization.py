"""What the training of experts on the life's own text returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE, Spread
from components.statistics import Interval


@dataclass(frozen=True)
class SourceKnowledge:
    """What the expert of a token tells of its source in one layer: bits, and their share of the source's entropy, with
    chance (chance_bits) taken off; p_value against shuffled sources; by_source: the share of each source's tokens that
    each expert takes."""

    bits: Annotated[Interval, Spread()]
    share: Annotated[Interval, Spread()]
    chance_bits: float
    p_value: float
    by_source: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerResult:
    """entropy: of the router, in nats; load: share of the mixture's tokens by expert. knowledge is None where there is
    only one source."""

    layer: int
    entropy: float
    load: tuple[float, ...]
    knowledge: Annotated[SourceKnowledge | None, INLINE] = None


@dataclass(frozen=True)
class SpecializationResult:
    """loss: nats per token over n held-out windows of the mixture; sources: those that were told apart; max_share: of
    the tokens of a layer, the most that one expert takes."""

    variant: str
    num_params: int
    active_params: int
    num_tokens: int
    flops_per_token: float
    loss: Annotated[Interval, Spread()]
    sources: tuple[str, ...]
    layers: tuple[LayerResult, ...]
    max_share: float
    n: int
