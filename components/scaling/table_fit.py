"""A law fitted to a table of runs: what it says, how far it can be believed, and what it predicts.

One result for all laws: coefficients with intervals, how the optimiser ended, what the table does not identify, and
warnings in words. It goes to JSON and back, and predicts without the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from components.scaling.formula_optimum import optima
from components.scaling.frontier import Optimum
from components.scaling.law_forms import (
    FRONTIER_LAWS,
    LAWS,
    LOSS_LAWS,
    NEEDS,
    PARAMETERS,
    LawName,
    LossLaw,
    cheapest,
    errors,
    is_formula,
    losses_of,
    optimal,
)
from components.scaling.law_formulas import FormulaLaw
from components.scaling.laws import Allocation
from components.scaling.optimum import LifetimeCosts, LifetimeOptimum
from components.scaling.points import PointConvention
from components.statistics import Interval

FloatArray = NDArray[np.float64]
Range = tuple[float, float]
FORMAT = 2
_MAX_SAMPLES = 2000


@dataclass(frozen=True)
class TableFit:
    """`coefficients`: by symbol, with intervals; those in `unidentified` have none, or a bound on one side alone.

    `samples`: shape (draws, P), coefficients of the posterior or of a bootstrap over runs; scales of the laws of N* and
    D* as logs. `noise`: shape (draws, 2), of a posterior: standard deviations of ln loss between runs and of a point.
    `points`: shape (n, 4), the fitted N, D, C and loss. `residuals`: shape (n,), ln observed - ln predicted; of a law
    of N* and D* one for each optimum, in ln N*; `accuracy_residuals`: of the law of accuracy, observed - fitted.
    `extra`: the further columns of the law, each as long as `points`. `objective`: of the optimiser; `gradient`: its
    largest component a point; `share_of_starts`: of those that ended at the lowest objective; all nan where nothing is
    searched.
    `ranges`: smallest and largest params, tokens and flops. `line`: (k, p) where D = k N^p throughout. `optima`: of
    approaches 1 and 2. `method`: of the intervals, in words.
    """

    law: LawName
    source: str
    convention: PointConvention
    flops_per_param_token: float
    coefficients: Mapping[str, Interval]
    unidentified: tuple[str, ...]
    samples: FloatArray
    noise: FloatArray
    points: FloatArray
    residuals: FloatArray
    accuracy_residuals: FloatArray
    loss_unit: str
    extra: Mapping[str, Sequence[float]]
    objective: float
    gradient: float
    share_of_starts: float
    r_squared: float
    num_points: int
    num_runs: int
    ranges: Mapping[str, Range]
    line: tuple[float, float] | None
    optima: tuple[Optimum, ...]
    method: str
    confidence: float
    frontier: str
    shown: tuple[str, ...]
    left_out: tuple[tuple[int, str], ...]
    warnings: tuple[str, ...]

    @property
    def values(self) -> list[float]:
        """The coefficients in the order of their law."""
        return [self.coefficients[name].value for name in PARAMETERS[self.law]]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without infinities and nan, which become null; and back with `from_json`."""
        thin = max(1, -(-len(self.samples) // _MAX_SAMPLES))
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: _finite(getattr(self, name)) for name in _NUMBERS},
            "coefficients": {
                name: {"value": c.value, "low": _finite(c.low), "high": _finite(c.high), "n": c.n}
                for name, c in self.coefficients.items()
            },
            "ranges": {name: list(edges) for name, edges in self.ranges.items()},
            "line": None if self.line is None else list(self.line),
            "optima": [{name: _finite(v) for name, v in asdict(o).items()} for o in self.optima],
            **{name: list(getattr(self, name)) for name in ("unidentified", "shown", "warnings")},
            "left_out": [{"row": row, "reason": reason} for row, reason in self.left_out],
            "points": [[_finite(x) for x in point] for point in self.points.tolist()],
            "extra": {name: list(column) for name, column in self.extra.items()},
            "residuals": self.residuals.tolist(),
            "accuracy_residuals": self.accuracy_residuals.tolist(),
            "samples": self.samples[::thin].tolist(),
            "noise": self.noise[::thin].tolist(),
        }

    @staticmethod
    def from_json(data: Any) -> TableFit:
        """The fit that `to_json` wrote. Raises ValueError for anything else."""
        try:
            if data["format"] != FORMAT or data["law"] not in LAWS:
                raise ValueError(f"format {data['format']!r} of the law {data['law']!r} is not known here")
            plain: dict[str, Any] = {
                **{name: data[name] for name in _PLAIN},
                **{name: _number(data[name]) for name in _NUMBERS},
                **{name: tuple(data[name]) for name in ("unidentified", "shown", "warnings")},
            }
            return TableFit(
                **plain,
                coefficients={
                    name: Interval(c["value"], _number(c["low"], -math.inf), _number(c["high"], math.inf), c["n"])
                    for name, c in data["coefficients"].items()
                },
                ranges={name: (edges[0], edges[1]) for name, edges in data["ranges"].items()},
                line=None if data["line"] is None else (data["line"][0], data["line"][1]),
                optima=tuple(Optimum(**{name: _number(v) for name, v in o.items()}) for o in data["optima"]),
                left_out=tuple((one["row"], one["reason"]) for one in data["left_out"]),
                points=np.array([[_number(x) for x in point] for point in data["points"]], dtype=np.float64).reshape(
                    -1, 4
                ),
                extra={str(name): list(column) for name, column in data["extra"].items()},
                residuals=np.array(data["residuals"], dtype=np.float64),
                accuracy_residuals=np.array(data["accuracy_residuals"], dtype=np.float64),
                samples=np.array(data["samples"], dtype=np.float64).reshape(-1, len(PARAMETERS[data["law"]])),
                noise=np.array(data["noise"], dtype=np.float64).reshape(-1, 2),
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a fit that `scale fit --output` wrote: {error!r}") from None


_PLAIN = (
    "law",
    "source",
    "convention",
    "flops_per_param_token",
    "num_points",
    "num_runs",
    "method",
    "confidence",
    "frontier",
    "loss_unit",
)
_NUMBERS = ("objective", "gradient", "share_of_starts", "r_squared")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None, missing: float = math.nan) -> float:
    return missing if value is None else value


