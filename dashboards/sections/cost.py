"""Section on what the life cost and what serving costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards import formatting, labels
from dashboards.blocks import Section, Table, body, counted, listing
from dashboards.facts.cost import CostFacts, CostLine, total


def cost_section(facts: CostFacts) -> Section:
    """What each part of the life cost, and when serving has cost as much as training."""
    groups = list(dict.fromkeys(line.group for line in facts.lines))

    def row(name: str, lines: list[CostLine]) -> tuple[str, ...]:
        return (
            name,
            formatting.count(total(lines, "tokens")),
            formatting.count(total(lines, "flops")),
            formatting.duration(total(lines, "seconds")),
            formatting.duration(total(lines, "cpu_seconds")),
            formatting.energy(total(lines, "energy_joules")),
            formatting.dollars(total(lines, "usd")),
        )

    rows = [
        row(labels.label(labels.GROUPS, group or "other"), [line for line in facts.lines if line.group == group])
        for group in groups
    ]
    if rows:
        rows.append(row("whole life", list(facts.lines)))
        fresh = [line for line in facts.lines if not line.cached]
        if len(fresh) < len(facts.lines):
            rows.append(row("of which this run paid", fresh))
    spent = Table(
        "By part of the life",
        ("part", "tokens", "FLOPs", "wall time", "core time", "energy", "dollars"),
        "<>>>>>>",
        tuple(rows),
    )
    pairs = [
        ("per million prompt tokens [95%]", formatting.dollar_interval(facts.prompt_price_per_million)),
        ("per million output tokens [95%]", formatting.dollar_interval(facts.price_per_million)),
        ("rounds of timing", counted(facts.price_per_million)),
        ("decode tokens per core second", formatting.count(facts.decode_tokens_per_second)),
        (
            "break-even, output tokens, the prompts of typical requests priced in [95%]",
            formatting.count_interval(facts.break_even_tokens),
        ),
        ("hardware", facts.hardware or formatting.MISSING),
    ]
    meaning = "Training is paid for once, answers every time"
    if facts.break_even_tokens is not None:
        meaning += (
            f": after {formatting.count_interval(facts.break_even_tokens)} output tokens serving has cost as much as "
            "training"
        )
    tables = (spent, _sum(facts), listing("Serving", pairs), _comparisons(facts.comparisons))
    return body(f"{meaning}. {facts.decision}".rstrip(), tables, facts.effects)


def _sum(facts: CostFacts) -> Table:
    """What is added up: seconds at a price, and which of them the break-even calls training."""
    whole, cores = total(facts.lines, "usd"), total(facts.lines, "cpu_seconds")
    hourly = None if whole is None or not cores else 3600 * whole / cores
    rest = None if whole is None or facts.training_usd is None else whole - facts.training_usd
    return listing(
        "What is added up",
        (
            ("this run by the clock; stages side by side count once", formatting.duration(facts.elapsed)),
            (
                "wall time of all stages, one after the other, cached ones too",
                formatting.duration(total(facts.lines, "seconds")),
            ),
            ("core time of all stages: what is paid for", formatting.duration(cores)),
            ("price per core hour", formatting.dollars(hourly, 3)),
            ("the model, from data to fine-tuning: what the break-even calls training", _usd(facts.training_usd)),
            ("all else: alignment, sweeps, evaluations", _usd(rest)),
            ("whole life", _usd(whole)),
        ),
    )


def _usd(value: float | None) -> str:
    """Dollars with digits enough to be added up."""
    return formatting.MISSING if value is None else f"${value:.6f}" if abs(value) < 10 else formatting.dollars(value)


def _comparisons(entries: tuple[Mapping[str, Any], ...]) -> Table:
    columns = tuple(dict.fromkeys(("name", *(str(key) for entry in entries for key in entry)))) if entries else ()
    align = "".join("<" if column == "name" else ">" for column in columns)
    cells = tuple(tuple(_cell(column, entry.get(column)) for column in columns) for entry in entries)
    return Table("Compared", tuple(column.replace("_", " ") for column in columns), align, cells)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return formatting.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return formatting.dollars(value) if "usd" in column else formatting.count(value)
    return str(value)
