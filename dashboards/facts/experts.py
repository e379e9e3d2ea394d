"""The mixture of experts: against dense on facts, and which expert takes which source on the life's own text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.scaling.results.experts import ExpertsDetails
from components.scaling.results.specialization import LayerResult, SpecializationResult
from components.statistics import Interval, mean_interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, not_measured, raises, readable
from dashboards.run_data import Row, RunRows, details, finite, known


@dataclass(frozen=True)
class LayerRouting:
    """bits: information that the expert of a token gives about its source, chance taken off; share: of the source's
    entropy. by_source: for each source the share of its tokens that each expert takes."""

    layer: int
    bits: Interval | None
    share: Interval | None
    chance_bits: float | None
    entropy: float | None
    max_share: float | None
    by_source: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TextExperts:
    """Experts trained on the life's mixture."""

    variant: str
    num_params: int | None
    active_params: int | None
    loss: Interval | None
    sources: tuple[str, ...]
    layers: tuple[LayerRouting, ...]


def text_experts(rows: RunRows) -> tuple[TextExperts, ...]:
    """Raises UnreadableFacts where another version wrote a stage's facts."""
    return tuple(
        _experts(rows.result(stage, SpecializationResult))
        for stage in sorted(rows.all("specialize_experts"), key=lambda stage: stage.label)
    )


def _experts(result: SpecializationResult) -> TextExperts:
    return TextExperts(
        variant=result.variant,
        num_params=result.num_params,
        active_params=result.active_params,
        loss=finite(result.loss),
        sources=result.sources,
        layers=tuple(map(_layer, result.layers)),
    )


def _layer(layer: LayerResult) -> LayerRouting:
    told = layer.knowledge
    return LayerRouting(
        layer.layer,
        finite(told.bits) if told else None,
        finite(told.share) if told else None,
        known(told.chance_bits) if told else None,
        known(layer.entropy),
        max(layer.load, default=None),
        told.by_source if told else (),
    )


def specialization_effect(experts: Sequence[TextExperts]) -> Effect:
    """On trial is the layer that specialises least."""
    slug, title = "moe_specialization", "Experts specialise: in every layer the expert tells of the source"
    layers = [layer for one in experts for layer in one.layers if layer.bits is not None]
    if not layers:
        return not_measured(slug, title, "no experts trained on text of two sources or more")
    bits = [layer.bits for layer in layers if layer.bits is not None]
    weakest = min(bits, key=lambda x: x.low)
    shares = [layer.share.value for layer in layers if layer.share is not None]
    told = f", {_range_of(shares)} of what there is to know" if shares else ""
    return raises(
        slug,
        title,
        weakest,
        "bits",
        f"{min(x.value for x in bits):.2f} to {max(x.value for x in bits):.2f} bits by layer{told}",
        "mutual information of expert and source in the layer that shows least, what shuffled sources show taken off, "
        "95% over windows; seen when it lies above 0",
    )


def _range_of(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.0f} to {formatting.percent(max(shares), 0)}"


@dataclass(frozen=True)
class MoePoint:
    """`load`: each expert's share of the tokens, averaged over layers, busiest first. `loss_interval`: over held-out
    windows, of this one model. `max_share`: the largest share of any expert of any layer, which only other trainings
    give an interval: it is a maximum, and the tokens of a window go together."""

    variant: str
    seed: int
    loss: float | None
    loss_interval: Interval | None
    num_params: int
    load: tuple[float, ...]
    max_share: float | None
    entropy: float | None
    specialization: float | None


@dataclass(frozen=True)
class MoeFacts:
    """`points`: runs on facts; `on_text`: runs on the life's own text, for what the experts specialise in."""

    points: tuple[MoePoint, ...]
    on_text: tuple[TextExperts, ...]
    effects: tuple[Effect, ...]

    def of(self, variant: str) -> list[MoePoint]:
        return [point for point in self.points if point.variant == variant]


VARIANTS = ("dense", "moe_balanced", "moe_unbalanced")


