"""Printing whether to train bigger or to think longer, from every model that a home has measured."""

from __future__ import annotations

import math

import typer

from flows.commands.command import plain_table, wide_console


def print_thinking(questions: float, verifier: bool, suite: str | None) -> None:
    """For each accuracy the cheapest pair; raises ConfigError where nothing was measured."""
    from components.cost.advice import MOST_QUESTIONS
    from components.cost.lifetime import Option
    from components.cost.thinking import Pair, cheapest_pairs
    from components.statistics import wilson
    from dashboards import formatting
    from flows.settings import ConfigError
    from storage.home import Home
    from storage.named import answer

    if not 1 <= questions <= MOST_QUESTIONS:
        raise ConfigError(f"--questions is {questions:g}: takes a number from 1 to {MOST_QUESTIONS:g}")
    rows = answer(Home.from_env(), "thinking_pairs", **({"suite": suite} if suite else {}))
    pairs = [
        Pair(
            f"{row['model']} of {row['run_id']}",
            row["strategy"],
            Option(f"{row['model']} {row['strategy']}", row["training_usd"], row["usd_per_question"]),
            wilson(row["num_correct"], row["n"]),
            bool(row["needs_verifier"]),
        )
        for row in rows
        if row["training_usd"] is not None and row["usd_per_question"] is not None
    ]
    pairs = [pair for pair in pairs if verifier or not pair.verified]
    if not pairs:
        where = f"--suite {suite}: " if suite else ""
        raise ConfigError(f"{where}no run of this home has measured what strategies of answering cost: `lifespan run`")
    models = len({pair.model for pair in pairs})
    typer.echo(
        f"The cheapest pair for each accuracy, over {questions:,.0f} questions; {models} models, {len(pairs)} pairs"
    )
    numbers = ("accuracy [95%]", "training", "per thousand", "life")
    table = plain_table(
        *numbers[:1], "model", "strategy", *numbers[1:], "against the best of another model", right=numbers
    )
    for choice in cheapest_pairs(pairs, questions):
        option, even = choice.pair.option, choice.even
        rival = "none of another model is as accurate"
        if even is not None and choice.rival is not None:
            name = f"{choice.rival.option.name}, {formatting.dollars(choice.rival.option.cost(questions))}"
            first, then = even.first == option.name, even.then
            when = "from the first on" if even.units == 0 else f"from {even.units:,.0f} questions on"
            rival = f"{name}: {'never cheaper' if first and math.isinf(even.units) else f'{then} is cheaper {when}'}"
        table.add_row(
            formatting.percent_interval(choice.pair.accuracy),
            choice.pair.model,
            choice.pair.strategy,
            formatting.dollars(option.fixed),
            formatting.dollars(1000 * option.per_unit),
            formatting.dollars(option.cost(questions)),
            rival,
        )
    wide_console().print(table)
    typer.echo(
        "Training: all that the model was made from, at the ledger's prices. Accuracies are estimates over the same "
        "items: neighbours whose intervals overlap may change places."
    )
