"""Other architectures on the life's own text: a recurrent net beside the transformer, and experts by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, not_measured, raises
from dashboards.run_data import RunRows, interval, listed, number, whole

ARCHITECTURES = ("transformer", "lstm")


@dataclass(frozen=True)
class TrainedArchitecture:
    """`products_in_a_row`: matrix products of the longest context that have to wait for one another."""

    name: str
    num_params: int | None
    num_tokens: int | None
    flops_per_token: float | None
    loss: Interval | None
    products_in_a_row: int | None


@dataclass(frozen=True)
class ContextSpeed:
    """Median training tokens a second with the slowest and the fastest step; `ratio`: transformer over LSTM."""

    context: int
    speeds: Mapping[str, Interval]
    ratio: Interval | None


@dataclass(frozen=True)
class PositionLoss:
    """Held-out loss with first … last tokens in sight; `gap`: LSTM minus transformer on the same windows."""

    first: int
    last: int
    losses: Mapping[str, Interval]
    gap: Interval | None


@dataclass(frozen=True)
class RecurrentFacts:
    runs: tuple[TrainedArchitecture, ...]
    speeds: tuple[ContextSpeed, ...]
    positions: tuple[PositionLoss, ...]
    effects: tuple[Effect, ...]


def recurrent_facts(rows: RunRows) -> RecurrentFacts | Missing:
    stage = rows.find("compare_recurrent")
    if stage is None:
        return Missing(rows.why_missing("architecture", "The recurrent net"))
    facts = stage.facts
    runs = tuple(
        TrainedArchitecture(
            str(entry.get("architecture", "?")),
            whole(entry, "num_params"),
            whole(entry, "num_tokens"),
            number(entry, "flops_per_token"),
            interval(entry, "loss"),
            whole(entry, "products_in_a_row"),
        )
        for entry in listed(facts, "runs")
    )
    speeds = [
        ContextSpeed(context, _both(entry), interval(entry, "ratio"))
        for entry in listed(facts, "speeds")
        if (context := whole(entry, "context")) is not None
    ]
    positions = [
        PositionLoss(first, last, _both(entry), interval(entry, "gap"))
        for entry in listed(facts, "bands")
        if (first := whole(entry, "first")) is not None and (last := whole(entry, "last")) is not None
    ]
    speeds.sort(key=lambda s: s.context)
    positions.sort(key=lambda p: p.first)
    effects = (
        _speed_effect(facts, speeds),
        _loss_effect(facts, runs),
        _context_effect(facts, positions),
    )
    return RecurrentFacts(runs, tuple(speeds), tuple(positions), effects)


def _both(entry: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: x for name in ARCHITECTURES if (x := interval(entry, name)) is not None}


def _speed_effect(facts: Mapping[str, Any], speeds: Sequence[ContextSpeed]) -> Effect:
    slug, title = "recurrent_speed", "Long contexts slow the LSTM more than the transformer"
    gap = interval(facts, "kept_gap")
    if gap is None or len(speeds) < 2 or any(name not in s.speeds for s in speeds for name in ARCHITECTURES):
        return not_measured(slug, title, "no timed training steps of both at two contexts")
    short, long = speeds[0], speeds[-1]
    ours, theirs = (long.speeds[name].value / short.speeds[name].value for name in ARCHITECTURES)
    return raises(
        slug,
        title,
        gap,
        "points",
        f"from {short.context} to {long.context} tokens of context the transformer keeps {formatting.percent(ours, 0)} "
        f"of its training tokens/s, the LSTM {formatting.percent(theirs, 0)}",
        "share kept, transformer minus LSTM, Student's t over steps taken in turns; seen when it lies above 0",
    )


def _loss_effect(facts: Mapping[str, Any], runs: Sequence[TrainedArchitecture]) -> Effect:
    slug, title = "recurrent_loss", "The transformer's loss is lower at equal parameters and tokens"
    gap, of = interval(facts, "loss_gap"), {run.name: run.loss for run in runs}
    ours, theirs = (of.get(name) for name in ARCHITECTURES)
    if gap is None or ours is None or theirs is None:
        return not_measured(slug, title, "no held-out losses of both")
    return raises(
        slug,
        title,
        gap,
        "nats",
        f"transformer {ours.value:.3f}, LSTM {theirs.value:.3f} nats a token",
        "LSTM minus transformer on the same held-out windows, 95% over windows, for one training of each; seen when "
        "it lies above 0",
    )


def _context_effect(facts: Mapping[str, Any], positions: Sequence[PositionLoss]) -> Effect:
    slug, title = "recurrent_context", "The transformer gains more from a long context than the LSTM"
    gain = interval(facts, "context_gain")
    if gain is None or not positions:
        return not_measured(slug, title, "no losses by position of both")
    last = positions[-1]
    told = ", ".join(f"{name} {x.value:.3f}" for name, x in last.losses.items())
    return raises(
        slug,
        title,
        gain,
        "nats",
        f"with {last.first}–{last.last} tokens in sight: {told}",
        "fall of the loss from the window's second eighth to its second half, transformer minus LSTM, 95% over "
        "windows; seen when it lies above 0",
    )


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
    return tuple(_experts(stage.facts) for stage in rows.all("specialize_experts"))


def _experts(facts: Mapping[str, Any]) -> TextExperts:
    sources = facts.get("sources")
    return TextExperts(
        variant=str(facts.get("variant", "?")),
        num_params=whole(facts, "num_params"),
        active_params=whole(facts, "active_params"),
        loss=interval(facts, "loss"),
        sources=tuple(map(str, sources)) if isinstance(sources, list) else (),
        layers=tuple(
            LayerRouting(
                layer,
                interval(entry, "bits"),
                interval(entry, "share"),
                number(entry, "chance_bits"),
                number(entry, "entropy"),
                max((float(x) for x in entry.get("load") or ()), default=None),
                tuple(tuple(map(float, row)) for row in entry.get("by_source") or ()),
            )
            for entry in listed(facts, "layers")
            if (layer := whole(entry, "layer")) is not None
        ),
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
    told = f", {_range(shares)} of what there is to know" if shares else ""
    return raises(
        slug,
        title,
        weakest,
        "bits",
        f"{min(x.value for x in bits):.2f} to {max(x.value for x in bits):.2f} bits by layer{told}",
        "mutual information of expert and source in the layer that shows least, what shuffled sources show taken off, "
        "95% over windows; seen when it lies above 0",
    )


def _range(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.0f} to {formatting.percent(max(shares), 0)}"
