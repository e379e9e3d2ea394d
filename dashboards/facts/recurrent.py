"""A recurrent net beside the transformer, on the life's own text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.scaling.results import recurrence
from components.scaling.results.recurrence import RecurrentComparisonResult
from components.statistics import Interval
from dashboards import formatting, labels
from dashboards.facts.effects import Effect, Missing, not_measured, raises, readable
from dashboards.run_data import RunRows, finite

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
    """Median training tokens per second with the slowest and the fastest step; `ratio`: transformer over LSTM."""

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


@readable
def recurrent_facts(rows: RunRows) -> RecurrentFacts | Missing:
    result = rows.result_of("compare_recurrent", RecurrentComparisonResult)
    if result is None:
        return Missing(rows.why_missing("architecture", "The recurrent net"))
    runs = tuple(
        TrainedArchitecture(
            run.architecture,
            run.num_params,
            run.num_tokens,
            run.flops_per_token,
            finite(run.loss),
            run.products_in_a_row,
        )
        for run in result.runs
    )
    by_context = sorted(result.speeds, key=lambda speed: speed.context)
    by_place = sorted(result.bands, key=lambda band: band.first)
    speeds = tuple(ContextSpeed(speed.context, _both(speed), finite(speed.ratio)) for speed in by_context)
    positions = tuple(PositionLoss(band.first, band.last, _both(band), finite(band.gap)) for band in by_place)
    effects = (
        _speed_effect(finite(result.kept_gap), speeds),
        _loss_effect(finite(result.loss_gap), runs),
        _context_effect(finite(result.context_gain), positions),
    )
    return RecurrentFacts(runs, speeds, positions, effects)


def _both(of: recurrence.ContextSpeed | recurrence.BandLoss) -> dict[str, Interval]:
    found = {"transformer": finite(of.transformer), "lstm": finite(of.lstm)}
    return {name: x for name, x in found.items() if x is not None}


def _speed_effect(gap: Interval | None, speeds: Sequence[ContextSpeed]) -> Effect:
    slug, title = "recurrent_speed", "Long contexts slow the LSTM more than the transformer"
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


def _loss_effect(gap: Interval | None, runs: Sequence[TrainedArchitecture]) -> Effect:
    slug, title = "recurrent_loss", "The transformer's loss is lower at equal parameters and tokens"
    of = {run.name: run.loss for run in runs}
    ours, theirs = (of.get(name) for name in ARCHITECTURES)
    if gap is None or ours is None or theirs is None:
        return not_measured(slug, title, "no held-out losses of both")
    return raises(
        slug,
        title,
        gap,
        "nats",
        f"transformer {ours.value:.3f}, LSTM {theirs.value:.3f} nats per token",
        "LSTM minus transformer on the same held-out windows, 95% over windows, for one training of each; seen when "
        "it lies above 0",
    )


def _context_effect(gain: Interval | None, positions: Sequence[PositionLoss]) -> Effect:
    slug, title = "recurrent_context", "The transformer gains more from a long context than the LSTM"
    if gain is None or not positions:
        return not_measured(slug, title, "no losses by position of both")
    last = positions[-1]
    told = ", ".join(f"{labels.label(labels.ARCHITECTURES, name)} {x.value:.3f}" for name, x in last.losses.items())
    return raises(
        slug,
        title,
        gain,
        "nats",
        f"with {last.first}–{last.last} tokens in sight: {told}",
        "fall of the loss from the window's second eighth to its second half, transformer minus LSTM, 95% over "
        "windows; seen when it lies above 0",
    )
