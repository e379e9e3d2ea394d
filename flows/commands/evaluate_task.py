"""`lifespan evaluate MODEL|URL --task FILE`: what strategies of answering are worth, and what they cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import FAILED, friendly_errors, plain_table, print_error, wide_console

if TYPE_CHECKING:
    from components.reasoning.tally import StrategyReport, Tally
    from flows.runs.task_evaluation import EvaluationResult
    from flows.runs.thinking_controller import Adaptive


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|URL", help="As `lifespan serve` takes it, or an address: http://HOST/v1.")
    ],
    task: Annotated[
        str, typer.Option(help="Questions: a file, folder, pattern or URL, hub:owner/dataset/pattern, or gym:TASK.")
    ],
    strategy: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="direct, cot, kojima, ltm, pal, tot, tot-vote, tot-depth; with a number: sc@16 (vote), wsc, esc, ac, "
            "best (knows what is right), judge, refine, budget, beam; auto: as long as --budget allows.",
        ),
    ] = "direct,cot",
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many items; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of samples, and of the choice of examples.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Of samples; single answers are greedy.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of an answer.")] = 1024,
    direct_tokens: Annotated[int, typer.Option(min=0, help="Limit of an answer given at once; 0: the same.")] = 0,
    shots: Annotated[int, typer.Option(min=0, help="Examples before each question.")] = 0,
    shots_from: Annotated[
        str, typer.Option(help="Task with the examples; by default the same, without the item.")
    ] = "",
    shots_by: Annotated[str, typer.Option(help="random, similar (to the question) or diverse.")] = "random",
    format: Annotated[str, typer.Option(help="Format of the task, where it is not told rightly.")] = "",
    scorer: Annotated[str, typer.Option(help="As of `lifespan evaluate score`; by default the format's.")] = "",
    question: Annotated[str, typer.Option(help="Column with the question.")] = "",
    answer: Annotated[str, typer.Option(help="Column with the right answer.")] = "",
    cluster: Annotated[str, typer.Option(help="Column; items that share it are not independent.")] = "",
    template: Annotated[str, typer.Option(help="Wording of worked answers.")] = "cot",
    direct_template: Annotated[str, typer.Option(help="Wording of answers given at once.")] = "direct",
    templates: Annotated[str, typer.Option(metavar="FILE", help="TOML file with wordings of your own.")] = "",
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Ask with every wording and order.")] = False,
    search: Annotated[
        int, typer.Option(min=0, help="Rounds of a search for a wording, on the first items, which are left out.")
    ] = 0,
    search_items: Annotated[int, typer.Option(min=1, help="Items on which the search decides.")] = 50,
    budget: Annotated[
        str, typer.Option(metavar="600tokens|2s|0.001usd", help="Of auto: what a question may cost on average.")
    ] = "",
    tune_items: Annotated[
        int, typer.Option(min=10, help="Items that auto is tuned on, the first ones, which are left out.")
    ] = 100,
    model_name: Annotated[str, typer.Option("--model", help="Model of an endpoint that has several.")] = "",
    api: Annotated[str, typer.Option(help="Of an endpoint: chat or completions.")] = "chat",
    key_from: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the key of an endpoint.")
    ] = "OPENAI_API_KEY",
    at_once: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    per_minute: Annotated[float, typer.Option(min=0, help="Requests a minute; 0: any number.")] = 0.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until a request is given up and made again.")] = 600.0,
    price_in: Annotated[float | None, typer.Option(min=0, help="Dollars of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Dollars of a million generated tokens.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a row an answer: .jsonl or .parquet.")] = None,
) -> None:
    """Answer a task with one or more strategies. Killed, it goes on where it was; nothing is asked twice."""
    with friendly_errors():
        from components.reasoning.evaluation import EvaluationSettings
        from flows.runs.task_evaluation import EndpointOptions, TaskOptions, evaluate_task
        from flows.runs.token_prices import Prices
        from flows.settings import ConfigError
        from storage.home import Home

        if output is not None and output.suffix not in (".jsonl", ".parquet"):
            raise ConfigError(f"--output {output}: take a name that ends in .jsonl or .parquet")
        if (price_in is None) != (price_out is None):
            raise ConfigError("--price-in and --price-out belong together: give both")
        options = TaskOptions(
            target=model,
            task=task,
            strategies=tuple(name for name in (part.strip() for part in strategy.split(",")) if name),
            limit=limit,
            settings=EvaluationSettings(temperature, max_tokens, direct_tokens, seed),
            format=format,
            scorer=scorer,
            question=question,
            answer=answer,
            cluster=cluster,
            shots=shots,
            shots_from=shots_from,
            shots_by=shots_by,
            direct_template=direct_template,
            worked_template=template,
            templates=templates,
            sensitivity=sensitivity,
            search=search,
            search_items=search_items,
            budget=budget,
            tune_items=tune_items,
        )
        if not options.strategies:
            raise ConfigError("--strategy is empty: name one, such as cot")
        endpoint = EndpointOptions(model_name, api, key_from, at_once, per_minute, timeout)
        given = Prices(price_in, price_out, "as given") if price_in is not None else Prices()
        home = Home.from_env()
        with _progress() as told:
            result = evaluate_task(home, options, endpoint, given, lambda line: typer.echo(line, err=True), told)
        show(result)
        if output is not None:
            _write(home, result, output)
        failed = [sum(tally.report().statuses["failed"] for tally in result.tallies)]
        if failed[0] == sum(len(tally.right) for tally in result.tallies):
            print_error("every request failed; the table samples says why: status and note of each")
            raise typer.Exit(FAILED)


class _progress:
    """A line on a terminal's standard error that says how far each strategy is; nothing elsewhere."""

    def __enter__(self) -> Any:
        self._shown = False

        def told(name: str, count: int) -> None:
            if sys.stderr.isatty():
                self._shown = True
                sys.stderr.write(f"\r\x1b[K{name}: {count} items")
                sys.stderr.flush()

        return told

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def show(result: EvaluationResult) -> None:
    """Accuracies, differences, samples, costs and the front."""
    from components.reasoning.tally import difference, pareto_front

    console = wide_console(170)
    reports = [tally.report(usd) for tally, usd in zip(result.tallies, result.usd, strict=True)]
    typer.echo(
        f"{result.num_items} items; {result.asked} samples drawn now, {result.found} were there; run {result.run_id}"
    )
    if result.rejected:
        typer.echo(f"{result.rejected} records are no items: see `rejected` above")
    columns = ("strategy", "of all", "of parsed", "without failures", "unparsed", "truncated", "refused", "failed")
    table = plain_table(*columns, right=columns[1:])
    for one in reports:
        shares = [_interval(x) if x else "–" for x in (one.of_all, one.of_parsed, one.without_failures)]
        counts = [str(one.statuses[x]) for x in ("unparsed", "truncated", "refused", "failed")]
        table.add_row(one.strategy.name, *shares, *counts)
    typer.echo("")
    console.print(table)
    for one in reports:
        if one.macro is not None:
            typer.echo(f"{one.strategy.name}: macro average over suites {_interval(one.macro)}")
        if one.changes:
            changed = ", ".join(f"{name} {count}" for name, count in sorted(one.changes.items()))
            typer.echo(f"{one.strategy.name}: {changed}")
        if one.strategy.needs_verifier:
            typer.echo(f"{one.strategy.name}: an upper bound, it is told which answers are right")
    _show_costs(console, reports, result)
    if any("[" in one.strategy.name for one in reports):
        _show_sensitivity(result.tallies)
        _show_notes(reports, result.notes)
        return
    for one in reports:
        if one.at_k:
            votes = plain_table(f"{one.strategy.name}, k", "maj@k", "pass@k", right=("maj@k", "pass@k"))
            for k, (majority, passed) in one.at_k.items():
                votes.add_row(str(k), _interval(majority), _interval(passed))
            typer.echo("")
            console.print(votes)
    if len(result.tallies) > 1:
        _show_differences([difference(one, result.tallies[0]) for one in result.tallies[1:]])
        front = pareto_front(reports)
        by = "dollars" if all(one.usd is not None for one in reports) else "tokens"
        typer.echo(f"front, accuracy against {by}: {', '.join(one.strategy.name for one in front)}")
    if result.adaptive is not None:
        _show_controller(result.adaptive, result.tallies)
    _show_notes(reports, result.notes)


