"""`lifespan advise`: how to answer and what to train, at what cost over a lifetime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import friendly_errors, plain_table, wide_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from components.cost.advice import AdviceRequest, StrategyAdvice, TrainingAdvice
    from components.cost.inference import ServingEstimate
    from components.statistics import Interval
    from flows.runs.measured import MeasuredRun


def advise(
    questions: Annotated[float, typer.Option(help="Questions over the lifetime.")] = 1e6,
    accuracy: Annotated[
        float | None, typer.Option(help="Share of the questions that must be answered correctly, such as 0.6.")
    ] = None,
    verifier: Annotated[
        bool, typer.Option("--verifier", help="Right answers can be told from wrong ones, so best-of-n may be used.")
    ] = False,
    loss: Annotated[
        float | None, typer.Option(help="Loss to train to, in nats per token; by default the sweep's lowest.")
    ] = None,
    train_on: Annotated[str, typer.Option(help="Hardware to train on, as in the table `hardware`.")] = "cpu-core",
    serve_on: Annotated[str, typer.Option(help="Hardware to serve on.")] = "cpu-core",
    suite: Annotated[
        str | None, typer.Option(help="An evaluation set of your own; by default the first that the run has answered.")
    ] = None,
    price: Annotated[
        str,
        typer.Option(
            help="Which price: a provider, `spot`, `reserved`, or PROVIDER/spot; by default the newest on demand."
        ),
    ] = "",
    batch: Annotated[int, typer.Option(help="Requests that each copy of the model answers at a time.")] = 32,
    run: Annotated[str, typer.Option(help="A run, or the beginning of its id.")] = "newest",
) -> None:
    """Advise how to answer and what to train, at what lifetime cost, from what a run has measured."""
    with friendly_errors():
        from components.cost.advice import AdviceRequest, advise_strategy, advise_training
        from flows.runs.measured import measured_run
        from flows.runs.prices import home_prices
        from flows.settings import ConfigError
        from storage.home import Home

        try:
            request = AdviceRequest(questions, accuracy, verifier, loss, train_on, serve_on, price, batch)
            home = Home.from_env()
            measured = measured_run(home, run, suite)
            strategy, training = advise_strategy(measured.strategies, request), None
            if measured.fit and measured.sweep:
                training = advise_training(
                    measured.fit, measured.sweep, measured.speeds, request, strategy.reference, home_prices(home)
                )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        print_advice(measured, request, strategy, training, wide_console())


def print_advice(
    measured: MeasuredRun,
    request: AdviceRequest,
    strategy: StrategyAdvice,
    training: TrainingAdvice | None,
    console: Console,
) -> None:
    """Print both halves of the advice. `training` is None where the run fitted no law."""

    from components.cost.planning import FAR

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False)

    show(f"How to answer {request.questions:,.0f} questions like those of run {measured.run_id}", "bold")
    console.print(_strategy_table(strategy, request.questions))
    show(_verdict(strategy, request))
    show(f"\nWhat to train, for as many questions answered with {strategy.reference.name}", "bold")
    if training is None or measured.fit is None:
        show(f"run {measured.run_id} has fitted no scaling law: `lifespan run --only fit_scaling_law`")
        return
    console.print(_training_table(training))
    for row in training.plan.rows:
        reach = f"Extrapolated: for {row.name}, {row.outside}" if row.outside else f"Within the sweep: {row.name}"
        loud = f". This is more than {FAR:.0f} times outside of what was measured: no basis for a decision"
        show(f"{reach}{loud if row.far else ''}.", "bold red" if row.far else None)
    served: dict[str, list[str]] = {}  # models that differ little are served alike
    for row in training.plan.rows:
        if row.serving:
            served.setdefault(_served(row.serving), []).append(row.name)
    for how, names in served.items():
        show(f"Served: {', '.join(names)}, {how}.")
    for warning in training.warnings:
        show(f"The law's fit warns: {warning}.", "yellow")
    show(
        f"The loss of {training.plan.target_loss:.3f} nats per token is on the corpus of the sweep "
        f"({measured.fit.num_runs} runs, {len(measured.fit.residuals)} points); no law here predicts an accuracy from "
        f"it. {_basis(training)}"
    )


def _served(serving: ServingEstimate) -> str:
    def rate(speed: Interval) -> str:
        ends = f"[{formatting.count(speed.low)}, {formatting.count(speed.high)}]"
        return f"{formatting.count(speed.value)} {ends}"

    from dashboards import formatting

    on = f"{serving.on.num_devices} x {serving.on.hardware.name}, {serving.batch} requests at a time"
    return (
        f"a copy on {on}: {rate(serving.decode)} tokens per second generated, "
        f"{rate(serving.prefill)} read (ranges of 90%)"
    )


def _basis(training: TrainingAdvice) -> str:
    if training.train_basis == training.serve_basis:
        return f"Training and serving on {training.train_basis}."
    return f"Training on {training.train_basis}; serving on {training.serve_basis}."


def _strategy_table(advice: StrategyAdvice, questions: float) -> Table:
    from rich.text import Text

    from dashboards import formatting

    numbers = ("accuracy [95%]", "n", "tokens", "per thousand", "training", "lifetime")
    table = plain_table("strategy", *numbers, right=numbers)
    shown = {*advice.frontier, advice.reference}
    for strategy in sorted(shown, key=lambda strategy: (strategy.option.cost(questions), strategy.name)):
        option = strategy.option
        table.add_row(
            Text(strategy.name + (" (verified)" if strategy.verified else "")),
            Text(formatting.percent_interval(strategy.accuracy)),
            f"{strategy.accuracy.n}",
            f"{strategy.answer_tokens:.0f}",
            formatting.dollars(1000 * option.per_unit),
            formatting.dollars(option.fixed),
            formatting.dollars(option.cost(questions)),
            style="bold green" if strategy is advice.chosen else None,
        )
    return table


def _verdict(advice: StrategyAdvice, request: AdviceRequest) -> str:
    from dashboards import formatting

    if advice.chosen:
        return f"The cheapest whose whole interval reaches {request.accuracy:.0%}: {advice.chosen.name}."
    if not request.accuracy:
        return "Each is more accurate than all cheaper ones, by the estimates; --accuracy 0.6 chooses one of them."
    reached = f"{advice.nearest.name} comes nearest: {formatting.percent_interval(advice.nearest.accuracy)}"
    hint = "" if request.verifier else " If right answers can be told from wrong ones, try --verifier."
    return f"None reaches {request.accuracy:.0%} with its whole interval; {reached}.{hint}"


def _training_table(training: TrainingAdvice) -> Table:
    from rich.text import Text

    from dashboards import formatting

    numbers = ("size", "tokens", "loss [95%]", "training", "lifetime")
    table = plain_table("model", *numbers, right=numbers)
    for row in training.plan.rows:
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
