"""Fits the constants of `components.cost.serving_model` to measured points, and says how far off they are on others.

    python -m components.cost.calibration POINTS.csv            # constants, and errors on points that no fit had seen
    python -m components.cost.calibration POINTS.csv --write    # and keep them in catalogue/serving.toml

A point is a row of a CSV with the columns that `components.cost.measured_points` names; your own measurements can be
appended to public ones. The fit is by logarithms of measured over modelled seconds, with a loss that forgives outliers
and weak priors from how such devices behave, so that constants that few points bear on stay where physics has them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from components.cost.entries import CatalogueError
from components.cost.measured_points import Point, read_points
from components.cost.serving_model import (
    CONSTANTS,
    ServingConstants,
    StepWork,
    prefill_step_seconds,
    step_seconds,
)

# Constant: its prior's middle, and its spread as a factor, one standard deviation of the logarithm.
PRIORS = {
    "weights": (0.9, 0.15),
    "cache": (0.8, 0.3),
    "compute": (0.7, 0.3),
    "moe": (1.3, 0.3),
    "quantised": (1.5, 0.3),
    "overlap": (0.5, 0.4),
    "layer_seconds": (60e-6, 0.6),
    "sequence_seconds": (50e-6, 0.6),
    "hop_seconds": (10e-6, 1.0),
    "framework_cache": (2.0, 1.0),
}
NOISE = 0.15  # of the logarithm, beyond which a point counts as an outlier
FEWEST_TRAINING = 5  # points of a device, below which those of all devices stand for it
_Rows = NDArray[np.intp]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """Modelled over measured seconds of `n` points: mean of |ratio - 1|, share within 20%, and the factor within which
    nine of ten lie."""

    n: int
    mean: float
    within_fifth: float
    nine_of_ten: float

    def __str__(self) -> str:
        return (
            f"mean error {self.mean:.1%}, {self.within_fifth:.0%} within 20%, "
            f"9 of 10 within a factor {self.nine_of_ten:.2f} (n={self.n})"
        )


def _stacked(points: Sequence[Point]) -> StepWork:
    works = [point.work for point in points if point.work is not None]
    return StepWork(**{f.name: np.array([getattr(one, f.name) for one in works], float) for f in fields(StepWork)})


def _some(work: StepWork, rows: _Rows) -> StepWork:
    return StepWork(**{field.name: getattr(work, field.name)[rows] for field in fields(StepWork)})


_START = ServingConstants(
    **{name: middle for name, (middle, _) in PRIORS.items()},
    prefill_compute=0.5,
    framework_prefill=0.5,
    decode_low=1.0,
    decode_high=1.0,
    decode_points=1,
    prefill_low=1.0,
    prefill_high=1.0,
    prefill_points=1,
)


def fit_decode(points: Sequence[Point]) -> ServingConstants:
    """The constants of decoding by these points."""
    return _fitted(_stacked(points), np.array([point.seconds for point in points]))


def _fitted(work: StepWork, seconds: _Floats) -> ServingConstants:
    middle = np.log([value for value, _ in PRIORS.values()])
    spread = np.array([value for _, value in PRIORS.values()])

    def constants(logs: _Floats) -> ServingConstants:
        return replace(_START, **dict(zip(PRIORS, np.exp(logs).tolist(), strict=True)))

    def residuals(logs: _Floats) -> _Floats:
        errors = np.log(step_seconds(work, constants(logs)) / seconds) / NOISE
        return np.append(errors, (logs - middle) / spread)

    # The model has kinks where computing overtakes reading: the best of three starts.
    draws = np.random.default_rng(0).normal(0, 0.3, (3, len(middle))) * spread
    draws[0] = 0.0
    found = [optimize.least_squares(residuals, middle + draw, loss="soft_l1") for draw in draws]
    return constants(min(found, key=lambda one: one.cost).x)


def fit_prefill(points: Sequence[Point], constants: ServingConstants) -> ServingConstants:
    """`constants` with the shares of the peak that prefill reaches: a server's by whole requests (points of kind
    serving), a framework's by prefill alone. Each stays as it is where there are no points for it."""
    requests = [point for point in points if point.kind == "serving"]
    alone = [point for point in points if point.kind == "prefill"]

    def share(chosen: Sequence[Point], name: str) -> float:
        def residuals(logs: _Floats) -> _Floats:
            tried: dict[str, Any] = {name: float(np.exp(logs[0]))}
            return _prefill_errors(chosen, replace(constants, **tried)) / NOISE

        if not chosen:
            return float(getattr(constants, name))
        found = optimize.least_squares(residuals, [math.log(0.5)], loss="soft_l1", bounds=(-np.inf, 0.0))
        return float(np.exp(found.x[0]))

    return replace(
        constants,
        prefill_compute=share(requests, "prefill_compute"),
        framework_prefill=share(alone, "framework_prefill"),
    )


