"""What the life cost, what serving will cost, and how long every stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.cost.results import CostResult, LifetimeCost, TrainOrThink
from components.stage_results import to_facts
from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, readable
from dashboards.run_data import RunRows, finite, known


@dataclass(frozen=True)
class CostLine:
    """What a stage cost when its artifact was made. `cached`: paid by an earlier run. `seconds` is wall clock,
    `cpu_seconds` of busy cores, `energy_joules` and `usd` as `components.cost.accounting` has them. None: not
    recorded."""

    label: str
    group: str
    cached: bool
    tokens: float | None
    flops: float | None
    seconds: float | None
    cpu_seconds: float | None
    energy_joules: float | None
    usd: float | None


@dataclass(frozen=True)
class CostFacts:
    """`break_even_tokens`: output tokens after which serving, the prompts of typical requests included, has cost as
    much as training; like the price it has the interval of the timing.
    elapsed: seconds of the run by the clock. comparisons: each strategy of a model with its
    price, by name of the fact."""

    lines: tuple[CostLine, ...]
    elapsed: float | None
    hardware: str
    training_usd: float | None
    price_per_million: Interval | None
    prompt_price_per_million: Interval | None
    decode_tokens_per_second: float | None
    break_even_tokens: Interval | None
    lifetime: tuple[LifetimeCost, ...]
    comparisons: tuple[Mapping[str, Any], ...]
    decision: str
    effects: tuple[Effect, ...]


def total(lines: Sequence[CostLine], name: str) -> float | None:
    """Sum of a column over the lines that recorded it; None where none did."""
    known = [value for line in lines if (value := getattr(line, name)) is not None]
    return sum(known) if known else None


@readable
def cost_facts(rows: RunRows) -> CostFacts | Missing:
    lines = _lines(rows)
    result = rows.result_of("account_costs", CostResult)
    if not lines and result is None:
        return Missing(rows.why_missing("cost", "The cost"))
    training = known(result.training_usd) if result else None
    price = finite(result.price_per_million_output_tokens) if result else None
    even = finite(result.break_even_tokens) if result else None
    return CostFacts(
        lines,
        rows.seconds,
        hardware=", ".join(sorted({str(row["hardware"]) for row in rows.costs if row["hardware"]})),
        training_usd=training,
        price_per_million=price,
        prompt_price_per_million=finite(result.price_per_million_input_tokens) if result else None,
        decode_tokens_per_second=known(result.decode_tokens_per_second) if result else None,
        break_even_tokens=even,
        lifetime=tuple(sorted(result.lifetime, key=lambda p: p.tokens)) if result else (),
        comparisons=tuple(map(to_facts, result.comparisons)) if result else (),
        decision=_decision(result.decision.compared, result.decision.verdict) if result else "",
        effects=(_cost_effect(lines, training, price, even),),
    )


def _decision(compared: TrainOrThink | None, verdict: str) -> str:
    """Train further, or think longer with what there is: one sentence, empty where it was not measured."""
    if compared is None:
        return ""
    sides = [
        f"{name}, {formatting.percent_interval(finite(accuracy))} at {formatting.dollars(_million(usd), 3)} per million"
        for name, accuracy, usd in (
            (compared.train_further, compared.trained_accuracy, compared.trained_usd_per_thousand),
            (compared.think_longer, compared.thinking_accuracy, compared.thinking_usd_per_thousand),
        )
    ]
    ends = ""
    if compared.break_even_questions is not None:
        low, high = (
            "never" if x is None else formatting.count(round(x))
            for x in (compared.break_even_low, compared.break_even_high)
        )
        ends = f" (between {low} and {high}, by the intervals of the prices)"
    return f"Train further ({sides[0]}) or think longer ({sides[1]}): {verdict}{ends}."


def _million(usd_per_thousand: float | None) -> float | None:
    usd = known(usd_per_thousand)
    return None if usd is None else 1000 * usd


def _lines(rows: RunRows) -> tuple[CostLine, ...]:
    """One line per stage; a key that two labels share was paid for once."""
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.costs:
        by_key.setdefault(row["key"], []).append(row)
    lines = []
    for stage in rows.made():
        if paid := by_key.pop(stage.key, None):
            columns = ("tokens", "flops", "seconds", "cpu_seconds", "energy_joules", "usd")
            sums = {name: _sum([row[name] for row in paid]) for name in columns}
            lines.append(CostLine(stage.label, stage.group, stage.status == "cached", **sums))
    return tuple(lines)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known else None


def _cost_effect(
    lines: Sequence[CostLine], training: float | None, price: Interval | None, even: Interval | None
) -> Effect:
    """A quantity, not a claim: what the life cost, and when serving will have cost as much."""
    slug, title = "cost", "What it costs, to raise and to serve"
    parts = []
    if (usd := total(lines, "usd")) is not None:
        parts.append(f"whole life {formatting.dollars(usd)}")
        if (joules := total(lines, "energy_joules")) is not None:
            parts[-1] += f", {formatting.energy(joules)}"
        if (seconds := total(lines, "cpu_seconds")) is not None:
            parts[-1] += f", {formatting.duration(seconds)} of a core"
    elif training is not None:
        parts.append(f"training {formatting.dollars(training)}")
    if price is not None:
        parts.append(f"serving {formatting.dollar_interval(price)} per million output tokens")
    if even is not None:
        parts.append(f"serving has cost as much as training after {formatting.count_interval(even)} tokens")
    return Effect(slug, title, "measured" if parts else "not measured", numbers="; ".join(parts) or "no cost rows")
