"""What a life of answering costs: sliders for the demand; the address is the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from components.cost.advice import strategy_costs
from components.cost.answering import StrategyCost, cheapest, frontier
from components.cost.lifetime import Option, break_even
from dashboards import formatting
from dashboards.app.address import Address
from dashboards.app.figures.cost import lifetime_figure, parts_figure, tornado_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import ask, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Fact, Facts, Note, Table, View, missing
from storage.home import Home
from storage.named import answer, named_queries

_PARTS = 'SELECT "group", sum(usd) AS usd FROM run_costs WHERE run_id = $run AND usd > 0 GROUP BY 1 ORDER BY usd DESC'
_RATE = """
        SELECT (config_json ->> '$.compute.usd_per_core_hour')::DOUBLE AS usd FROM runs
        WHERE run_id = $run AND event = 'started'"""


def cost_page(home: Home, address: Address, outside: Outside) -> View:
    """Dollars of a life against questions for every model and strategy."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Cost", f"No run yet in {home.shown}.", ("Runs", "/"))
    measured = strategy_costs(answer(home, "strategy_costs", run=run))
    parts = ask(home, _PARTS, {"run": run})
    spent = dict(zip((group or "other" for group in parts["group"]), parts["usd"], strict=True))
    blocks: list[Block] = []
    if measured:
        found = ask(home, _RATE, {"run": run})["usd"]
        blocks = _plan(address, control, measured, found[0] if found else None, run)
    else:
        blocks = [
            Controls((control,)),
            Note(
                f"Run {run} has not measured what its ways of answering cost: `lifespan run --only account_costs`.",
                "muted",
            ),
        ]
    if spent:
        total = formatting.dollars(sum(spent.values()))
        blocks.append(
            Chart(
                "parts",
                f"What this life cost: {total}",
                parts_figure(spent),
                typed(_PARTS, {"run": run}),
                height=80 + 28 * len(spent),
            )
        )
    return View("Cost", tuple(blocks), address=address.used)


def _plan(
    address: Address, control: Control, measured: Sequence[StrategyCost], rate: float | None, run: str
) -> list[Block]:
    monthly = address.number("questions", 100_000, 1, 1e12)
    months = address.number("months", 24, 1, 120)
    growth = address.number("growth", 0.0, -0.2, 0.5)
    wanted = address.number("accuracy", 0.0, 0.0, 1.0)
    tokens = address.number("tokens", 1.0, 0.1, 10.0)
    verifier = address.flag("verifier")
    price = address.number("price", rate or 1.0, 1e-4, 100.0)
    controls = Controls(
        (
            control,
            Control("questions", "questions a month", "range", monthly, low=1, high=1e12, log=True, format="count"),
            Control("months", "months", "range", months, low=1, high=120, step=1, format="count"),
            Control("growth", "growth a month", "range", growth, low=-0.2, high=0.5, step=0.01, format="percent"),
            Control("accuracy", "accuracy wanted", "range", wanted, low=0.0, high=1.0, step=0.01, format="percent"),
            Control("tokens", "tokens, times what was measured", "range", tokens, low=0.1, high=10.0, log=True),
            Control("price", "dollars per core hour", "range", price, low=1e-4, high=100.0, log=True, format="dollars"),
            Control("verifier", "right answers can be told", "check", verifier),
        )
    )
    questions = demand(monthly, months, growth)
    scale = price / rate if rate else 1.0
    usable = [priced(one, scale, tokens) for one in measured if verifier or not one.verified]
    sql = typed(named_queries()["strategy_costs"].sql, {"run": run, "suite": None})
    if not usable:
        return [controls, Note("Every measured way of answering asks a verifier.", "warn")]
    chosen = cheapest(usable, wanted, questions) if wanted else frontier(usable, questions)[-1]
    blocks: list[Block] = [controls]
    if chosen is None:
        nearest = max(usable, key=lambda one: one.accuracy.low)
        blocks.append(
            Note(
                f"None reaches {wanted:.0%} with its whole interval; {nearest.name} comes nearest: "
                f"{formatting.percent_interval(nearest.accuracy)}.",
                "warn",
            )
        )
    else:
        blocks.append(_said(chosen, questions, wanted))
    chart = lifetime_figure(usable, questions, chosen)
    blocks.append(
        Chart(
            "lifetime",
            "Dollars of a life of questions",
            chart,
            sql,
            "Thick: the choice. Colours: the front at your demand, each more accurate than all that cost less.",
            420,
        )
    )
    if chosen is not None:
        total = chosen.option.cost(questions)
        moved = moves(chosen, monthly, months, growth, total)
        blocks.append(
            Chart(
                "tornado",
                "What moves it most",
                tornado_figure(total, moved),
                sql,
                f"Each assumption halved and doubled; now {formatting.dollars(total)}.",
                240,
            )
        )
    blocks.append(_table(usable, questions, chosen, sql))
    return blocks