def _show_controller(adaptive: Adaptive, tallies: Sequence[Tally]) -> None:
    """The controller beside greedy answers, fixed strategies and the oracle, at equal spend."""
    from components.reasoning.controller_report import controller_report

    *fixed, mine = tallies
    rates, unit = adaptive.tuned.rates, adaptive.budget.unit
    found = controller_report(mine, adaptive.spent, [x for x in fixed if not x.strategy.needs_verifier], rates)
    typer.echo(
        f"\ncontroller: tuned on the first {adaptive.skipped} items, which are left out above, for {adaptive.budget} a "
        f"question: {adaptive.point.accuracy:.1%} at {adaptive.point.cost:.4g} {unit} expected"
    )
    typer.echo(f"at equal spend, {found.cost:.4g} {unit} a question: the controller {found.accuracy:.1%}")
    if found.cost > adaptive.budget.amount:
        typer.echo("  that is more than the budget: nothing of the ladder is as cheap, or these items are harder")
    for what, rival in (("greedy", found.greedy), ("best fixed", found.fixed)):
        if rival is None:
            typer.echo(f"  {what}: none is within the spend")
            continue
        verdict = "the controller is better" if rival.beaten else "the controller is not shown to be better"
        typer.echo(
            f"  {what}: {rival.name}, {rival.accuracy:.1%} at {rival.cost:.4g} {unit}; difference "
            f"{_interval(rival.difference)}: {verdict}"
        )
    typer.echo(f"  oracle, who knows where to stop: {found.oracle:.1%}")


