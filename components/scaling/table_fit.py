"""A law fitted to a table of runs: what it says, how far it can be believed, and what it predicts.

One result for all laws: coefficients with intervals, how the optimiser ended, what the table does not identify, and
warnings in words. It goes to JSON and back, and predicts without the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from components.scaling.frontier import Optimum
from components.scaling.law_forms import (
    FRONTIER_LAWS,
    LAWS,
    LOSS_LAWS,
    PARAMETERS,
    LawName,
    LossLaw,
    cheapest,
    losses,
    optimal,
)
from components.scaling.laws import Allocation
from components.scaling.optimum import LifetimeCosts, LifetimeOptimum
from components.scaling.points import PointConvention
from components.statistics import Interval

FloatArray = NDArray[np.float64]
Range = tuple[float, float]
FORMAT = 1
_MAX_SAMPLES = 2000


@dataclass(frozen=True)
class TableFit:
    """`coefficients`: by symbol, with intervals; those in `unidentified` have none, or a bound on one side alone.

    `samples`: shape (draws, P), coefficients of the posterior or of a bootstrap over runs; scales of the laws of N* and
    D* as logs. `noise`: shape (draws, 2), of a posterior: standard deviations of ln loss between runs and of a point.
    `points`: shape (n, 4), the fitted N, D, C and loss. `residuals`: shape (n,), ln observed - ln predicted; of a law
    of N* and D* one for each optimum, in ln N*. `objective`: of the optimiser; `gradient`: its largest component a
    point; `share_of_starts`: of those that ended at the lowest objective; all nan where nothing is searched.
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
            "points": self.points.tolist(),
            "residuals": self.residuals.tolist(),
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
                points=np.array(data["points"], dtype=np.float64).reshape(-1, 4),
                residuals=np.array(data["residuals"], dtype=np.float64),
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
)
_NUMBERS = ("objective", "gradient", "share_of_starts", "r_squared")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None, missing: float = math.nan) -> float:
    return missing if value is None else value


@dataclass(frozen=True)
class Prediction:
    """Loss in nats per token. `law`: the mean loss with the law's uncertainty; `low`, `high`: where one new run's loss
    will lie, its own noise included. `reach`: how far from the fitted runs, in words."""

    law: Interval
    low: float
    high: float
    reach: tuple[str, ...]


def predict(fit: TableFit, num_params: float, tokens: float, seed: int = 0) -> Prediction:
    """What the fitted law says of a model of `num_params` (counted as the table counts) after `tokens` tokens.

    Raises ValueError for sizes that are not positive, and for laws that give N* and D* but no loss.
    """
    for name, value in (("params", num_params), ("tokens", tokens)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, got {value}")
    law = _law_of_loss(fit)
    value = float(losses(law, fit.values, num_params, tokens))
    reach = reach_words(fit, num_params, tokens)
    if fit.line is not None and abs(math.log(tokens / (fit.line[0] * num_params ** fit.line[1]))) > 0.05:
        reach.append(f"off the line {_line_words(fit.line)} of all fitted runs, where they say nothing")
        return Prediction(Interval(value, -math.inf, math.inf, fit.num_points), -math.inf, math.inf, tuple(reach))
    if not len(fit.samples):
        return Prediction(Interval(value, -math.inf, math.inf, fit.num_points), -math.inf, math.inf, tuple(reach))
    drawn = losses(law, fit.samples, num_params, tokens)
    low, high = _quantiles(drawn, fit.confidence)
    rng = np.random.default_rng(seed)
    repeats = max(1, math.ceil(4000 / len(drawn)))
    drawn = np.repeat(drawn, repeats)
    if len(fit.noise):  # a posterior knows a new run's noise
        spread = np.repeat(np.hypot(fit.noise[:, 0], fit.noise[:, 1]), repeats)
        new = drawn * np.exp(spread * rng.standard_normal(len(drawn)))
    else:  # residuals are smaller than the noise by √((n-p)/n)
        n, fitted = len(fit.residuals), len(PARAMETERS[fit.law])
        new = drawn * np.exp(rng.choice(fit.residuals * math.sqrt(n / max(n - fitted, 1)), len(drawn)))
    return Prediction(Interval(value, low, high, fit.num_points), *_quantiles(new, fit.confidence), tuple(reach))


def _law_of_loss(fit: TableFit) -> LossLaw:
    for law in LOSS_LAWS:
        if fit.law == law:
            return law
    raise ValueError(
        f"the law {fit.law} tells the best N and D of a budget, and no loss: fit {', '.join(LOSS_LAWS)} instead"
    )


def reach_words(fit: TableFit, num_params: float, tokens: float) -> list[str]:
    """How far a model lies from the fitted runs, by compute, N and D."""
    words = []
    flops = fit.flops_per_param_token * num_params * tokens
    for name, value in (("flops", flops), ("params", num_params), ("tokens", tokens)):
        low, high = fit.ranges[name]
        if value > high * 1.001:
            words.append(f"{value / high:.3g} times the largest {name} of the fitted runs ({high:.3g})")
        elif value < low / 1.001:
            words.append(f"{low / value:.3g} times under the smallest {name} of the fitted runs ({low:.3g})")
    return words or ["within the fitted runs in params, tokens and flops"]


def _line_words(line: tuple[float, float]) -> str:
    return f"D = {line[0]:.3g} N" + (f"^{line[1]:.3g}" if abs(line[1] - 1) > 0.005 else "")


def best_at_budget(fit: TableFit, flops: float) -> dict[str, Interval]:
    """Compute-optimal params, tokens, tokens_per_param and loss (where the law gives one) at a training budget.

    Raises ValueError for a budget that is not positive, and where N and D vary as one in the fitted runs.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise ValueError(f"flops must be finite and positive, got {flops}")
    _refuse_line(fit)
    if fit.law in FRONTIER_LAWS:
        return _on_frontier(fit, flops)
    law = _law_of_loss(fit)
    per = fit.flops_per_param_token
    drawn = [optimal(law, row, flops, per) for row in fit.samples.tolist()]
    return _allocations(optimal(law, fit.values, flops, per), drawn, fit)


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


def best_when_served(fit: TableFit, loss: float, served_tokens: float) -> tuple[LifetimeOptimum, dict[str, Interval]]:
    """The N and D that reach `loss` with the least FLOPs of training (k N D) and of serving `served_tokens` (k/3 N a
    token), beside the compute-optimal model of the same loss; with intervals of params and tokens.

    Raises ValueError for a loss under the floor, tokens that are not positive, and laws without a loss.
    """
    if not (math.isfinite(served_tokens) and served_tokens >= 0):
        raise ValueError(f"served tokens must be finite and at least 0, got {served_tokens}")
    if not (math.isfinite(loss) and loss > 0):
        raise ValueError(f"the loss must be finite and positive, got {loss}")
    law = _law_of_loss(fit)
    _refuse_line(fit)
    costs = LifetimeCosts(fit.flops_per_param_token, fit.flops_per_param_token / 3.0 * served_tokens)
    best = cheapest(law, fit.values, loss, costs)
    drawn, failed = [], 0
    for row in fit.samples[:: max(1, len(fit.samples) // 500)].tolist():
        try:
            drawn.append(cheapest(law, row, loss, costs))
        except ValueError:
            failed += 1
    # Draws in which no model reaches the loss ask for an endless one.
    endless = [math.inf] * failed
    return best, {
        name: Interval(
            getattr(best, attribute),
            *_quantiles([*(getattr(one, attribute) for one in drawn), *endless], fit.confidence),
            fit.num_points,
        )
        for name, attribute in (("params", "num_params"), ("tokens", "tokens"))
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
