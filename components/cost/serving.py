"""What a token takes to serve, measured round after round until the interval is narrow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.statistics import Interval, mean_interval

FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Shape:
    """`batch` requests at a time, each with `prompt` tokens to read and `output` tokens to generate."""

    batch: int
    prompt: int
    output: int


@dataclass(frozen=True)
class Round:
    """Core seconds per token that was read, and per token that was generated."""

    prefill: float
    decode: float

    def request(self, prompt_tokens: float, output_tokens: float) -> float:
        """Core seconds of one request."""
        return self.prefill * prompt_tokens + self.decode * output_tokens


def one_round(seconds: Callable[[int], float], shape: Shape) -> Round:
    """`seconds(n)` serves the batch with n output tokens each and says how many core seconds that took.

    The first token is the prompt's: what the others take is decoding alone, since prompts have a price of theirs. Where
    the difference comes out below nothing, as noise can have it, decoding took at least its share of all tokens: one
    that is decoded takes no less than one that is read.
    """
    first, whole = seconds(1), seconds(shape.output)
    more = shape.output - 1
    decoding = whole - first if whole > first else whole * more / (shape.prompt + more)
    return Round(first / (shape.batch * shape.prompt), decoding / (shape.batch * more))


def measure(
    seconds: Callable[[int], float],
    shape: Shape,
    request: tuple[float, float],
    precision: float,
    limit_seconds: float,
    fewest: int = FEWEST_ROUNDS,
) -> list[Round]:
    """Rounds until the 95% interval of a request of (prompt, output) tokens is within `precision` of its value on both
    sides, or `limit_seconds` of core time are spent; at least `fewest`."""
    rounds: list[Round] = []
    spent = 0.0

    def timed(num_tokens: int) -> float:
        nonlocal spent
        taken = seconds(num_tokens)
        spent += taken
        return taken

    while len(rounds) < fewest or spent < limit_seconds:
        rounds.append(one_round(timed, shape))
        if len(rounds) >= fewest:
            x = typical([one.request(*request) for one in rounds])
            if x.high / x.value - 1 <= precision:
                break
    return rounds


def typical(seconds: Sequence[float]) -> Interval:
    """Geometric mean with Student's t interval of the logarithms over rounds: timings are positive, and skewed."""
    x = mean_interval([math.log(value) for value in seconds])
    return Interval(math.exp(x.value), math.exp(x.low), math.exp(x.high), x.n)


def rate(seconds: Interval) -> Interval:
    """Tokens per second from seconds per token."""
    return Interval(1 / seconds.value, 1 / seconds.high, 1 / seconds.low, seconds.n)
