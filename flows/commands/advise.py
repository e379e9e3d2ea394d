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
    like: Annotated[
        str | None, typer.Option(help="Plan a life: as good as this public model, such as llama-2-7b.")
    ] = None,
    target_loss: Annotated[float | None, typer.Option(help="Plan a life: of this loss on the law's text.")] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Plan a life: of this accuracy, by a published law of accuracies.")
    ] = None,
    law: Annotated[
        str | None, typer.Option(help="besiroglu2024, chinchilla, gadre2024, or run: that of --run.")
    ] = None,
    requests_per_day: Annotated[float, typer.Option(help="Of the life, at its start.")] = 100_000.0,
    months: Annotated[float, typer.Option(help="Of service.")] = 24.0,
    prompt_tokens: Annotated[float, typer.Option(help="Read by a request, the mean.")] = 500.0,
    answer_tokens: Annotated[float, typer.Option(help="Written by an answer, thinking included, the mean.")] = 200.0,
    samples: Annotated[int, typer.Option(help="Answers drawn for a request; self-consistency@8 draws 8.")] = 1,
    growth: Annotated[float, typer.Option(help="Of requests, a share a month, such as 0.05.")] = 0.0,
    peak_factor: Annotated[float, typer.Option(help="The busiest hour over the mean.")] = 2.0,
    cached_share: Annotated[float, typer.Option(help="Of prompt tokens, those found in the cache.")] = 0.0,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="For training and the life.")] = None,
    hardware: Annotated[str, typer.Option(help="To train and serve on.")] = "h100-sxm",
    latency_ttft: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="To the first token, 9 of 10 requests in the busiest hour.")
    ] = None,
    latency_tpot: Annotated[float | None, typer.Option(metavar="SECONDS", help="Between tokens.")] = None,
    training_days: Annotated[float, typer.Option(help="That training may take.")] = 30.0,
    vocabulary: Annotated[int | None, typer.Option(help="Of the model; by default that of --like, or 32,000.")] = None,
    context_length: Annotated[int, typer.Option(min=1, help="To train at.")] = 4096,
    api: Annotated[
        str | None, typer.Option(metavar="READ/WRITTEN", help="A hosted model beside: dollars a million, or its name.")
    ] = None,
    think: Annotated[
        bool, typer.Option("--think", help="For each accuracy the cheapest pair of model and strategy of this home.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, where a life is planned.")] = False,
) -> None:
    """Advise how to answer and what to train, at what lifetime cost: from what a run has measured, or with --like,
    --target-loss or --target-accuracy from published laws."""
    with friendly_errors():
        if think:
            from flows.commands.advise_thinking import print_thinking

            print_thinking(questions, verifier, suite)
            return
        if like is not None or target_loss is not None or target_accuracy is not None:
            from components.cost.demand import Scenario
            from flows.commands.advise_life import print_life
            from flows.runs.life_advice import LifeAsk
            from flows.settings import ConfigError

            try:
                scenario = Scenario(
                    requests_per_day, months, prompt_tokens, answer_tokens, growth, peak_factor, cached_share, samples
                )
            except ValueError as error:
                raise ConfigError(str(error)) from None
            ask = LifeAsk(
                scenario, like, target_loss, target_accuracy, law, hardware, price, budget, latency_ttft, latency_tpot,
                training_days, vocabulary, context_length, api, run,
            )  # fmt: skip
            print_life(ask, as_json)
            return
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