def _show_notes(reports: Sequence[StrategyReport], notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}")
    for one in reports:
        if one.many_without_answer:
            lost = f"{one.statuses['unparsed']} unparsed, {one.statuses['truncated']} truncated"
            typer.echo(
                f"warning: {one.strategy.name}: {one.without_answer:.1%} of the items have no answer that was found "
                f"({lost}): the accuracy of all also measures the format and the length limit",
                err=True,
            )


def _show_costs(console: Any, reports: Sequence[StrategyReport], result: EvaluationResult) -> None:
    columns = ("an item of", "calls", "prompt tokens", "generated", "seconds", "dollars")
    table = plain_table(*columns, right=columns[1:])
    for one in reports:
        dollars = "–" if one.usd is None else f"{one.usd:.3g}"
        table.add_row(
            one.strategy.name,
            f"{one.calls:.2f}",
            f"{one.prompt_tokens:.1f}",
            f"{one.completion_tokens:.1f}",
            f"{one.latency:.2f}",
            dollars,
        )
    typer.echo("")
    console.print(table)
    if result.prices.basis:
        typer.echo(f"dollars: {result.prices.basis}")
    ledger = result.ledger
    typer.echo(
        f"all samples, each once: {ledger.samples} of {ledger.calls} requests, {ledger.prompt_tokens} prompt tokens as "
        f"billed, {ledger.completion_tokens} generated{f', {ledger.failed} failed' if ledger.failed else ''}"
    )


def _show_differences(found: Sequence[Any]) -> None:
    typer.echo("")
    for one in found:
        exact, boot = one.exact, one.bootstrap
        typer.echo(
            f"{one.first} minus {one.second}: {_interval(exact)}; McNemar: {exact.only_a} against {exact.only_b}, p = "
            f"{exact.p_value:.3g}; bootstrap over {boot.n} clusters [{100 * boot.low:.1f}, {100 * boot.high:.1f}]"
        )
        if one.answered is not None:
            typer.echo(f"  on the {one.answered.n} items that both answered: {_interval(one.answered)}")
        if one.unlike:
            typer.echo(
                f"warning: {one.first} and {one.second} differ in how many items have no answer: the difference is of "
                "answering, too",
                err=True,
            )


def _show_sensitivity(tallies: Sequence[Tally]) -> None:
    """Of each strategy over the wordings: the mean, with an interval over items (or clusters), and the range."""
    from components.reasoning.tally import over_wordings

    typer.echo("")
    names = dict.fromkeys(tally.strategy.name.partition("[")[0] for tally in tallies)
    for name in names:
        mine = [tally for tally in tallies if tally.strategy.name.partition("[")[0] == name]
        mean, low, high = over_wordings(mine)
        typer.echo(f"{name} over {len(mine)} wordings and orders: mean {_interval(mean)}, from {low:.1%} to {high:.1%}")


def _interval(one: Any) -> str:
    return f"{one.value:.1%} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _write(home: Any, result: EvaluationResult, output: Path) -> None:
    """The rows of the table `evals`, all or nothing."""
    import json

    import pyarrow.parquet as pq

    from storage.durable import replacing
    from storage.queries import query

    rows = query(home, "SELECT * FROM evals WHERE key = ? ORDER BY strategy, suite, item_id", [result.key])
    with replacing(output) as temporary:
        if output.suffix == ".parquet":
            pq.write_table(rows, temporary, compression="zstd")
        else:
            with temporary.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows.to_pylist())
    typer.echo(f"{rows.num_rows} answers in {output}")