def demand(monthly: float, months: float, growth: float) -> float:
    """Questions over a lifetime whose demand grows by the share `growth` each month: a geometric sum."""
    whole = round(months)
    return monthly * (whole if abs(growth) < 1e-9 else ((1.0 + growth) ** whole - 1.0) / growth)


def priced(one: StrategyCost, scale: float, tokens: float) -> StrategyCost:
    """A way of answering at other prices (`scale` times the run's) and with `tokens` times the tokens a question."""
    option = Option(one.option.name, one.option.fixed * scale, one.option.per_unit * scale * tokens)
    return replace(one, option=option)


def moves(
    chosen: StrategyCost, monthly: float, months: float, growth: float, total: float
) -> dict[str, tuple[float, float]]:
    """Dollars when an assumption is halved and doubled."""
    option = chosen.option
    return {
        "demand": (option.cost(demand(monthly / 2, months, growth)), option.cost(demand(2 * monthly, months, growth))),
        "months": (
            option.cost(demand(monthly, max(months / 2, 1), growth)),
            option.cost(demand(monthly, 2 * months, growth)),
        ),
        "growth": (option.cost(demand(monthly, months, growth / 2)), option.cost(demand(monthly, months, 2 * growth))),
        "price": (total / 2, 2 * total),
        "tokens": ((total + option.fixed) / 2, 2 * total - option.fixed),
    }


def _said(chosen: StrategyCost, questions: float, wanted: float) -> Facts:
    option = chosen.option
    why = f"cheapest whose whole interval reaches {wanted:.0%}" if wanted else "the most accurate of the front"
    return Facts(
        (
            Fact(why, chosen.name, tone="good"),
            Fact("accuracy [95%]", formatting.percent_interval(chosen.accuracy)),
            Fact("over the lifetime", formatting.dollars(option.cost(questions))),
            Fact("questions", formatting.count(questions)),
            Fact("per thousand", formatting.dollars(1000 * option.per_unit)),
            Fact("training beyond fine-tuning", formatting.dollars(option.fixed)),
        )
    )


def _table(usable: Sequence[StrategyCost], questions: float, chosen: StrategyCost | None, sql: str) -> Table:
    order = sorted(usable, key=lambda one: (one.option.cost(questions), one.name))
    best = frontier(usable, questions)
    even = ["" if chosen is None or one is chosen else _even(one, chosen) for one in order]
    return Table(
        "strategies",
        "Every way of answering, cheapest first",
        (
            Column("name", "model and strategy"),
            Column("mark", "", "verdict"),
            Column("accuracy", "accuracy", "percent", low="low", high="high"),
            Column("n", "n", "count"),
            Column("total", "lifetime", "dollars"),
            Column("thousand", "per thousand", "dollars"),
            Column("fixed", "training", "dollars"),
            Column("even", "break-even with the choice"),
        ),
        {
            "name": [one.name for one in order],
            "mark": ["chosen" if one is chosen else "front" if one in best else "" for one in order],
            "accuracy": [one.accuracy.value for one in order],
            "low": [one.accuracy.low for one in order],
            "high": [one.accuracy.high for one in order],
            "n": [one.accuracy.n for one in order],
            "total": [one.option.cost(questions) for one in order],
            "thousand": [1000 * one.option.per_unit for one in order],
            "fixed": [one.option.fixed for one in order],
            "even": even,
        },
        sql,
        filter=True,
    )


def _even(one: StrategyCost, chosen: StrategyCost) -> str:
    found = break_even(one.option, chosen.option)
    if found.units in (0.0, float("inf")):
        return f"{found.then if found.units == 0 else found.first} always costs less"
    return f"from {formatting.count(found.units)} questions on {found.then} costs less"