def _prefill_errors(points: Sequence[Point], k: ServingConstants) -> _Floats:
    """Logarithms of modelled over measured seconds of prefill, or of whole requests."""
    modelled = []
    for point in points:
        assert point.work is not None
        if point.prompts is None:
            modelled.append(prefill_step_seconds(point.work, k))
        else:
            modelled.append(step_seconds(point.work, k) + prefill_step_seconds(point.prompts, k) / point.answer)
    return np.log(np.array(modelled, float) / np.array([point.seconds for point in points]))


def error_of(logs: _Floats) -> Error:
    """From logarithms of modelled over measured seconds."""
    off = np.abs(np.expm1(logs))
    return Error(len(logs), float(off.mean()), float((off < 0.2).mean()), float(np.exp(np.quantile(np.abs(logs), 0.9))))


def halves(count: int, splits: int = 10) -> Iterator[tuple[_Rows, _Rows]]:
    """Rows to fit on and rows to keep, in `splits` random halves."""
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(count)
        yield order[: count // 2], order[count // 2 :]


def held_out(points: Sequence[Point], parts: Iterator[tuple[_Rows, _Rows]]) -> _Floats:
    """Logarithms of modelled over measured seconds of the points that each fit had not seen."""
    work, seconds = _stacked(points), np.array([point.seconds for point in points])
    return np.concatenate(
        [
            np.log(step_seconds(_some(work, out), _fitted(_some(work, fit), seconds[fit])) / seconds[out])
            for fit, out in parts
        ]
    )


def without_each(points: Sequence[Point], label: Callable[[Point], str]) -> dict[str, _Floats]:
    """As `held_out`, with all points of one label kept from the fit, for each label."""
    labels = np.array([label(point) for point in points])
    return {
        str(name): held_out(points, iter([(np.where(labels != name)[0], np.where(labels == name)[0])]))
        for name in np.unique(labels)
    }


@dataclass(frozen=True)
class Foreseen:
    """Points of models or sources that a fit had not seen: its errors, the share within a factor of 1.35, and the share
    that lies in the 90% interval by the models that were left out of the rest."""

    error: Error
    within: float
    covered: float


def foreseen(points: Sequence[Point], label: Callable[[Point], str]) -> Foreseen:
    """Of decode points, each label's in turn."""
    found, hits = [], []
    for name in sorted({label(point) for point in points}):
        rest = [point for point in points if label(point) != name]
        out = np.array([label(point) == name for point in points])
        logs = held_out(points, iter([(np.where(~out)[0], np.where(out)[0])]))
        low, high = np.quantile(np.concatenate(list(without_each(rest, lambda p: p.model).values())), [0.05, 0.95])
        found.append(logs)
        hits.append((logs >= low) & (logs <= high))
    logs = np.concatenate(found)
    return Foreseen(error_of(logs), float((np.abs(logs) <= math.log(1.35)).mean()), float(np.concatenate(hits).mean()))


def held_out_prefill(points: Sequence[Point], constants: ServingConstants) -> _Floats:
    """As `held_out` for prefill or whole requests, in halves; the constants that they share with decoding are kept."""
    found = []
    for fit, out in halves(len(points)):
        found.append(_prefill_errors([points[i] for i in out], fit_prefill([points[i] for i in fit], constants)))
    return np.concatenate(found)


@dataclass(frozen=True)
class Calibration:
    """Constants from all points, and errors on points that a fit had not seen: half of them, each model, each device.
    `training`: by device ("" for all together) n, and the 5%, 50% and 95% quantiles of utilisation by 6N."""

    constants: ServingConstants
    half: Error
    by_model: Error
    by_device: dict[str, Error]
    requests: Error
    prefill: Error
    training: dict[str, tuple[int, float, float, float]]


def calibrate(points: Sequence[Point]) -> Calibration:
    """Fit, and test on what each fit had not seen. Raises CatalogueError for too few points."""
    decode = [point for point in points if point.kind == "decode"]
    prefill = [point for point in points if point.kind == "prefill"]
    requests = [point for point in points if point.kind == "serving"]
    if len(decode) < 4 * len(PRIORS) or min(len(prefill), len(requests)) < 4:
        raise CatalogueError(
            f"{len(decode)} decode, {len(prefill)} prefill and {len(requests)} serving points: takes at least "
            f"{4 * len(PRIORS)}, 4 and 4"
        )
    models = without_each(decode, lambda point: point.model)
    apart = np.concatenate(list(models.values()))
    constants = fit_prefill([*requests, *prefill], fit_decode(decode))
    requests_apart = held_out_prefill(requests, constants)
    # Measured over modelled: a new model is what the interval is for, so those of models left out.
    low, high = np.exp(-np.quantile(apart, [0.95, 0.05]))
    prefill_low, prefill_high = np.exp(-np.quantile(requests_apart, [0.95, 0.05]))
    return Calibration(
        replace(
            constants,
            decode_low=float(low),
            decode_high=float(high),
            decode_points=len(decode),
            prefill_low=float(prefill_low),
            prefill_high=float(prefill_high),
            prefill_points=len(requests),
        ),
        error_of(held_out(decode, halves(len(decode)))),
        error_of(apart),
        {name: error_of(logs) for name, logs in without_each(decode, lambda point: point.hardware).items()},
        error_of(requests_apart),
        error_of(held_out_prefill(prefill, constants)),
        _training_shares(points),
    )


def _training_shares(points: Sequence[Point]) -> dict[str, tuple[int, float, float, float]]:
    shares: dict[str, list[float]] = {"": [point.share for point in points if point.kind == "training"]}
    for point in points:
        if point.kind == "training":
            shares.setdefault(point.hardware, []).append(point.share)
    return {
        name: (len(found), *(float(value) for value in np.quantile(found, [0.05, 0.5, 0.95])))  # type: ignore[misc]
        for name, found in shares.items()
        if len(found) >= FEWEST_TRAINING
    }


def to_toml(made: Calibration, points: Path) -> str:
    """The text of catalogue/serving.toml."""

    def error(one: Error) -> str:
        parts = (f"n = {one.n}", f"mean = {one.mean:.4f}", f"within_fifth = {one.within_fifth:.4f}")
        return "{ " + ", ".join((*parts, f"nine_of_ten = {one.nine_of_ten:.4f}")) + " }"

    lines = [
        "# Made by the command below. `constants`: see ServingConstants in components/cost/serving_model.py.",
        "# `errors`: modelled against measured seconds of points that a fit had not seen (halves: ten random ones).",
        "# `training`: utilisation by 6N of public runs in bf16 at contexts of up to 8,192 tokens.",
        f'command = "python -m components.cost.calibration {points.name} --write"',
        "",
        "[constants]",
        *(f"{field.name} = {getattr(made.constants, field.name):.5g}" for field in fields(ServingConstants)),
        "",
        "[errors]",
        f"halves = {error(made.half)}",
        f"model_left_out = {error(made.by_model)}",
        f"requests_halves = {error(made.requests)}",
        f"prefill_halves = {error(made.prefill)}",
        *(f'"{name}_left_out" = {error(one)}' for name, one in sorted(made.by_device.items())),
        "",
        "[training]",
        *(
            f"{name or 'all'} = {{ n = {n}, low = {low:.4f}, middle = {middle:.4f}, high = {high:.4f} }}"
            for name, (n, low, middle, high) in sorted(made.training.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    files = [Path(name) for name in arguments if name != "--write"]
    if len(files) != 1 or set(arguments) - {"--write"} - {str(name) for name in files}:
        print("usage: python -m components.cost.calibration POINTS.csv [--write]", file=sys.stderr)
        return 2
    try:
        points = read_points(files[0])
        made = calibrate(points)
    except CatalogueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = to_toml(made, files[0])
    print(text, end="")
    for name, one in {
        "half": made.half,
        "a model": made.by_model,
        **made.by_device,
        "half of whole requests": made.requests,
        "half of prefill": made.prefill,
    }.items():
        print(f"# {name} left out: {one}")
    other = foreseen([point for point in points if point.kind == "decode"], lambda point: point.source)
    print(
        f"# a source left out: {other.error}; {other.within:.0%} within 1.35; {other.covered:.0%} in their 90% interval"
    )
    if "--write" in arguments:
        CONSTANTS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