@readable
def moe_facts(rows: RunRows) -> MoeFacts | Missing:
    points = [_moe_point(row) for row in rows.scaling_points if row["sweep"] == "moe"]
    on_text = text_experts(rows)
    if not points and not on_text:
        return Missing(rows.why_missing("moe", "The mixture of experts"))
    points.sort(key=lambda p: (VARIANTS.index(p.variant) if p.variant in VARIANTS else 9, p.seed))
    effects = (_loss_effect(points), _load_effect(points), specialization_effect(on_text))
    return MoeFacts(tuple(points), on_text, effects)


def _moe_point(row: Row) -> MoePoint:
    found = details(row, ExpertsDetails)
    loss = row["loss"]
    return MoePoint(
        variant=row["variant"] or "",
        seed=row["seed"] or 0,
        loss=loss,
        loss_interval=None if loss is None else finite(Interval(loss, found.loss_low, found.loss_high, found.n)),
        num_params=row["num_params"],
        load=_mean_load(found.load or ()),
        max_share=found.max_share,
        entropy=known(found.entropy),
        specialization=known(found.specialization),
    )


def _mean_load(load_LE: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Shares of the experts, busiest first, averaged over layers after sorting: expert 3 of one layer has nothing to do
    with expert 3 of another."""
    shares = [sorted((x / (sum(layer) or 1.0) for x in layer), reverse=True) for layer in load_LE]
    return tuple(sum(column) / len(shares) for column in zip(*shares, strict=True))


def _pairs(points: Sequence[MoePoint], a: str, b: str) -> list[tuple[MoePoint, MoePoint]]:
    """Points of two variants with the same seed."""
    of_b = {p.seed: p for p in points if p.variant == b}
    return [(p, of_b[p.seed]) for p in points if p.variant == a and p.seed in of_b]


def _over_seeds(values: Sequence[float]) -> tuple[Interval, str]:
    """The mean difference of pairs that were trained from one seed, with Student's t interval over the seeds: the claim
    is about training with experts, of which each pair is one observation, however much it was evaluated on."""
    return mean_interval(
        values
    ), f"paired by seed, Student's t over {len(values)} seed{'s' if len(values) != 1 else ''}"


def _loss_effect(points: Sequence[MoePoint]) -> Effect:
    slug, title = "moe_loss", "Experts lower the loss at equal active compute"
    pairs = [(d, m) for d, m in _pairs(points, "dense", "moe_balanced") if d.loss is not None and m.loss is not None]
    if not pairs:
        return not_measured(slug, title, "no dense and balanced runs of one seed")
    values = [(d.loss or math.nan) - (m.loss or math.nan) for d, m in pairs]
    x, over = _over_seeds(values)
    dense, moe = (sum(p.loss or 0.0 for p in side) / len(pairs) for side in zip(*pairs, strict=True))
    return raises(
        slug,
        title,
        x,
        "nats",
        f"dense {dense:.3f}, experts {moe:.3f}; lower in {sum(v > 0 for v in values)} of {len(values)} seeds",
        f"dense minus experts, {over}; seen when it lies above 0",
    )


def _load_effect(points: Sequence[MoePoint]) -> Effect:
    slug, title = "moe_balance", "The balancing loss keeps the experts in use"
    pairs = _pairs(points, "moe_unbalanced", "moe_balanced")
    pairs = [(u, b) for u, b in pairs if u.max_share is not None and b.max_share is not None]
    if not pairs:
        return not_measured(slug, title, "no balanced and unbalanced runs of one seed with their load")
    values = [(u.max_share or 0.0) - (b.max_share or 0.0) for u, b in pairs]
    x, over = _over_seeds(values)
    without, balanced = ([p.max_share or 0.0 for p in side] for side in zip(*pairs, strict=True))
    return raises(
        slug,
        title,
        x,
        "points",
        f"busiest expert {_range(without)} without, {_range(balanced)} with it",
        f"share of the busiest expert, without minus with, {over}; seen when it lies above 0",
    )


def _range(shares: Sequence[float]) -> str:
    low, high = min(shares), max(shares)
    return formatting.percent(low, 0) if high - low < 0.005 else f"{100 * low:.0f}–{formatting.percent(high, 0)}"
