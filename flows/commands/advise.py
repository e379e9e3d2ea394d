"""`lifespan advise`: how to answer, by what a run measured, and what to train, by the law that it fitted.

The first half needs no law: every way of answering was measured on the same questions, with its price. The second is
`components.cost.planning` with the run's own law, the speeds that it reached, and the tokens that an answer takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.cost.answering import StrategyCost, cheapest, frontier
from components.cost.hardware import find_hardware, find_price
from components.cost.lifetime import Option, Traffic
from components.cost.planning import Deployment, Plan
from components.cost.planning import advise as plan_training
from components.scaling.chinchilla_fit import ChinchillaFit
from components.statistics import Interval
from dashboards import formatting
from flows.settings import ConfigError
from storage.home import Home
from storage.named import find_run
from storage.queries import query

CPU = "cpu-core"  # what a run's own speeds are measured on
_FACTS = """
    SELECT facts_json, key FROM run_stages
    WHERE run_id = $run AND stage = $stage AND status IN ('ran', 'cached') ORDER BY label LIMIT 1"""
_POINTS = """
    WITH mine AS (SELECT DISTINCT key FROM run_stages WHERE run_id = $run AND status IN ('ran', 'cached')),
    points AS (SELECT * FROM scaling_points WHERE sweep = 'dense' AND key IN (FROM mine)),
    -- What the plan counts, 6ND with the law's N; the exact FLOPs are up to a third more for models as small as these.
    trained AS (SELECT key, 6.0 * max(num_params) * max(tokens) AS flops FROM points GROUP BY key)
    SELECT min(num_params) AS least, max(num_params) AS most, min(tokens) AS fewest, max(tokens) AS many,
           min(loss) AS best,
           (SELECT sum(t.flops) / sum(c.cpu_seconds)
            FROM trained t JOIN run_costs c ON c.key = t.key AND c.run_id = $run) AS flops_per_second
    FROM points"""


@dataclass(frozen=True)
class Wish:
    """What is asked for: questions over the lifetime, the accuracy that they need (None: whatever is to be had), and
    the loss (None: the lowest of the sweep) that a model is to reach on such hardware."""

    questions: float
    accuracy: float | None = None
    verifier: bool = False
    loss: float | None = None
    train_on: str = CPU
    serve_on: str = CPU

    def __post_init__(self) -> None:
        if not self.questions >= 1:
            raise ConfigError(f"--questions is {self.questions:g}: give a number of at least 1")
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise ConfigError(f"--accuracy is {self.accuracy:g}: give a share above 0 and up to 1, as 0.6")
        for name in (self.train_on, self.serve_on):
            try:
                find_hardware(name)
            except ValueError as error:
                raise ConfigError(str(error)) from None


def show(home: Home, run: str, wish: Wish, console: Console) -> None:
    """Print both halves for a run (its id, the beginning of it, or `newest`).

    Raises ConfigError where the run has not measured its ways of answering, and for a loss that its law cannot reach.
    """
    run_id = find_run(home, run)
    ways = [way for way in measured_ways(home, run_id) if wish.verifier or not way.verified]
    chosen = cheapest(ways, wish.accuracy, wish.questions) if wish.accuracy else None
    best = frontier(ways, wish.questions)
    spoken = chosen or best[-1]
    made = training_plan(home, run_id, wish, Traffic(wish.questions, spoken.prompt_tokens, spoken.answer_tokens))

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False)

    say(f"How to answer {wish.questions:,.0f} questions like those of run {run_id}", "bold")
    console.print(_answers({*best, spoken}, chosen, wish.questions))
    say(_verdict(ways, chosen, wish))
    say(f"\nWhat to train, to be asked as often and to answer as {spoken.name} does", "bold")
    if made is None:
        say(f"run {run_id} has fitted no law; `lifespan run --only fit_scaling_law` does")
        return
    plan, caveat = made
    console.print(_plan(plan))
    beyond = [f"{row.name} ({row.outside})" for row in plan.rows if row.outside]
    say(f"Beyond the fit: {'; '.join(beyond)}." if beyond else "All within the fitted sizes and tokens.")
    say(caveat)


def measured_ways(home: Home, run_id: str) -> list[StrategyCost]:
    """Every way of answering that the run has accuracy and price of.

    Raises ConfigError where the run has none.
    """
    facts, _ = _facts(home, run_id, "account_costs")
    measured = [one for one in facts.get("comparisons", []) if "needs_verifier" in one]
    if not measured:
        raise ConfigError(
            f"run {run_id} has not measured what its ways of answering cost; `lifespan run --only account_costs` does"
        )
    return [
        StrategyCost(
            Option(one["name"], one["extra_training_usd"], one["usd_per_thousand"] / 1000),
            Interval(one["accuracy"], one["low"], one["high"], one["n"]),
            one["prompt_tokens"],
            one["tokens_per_item"],
            verified=one["needs_verifier"],
        )
        for one in measured
    ]


def training_plan(home: Home, run_id: str, wish: Wish, traffic: Traffic) -> tuple[Plan, str] | None:
    """What to train by the run's law, and what to keep in mind; None where the run fitted no law.

    Raises ConfigError for a loss that the law cannot reach.
    """
    _, key = _facts(home, run_id, "fit_scaling_law")
    artifact = home.store.find(key) if key else None
    if artifact is None:
        return None
    saved = (home.store.path(artifact) / "chinchilla.json").read_text(encoding="utf-8")
    fit = ChinchillaFit.from_json(json.loads(saved))
    points = query(home, _POINTS, {"run": run_id}).to_pylist()[0]
    loss = points["best"] if wish.loss is None else wish.loss
    if not loss > fit.law.E:
        raise ConfigError(
            f"--loss is {loss:g} nats a token: the law of run {run_id} takes every loss above {fit.law.E:.3f} for "
            f"reachable; its lowest measured one is {points['best']:.3f}"
        )
    train, train_from = _deployment(home, run_id, wish.train_on, points["flops_per_second"])
    serve, serve_from = _deployment(home, run_id, wish.serve_on, points["flops_per_second"])
    fitted = ((points["least"], points["most"]), (points["fewest"], points["many"]))
    plan = plan_training(fit, loss, traffic, train, serve, fitted_range=fitted)
    places = (
        f"Both on {train_from}" if train_from == serve_from else f"Training on {train_from}; serving on {serve_from}"
    )
    caveat = (
        f"To a loss of {loss:.3f} nats a token on the corpus of the sweep ({fit.num_runs} runs, {len(fit.residuals)} "
        f"points); no law here says what accuracy that is. {places}."
    )
    return plan, caveat


def _facts(home: Home, run_id: str, stage: str) -> tuple[Mapping[str, Any], str]:
    rows = query(home, _FACTS, {"run": run_id, "stage": stage}).to_pylist()
    return (json.loads(rows[0]["facts_json"] or "{}"), str(rows[0]["key"])) if rows else ({}, "")


def _deployment(home: Home, run_id: str, name: str, flops_per_second: float) -> tuple[Deployment, str]:
    """The hardware with the shares of its peak that the run reached on it; elsewhere with usual ones. And which."""
    hardware, price = find_hardware(name), find_price(name)
    at = f"{price.usd_per_hour:g} $/h ({price.provider}, {price.date})"
    if name == CPU:  # at the price of the run's own accounts, and of the ways to answer
        price = replace(price, usd_per_hour=_core_price(home, run_id))
        at = f"{price.usd_per_hour:g} $/h (compute.usd_per_core_hour of the run)"
    serving, _ = _facts(home, run_id, "measure_serving")
    base, _ = _facts(home, run_id, "pretrain")
    if name != CPU or not serving or "num_params_non_embedding" not in base:
        usual = Deployment(hardware, price)
        parts = (("train", usual.train_mfu), ("read", usual.input_mfu), ("write", usual.output_mfu))
        assumed = ", ".join(f"{share:.0%} of its peak to {what}" for what, share in parts)
        return usual, f"{name}, {at}, {assumed} (assumed)"
    per_token = 2.0 * base["num_params_non_embedding"]  # as the law counts N, and the plan a token's work
    reached = {
        "train_mfu": flops_per_second / hardware.peak_flops,
        "input_mfu": serving["prefill_tokens_per_second"] * per_token / hardware.peak_flops,
        "output_mfu": serving["decode_tokens_per_second"] * per_token / hardware.peak_flops,
    }
    shares = {share: min(1.0, value) for share, value in reached.items()}
    return Deployment(hardware, price, **shares), f"{name}, {at}, at the speeds of this run"


def _core_price(home: Home, run_id: str) -> float:
    """Dollars of a core an hour, which the run reckoned with."""
    reckoned = "(config_json ->> '$.compute.usd_per_core_hour')::DOUBLE"
    sql = f"SELECT {reckoned} AS usd FROM runs WHERE run_id = $run AND event = 'started'"
    return float(query(home, sql, {"run": run_id}).to_pylist()[0]["usd"])


def _answers(ways: set[StrategyCost], chosen: StrategyCost | None, questions: float) -> Table:
    table = _table("way", ("accuracy [95%]", "n", "tokens", "a thousand", "training", "life"))
    for way in sorted(ways, key=lambda way: (way.option.cost(questions), way.name)):
        option = way.option
        table.add_row(
            Text(way.name + (" (verified)" if way.verified else "")),
            Text(formatting.percent_interval(way.accuracy)),
            f"{way.accuracy.n}",
            f"{way.answer_tokens:.0f}",
            formatting.dollars(1000 * option.per_unit),
            formatting.dollars(option.fixed),
            formatting.dollars(option.cost(questions)),
            style="bold green" if way is chosen else None,
        )
    return table


def _verdict(ways: list[StrategyCost], chosen: StrategyCost | None, wish: Wish) -> str:
    if chosen:
        return f"Cheapest that surely reaches {wish.accuracy:.0%}: {chosen.name}."
    if wish.accuracy:
        top = max(ways, key=lambda way: way.accuracy.low)
        reached = formatting.percent_interval(top.accuracy)
        said = f"None surely reaches {wish.accuracy:.0%}; {top.name} comes nearest: {reached}."
        return said + ("" if wish.verifier else " If right answers can be told from wrong ones, try --verifier.")
    return (
        "Each answered more rightly than all that cost less, by the middles of the intervals; --accuracy 0.6 chooses."
    )


def _plan(plan: Plan) -> Table:
    table = _table("model", ("size", "tokens", "loss [95%]", "training", "life"))
    for row in plan.rows:
        loss = row.loss and f"{row.loss.value:.3f} [{row.loss.low:.3f}, {row.loss.high:.3f}]"
        table.add_row(
            row.name,
            formatting.count(row.num_params),
            formatting.count(row.tokens),
            Text(loss or formatting.MISSING),
            formatting.dollars(row.life.training),
            formatting.dollars(row.life.total),
        )
    return table


def _table(first: str, others: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table