@dataclass(frozen=True)
class Prediction:
    """Loss in the fit's unit. `law`: the mean loss with the law's uncertainty; `low`, `high`: where one new run's loss
    will lie, its own noise included. `reach`: how far from the fitted runs, in words. `accuracy`, `accuracy_of_runs`:
    of the law of accuracy, its mean with the uncertainty of both steps, and where one new run's will lie."""

    law: Interval
    low: float
    high: float
    reach: tuple[str, ...]
    accuracy: Interval | None = None
    accuracy_of_runs: Range | None = None


def predict(fit: TableFit, at: Mapping[str, float], seed: int = 0) -> Prediction:
    """What the fitted law says of a model `at` its columns by role: "params" (counted as the table counts), "tokens",
    and what else the law needs.

    Raises ValueError for a column that is missing or out of its range, and for laws that give N* and D* but no loss.
    """
    columns = checked_columns(fit, at)
    value = float(losses_of(fit.law, fit.values, columns))
    reach = reach_words(fit, columns)
    unknown = Prediction(Interval(value, -math.inf, math.inf, fit.num_points), -math.inf, math.inf, tuple(reach))
    if fit.line is not None:
        off = math.log(columns["tokens"] / (fit.line[0] * columns["params"] ** fit.line[1]))
        if abs(off) > 0.05:
            reach.append(f"off the line {_line_words(fit.line)} of all fitted runs, where they say nothing")
            return replace(unknown, reach=tuple(reach))
    mean_accuracy = None if fit.law != "downstream" else 1.0 - float(errors(fit.values, value))
    if not len(fit.samples):
        if mean_accuracy is None:
            return unknown
        return replace(unknown, accuracy=Interval(mean_accuracy, 0.0, 1.0, fit.num_points), accuracy_of_runs=(0.0, 1.0))
    drawn = losses_of(fit.law, fit.samples, columns)
    low, high = _quantiles(drawn, fit.confidence)
    rng = np.random.default_rng(seed)
    repeats = max(1, math.ceil(4000 / len(drawn)))
    n, fitted = len(fit.residuals), len(PARAMETERS[fit.law])
    repeated = np.repeat(drawn, repeats)
    if len(fit.noise):  # a posterior knows a new run's noise
        spread = np.repeat(np.hypot(fit.noise[:, 0], fit.noise[:, 1]), repeats)
        new = repeated * np.exp(spread * rng.standard_normal(len(repeated)))
    else:  # residuals are smaller than the noise by √((n-p)/n)
        new = repeated * np.exp(rng.choice(fit.residuals * math.sqrt(n / max(n - fitted, 1)), len(repeated)))
    mean = Interval(value, low, high, fit.num_points)
    found = Prediction(mean, *_quantiles(new, fit.confidence), tuple(reach))
    if mean_accuracy is None:
        return found
    right = 1.0 - errors(fit.samples, drawn)
    missed = rng.choice(fit.accuracy_residuals * math.sqrt(n / max(n - 3, 1)), len(repeated))
    runs = _quantiles(np.clip(np.repeat(right, repeats) + missed, 0.0, 1.0), fit.confidence)
    accuracy = Interval(mean_accuracy, *_quantiles(right, fit.confidence), fit.num_points)
    return replace(found, accuracy=accuracy, accuracy_of_runs=runs)


def checked_columns(fit: TableFit, at: Mapping[str, float]) -> dict[str, float]:
    """The columns that the law needs. Raises ValueError naming one that is missing, not positive, or not needed."""
    needed = [name for name in NEEDS[fit.law] if name != "accuracy"]
    for name in at:
        if name not in needed:
            raise ValueError(f"the law {fit.law} is over {', '.join(needed)}; it takes no {name}")
    for name in needed:
        if name not in at:
            raise ValueError(f"the law {fit.law} needs {name}: give --{name}")
        value = at[name]
        if name == "sparsity" and not 0 <= value < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {value}")
        if name != "sparsity" and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, got {value}")
    return {name: float(at[name]) for name in needed}


def _law_of_loss(fit: TableFit) -> LossLaw:
    for law in LOSS_LAWS:
        if fit.law == law:
            return law
    raise ValueError(f"the law {fit.law} is none of loss over N and D alone: fit {', '.join(LOSS_LAWS)} instead")


def reach_words(fit: TableFit, at: Mapping[str, float]) -> list[str]:
    """How far a model at its columns lies from the fitted runs, in each and in compute."""
    words, names = [], []
    of = dict(at)
    if "params" in at and "tokens" in at:
        of = {"flops": fit.flops_per_param_token * at["params"] * at["tokens"], **of}
    for name, value in of.items():
        if name not in fit.ranges:
            continue
        low, high = fit.ranges[name]
        names.append(name)
        if name == "sparsity" and not low <= value <= high:
            words.append(f"a sparsity of {value:.3g} where the fitted runs have {low:.3g} to {high:.3g}")
        elif value > high * 1.001:
            words.append(f"{value / high:.3g} times the largest {name} of the fitted runs ({high:.3g})")
        elif value < low / 1.001:
            words.append(f"{low / value:.3g} times under the smallest {name} of the fitted runs ({low:.3g})")
    return words or [f"within the fitted runs in {', '.join(names)}"]


def _line_words(line: tuple[float, float]) -> str:
    return f"D = {line[0]:.3g} N" + (f"^{line[1]:.3g}" if abs(line[1] - 1) > 0.005 else "")


def best_at_budget(fit: TableFit, flops: float, given: Mapping[str, float] | None = None) -> dict[str, Interval]:
    """Compute-optimal params, tokens, tokens_per_param and loss (where the law gives one) at a training budget; of a
    law with further variables also those, unless they are `given` (see `formula_optimum.optima`).

    Raises ValueError for a budget that is not positive, where N and D vary as one in the fitted runs, and for laws that
    have no optimum at a budget.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise ValueError(f"flops must be finite and positive, got {flops}")
    _refuse_line(fit)
    if fit.law in FRONTIER_LAWS:
        return _on_frontier(fit, flops)
    per = fit.flops_per_param_token
    if is_formula(fit.law):
        return _by_search(fit, fit.law, flops, given or {})
    if given:
        raise ValueError(f"the law {fit.law} is over params and tokens; it takes no {', '.join(given)}")
    law = _law_of_loss(fit)
    drawn = [optimal(law, row, flops, per) for row in fit.samples.tolist()]
    return _allocations(optimal(law, fit.values, flops, per), drawn, fit)


def _by_search(fit: TableFit, law: FormulaLaw, flops: float, given: Mapping[str, float]) -> dict[str, Interval]:
    thin = fit.samples[:: max(1, len(fit.samples) // 200)]
    sizes = fit.ranges.get("params", (1.0, 1.0))
    rows = np.concatenate([np.array([fit.values]), thin])
    found = optima(law, rows, flops, fit.flops_per_param_token, given, sizes)
    ratio = found["tokens"] / found["params"]
    return {
        name: Interval(float(column[0]), *_quantiles(column[1:], fit.confidence), fit.num_points)
        for name, column in {**found, "tokens_per_param": ratio}.items()
        if name not in given
    }


def _refuse_line(fit: TableFit) -> None:
    if fit.line is not None:
        raise ValueError(
            f"all fitted runs lie on {_line_words(fit.line)}: how loss changes away from that line, and so the "
            "optimum, cannot be known from them. Train some sizes for other numbers of tokens"
        )


def _allocations(best: Allocation, drawn: Sequence[Allocation], fit: TableFit) -> dict[str, Interval]:
    return {
        name: Interval(
            getattr(best, attribute),
            *_quantiles([getattr(one, attribute) for one in drawn], fit.confidence),
            fit.num_points,
        )
        for name, attribute in (
            ("params", "num_params"),
            ("tokens", "tokens"),
            ("tokens_per_param", "tokens_per_param"),
            ("loss", "loss"),
        )
    }


def _on_frontier(fit: TableFit, flops: float) -> dict[str, Interval]:
    x = math.log(flops)
    a, scale_n, b, scale_d = fit.values
    sizes, tokens = (np.log([getattr(o, name) for o in fit.optima]) for name in ("num_params", "tokens"))
    found = {}
    for name, value, of_n, of_d in (
        ("params", math.log(scale_n) + a * x, 1.0, 0.0),
        ("tokens", math.log(scale_d) + b * x, 0.0, 1.0),
        ("tokens_per_param", math.log(scale_d / scale_n) + (b - a) * x, -1.0, 1.0),
    ):
        if len(fit.samples):
            drawn_n, drawn_d = (fit.samples[:, i] * x + fit.samples[:, i + 1] for i in (0, 2))
            low, high = _quantiles(np.exp(of_n * drawn_n + of_d * drawn_d), fit.confidence)
        else:
            low, high = _line_interval(fit, x, of_n * sizes + of_d * tokens, value)
        found[name] = Interval(math.exp(value), low, high, len(fit.optima))
    return found


def _line_interval(fit: TableFit, x: float, y: FloatArray, value: float) -> Range:
    """Student's interval of the mean of a straight line through the optima at x, in logs."""
    at = np.log([o.flops for o in fit.optima])
    if len(at) < 3:
        return 0.0, math.inf
    slope, level = np.polyfit(at, y, 1)
    rest = y - level - slope * at
    variance = float(rest @ rest) / (len(at) - 2)
    half = float(stats.t.ppf(0.5 + fit.confidence / 2, len(at) - 2)) * math.sqrt(
        variance * (1 / len(at) + (x - at.mean()) ** 2 / float(((at - at.mean()) ** 2).sum()))
    )
    return math.exp(value - half), math.exp(value + half)


def flops_of_life(fit: TableFit, served_tokens: float) -> LifetimeCosts:
    """FLOPs to train (k N D) and to serve tokens (k/3 N each). Raises ValueError for tokens below 0."""
    if not (math.isfinite(served_tokens) and served_tokens >= 0):
        raise ValueError(f"served tokens must be finite and at least 0, got {served_tokens}")
    return LifetimeCosts(fit.flops_per_param_token, fit.flops_per_param_token / 3.0 * served_tokens)


def best_when_served(fit: TableFit, loss: float, costs: LifetimeCosts) -> tuple[LifetimeOptimum, dict[str, Interval]]:
    """The N and D that reach `loss` with the least `costs` of training and serving, beside the compute-optimal model of
    the same loss; with intervals of params, tokens and cost.

    Raises ValueError for a loss under the floor and laws without a loss over N and D.
    """
    if not (math.isfinite(loss) and loss > 0):
        raise ValueError(f"the loss must be finite and positive, got {loss}")
    law = _law_of_loss(fit)
    _refuse_line(fit)
    best = cheapest(law, fit.values, loss, costs)
    drawn, failed = [], 0
    for row in fit.samples[:: max(1, len(fit.samples) // 500)].tolist():
        try:
            drawn.append(cheapest(law, row, loss, costs))
        except ValueError:
            failed += 1
    # Draws in which no model reaches the loss ask for an endless one, which saves nothing.
    endless = {
        name: [0.0 if name == "saving" else math.inf] * failed for name in ("num_params", "tokens", "cost", "saving")
    }
    return best, {
        name: Interval(
            getattr(best, attribute),
            *_quantiles([*(getattr(one, attribute) for one in drawn), *endless[attribute]], fit.confidence),
            fit.num_points,
        )
        for name, attribute in (("params", "num_params"), ("tokens", "tokens"), ("cost", "cost"), ("saving", "saving"))
    }


def _quantiles(drawn: Sequence[float] | FloatArray, confidence: float) -> Range:
    values = np.sort(np.asarray(drawn, dtype=np.float64))
    if not len(values):
        return -math.inf, math.inf
    edges = [0.5 - confidence / 2, 0.5 + confidence / 2]
    # Without interpolation where values may be infinite.
    low, high = (
        np.quantile(values, edges) if np.isfinite(values).all() else np.quantile(values, edges, method="nearest")
    )
    return float(low), float(high)
