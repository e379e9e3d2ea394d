"""`lifespan evaluate MODEL|URL --task …`: strategies on the items of a task, kept in the home as a run of one stage."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from components.data.files import Quarantined, SourceError, digests
from components.reasoning.evaluation import EvaluationSettings
from flows.engine.work import now
from flows.runs.evaluation_rows import STAGE, Keeper
from flows.runs.registry import close_dead_runs
from flows.runs.run import new_run_id
from flows.runs.thinking_controller import (
    Adaptive,
    Kept,
    keep_controller,
    rates_of,
    read_budget,
    rivals,
    tune_controller,
    votes_of,
)
from flows.runs.token_prices import Prices, dollars, known_prices, measured
from flows.settings import ConfigError
from storage import fingerprint
from storage.home import Home
from storage.redaction import masked

if TYPE_CHECKING:
    from components.reasoning.endpoints.backend import Backend
    from components.reasoning.endpoints.recorded import Recorded
    from components.reasoning.endpoints.store import Ledger
    from components.reasoning.items import Item
    from components.reasoning.strategy import Strategy
    from components.reasoning.tally import Tally
    from components.reasoning.task_files.reading import TaskItem

EXPERIMENT = "evaluations"
POOL = 1000  # items of a file among which examples are chosen
CHUNK = 256
ORDERS = 3  # of examples, with --sensitivity


@dataclass(frozen=True)
class TaskOptions:
    """What is asked of whom. Sizes of 0 are no limit."""

    target: str
    task: str
    strategies: tuple[str, ...] = ("direct", "cot")
    limit: int = 0
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    format: str = ""
    scorer: str = ""
    question: str = ""
    answer: str = ""
    cluster: str = ""
    shots: int = 0
    shots_from: str = ""
    shots_by: str = "random"
    direct_template: str = "direct"
    worked_template: str = "cot"
    templates: str = ""
    sensitivity: bool = False
    search: int = 0
    search_items: int = 50
    budget: str = ""
    tune_items: int = 100


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is asked; no part of what an answer is but for `model` and `api`."""

    model: str = ""
    api: str = "chat"
    key_variable: str = "OPENAI_API_KEY"
    at_once: int = 16
    per_minute: float = 0.0
    timeout: float = 600.0


@dataclass(frozen=True)
class EvaluationResult:
    """tallies: by strategy, in the order of the options; with wordings, a strategy for each. usd: dollars of each.
    adaptive: the controller, where one was asked for."""

    run_id: str
    key: str
    model: str
    num_items: int
    rejected: int
    tallies: Sequence[Tally]
    usd: Sequence[float | None]
    prices: Prices
    ledger: Ledger
    asked: int
    found: int
    notes: Sequence[str]
    adaptive: Adaptive | None = None


Show = Callable[[str], None]


@dataclass(frozen=True)
class _Variant:
    """One way to put the questions. direct, worked: what it adds to the names of strategies that answer at once, and of
    all others; None: it is no other way for those."""

    direct: str | None
    worked: str | None
    as_item: Callable[[TaskItem], Item]

    def named(self, strategies: Sequence[Strategy]) -> list[Strategy]:
        """The strategies that it asks in another way, by names that say so."""
        marks = [self.direct if one.family == "direct" else self.worked for one in strategies]
        return [
            replace(one, name=one.name + mark) for one, mark in zip(strategies, marks, strict=True) if mark is not None
        ]


def evaluate_task(
    home: Home,
    options: TaskOptions,
    endpoint: EndpointOptions,
    given: Prices,
    show: Show,
    told: Callable[[str, int], None],
) -> EvaluationResult:
    """Answer, judge and keep. show: a line for the user. told: progress, as a strategy's name and its items so far.

    Raises ConfigError and SourceError for what the user can mend; KeyboardInterrupt leaves what has arrived.
    """
    from components.reasoning.endpoints.backend import EndpointError
    from components.reasoning.endpoints.recorded import Recorded
    from components.reasoning.endpoints.store import SampleStore
    from components.reasoning.strategies.named import strategy_named
    from components.reasoning.task_files.reading import Task

    most = votes_of(options.strategies)
    if bool(most) != bool(options.budget):
        raise ConfigError("--strategy auto and --budget belong together: give both, or neither")
    if most and (options.sensitivity or options.search or options.shots):
        raise ConfigError("--strategy auto is tuned for one wording: leave out --sensitivity, --search and --shots")
    try:
        strategies = [
            strategy_named(name) for name in (rivals(options.strategies, most) if most else options.strategies)
        ]
    except ValueError as error:
        raise ConfigError(f"--strategy: {error}") from None
    if len({one.name for one in strategies}) < len(strategies):
        raise ConfigError("--strategy names one of them twice")
    budget = read_budget(options.budget) if most else None
    task = _task(options)
    show(task.described)
    variants, notes = _variants(options)
    for note in notes:
        show(f"note: {note}")
    try:
        with _backend(home, options.target, endpoint) as (backend, model):
            show(f"model {masked(model)}: {masked(backend.identity)}")
            held = digests(task.filesystem, task.files) if isinstance(task, Task) else task.described
            key = _key(backend.identity, options, [f"{one.direct}{one.worked}" for one in variants], held)
            prices = given if given.basis else known_prices(home, backend.identity, endpoint.model or model)
            with _running(home, key, options, model) as run_id, SampleStore(_samples(home)) as store:
                generate = Recorded(backend, store, key)
                if options.search:
                    variants = [_searched(options, generate, show)]
                adaptive: Adaptive | None = None
                if budget is not None:
                    if not backend.identity.startswith("model "):
                        rates_of(budget, prices)  # nothing is asked for dollars that nobody can count
                    adaptive = tune_controller(
                        _good(options),
                        variants[0].as_item,
                        generate,
                        options.settings,
                        most,
                        options.tune_items,
                        budget,
                        lambda: measured(prices, generate, backend.identity),
                    )
                    keep_controller(home, _kept(options, backend.identity, adaptive))
                    strategies = [*strategies, adaptive.strategy]
                keep = Keeper(home, run_id, key, masked(model))
                tallies, rejected = _all(options, strategies, variants, generate, keep, told, adaptive)
                ledger = store.ledger(key)
                keep.samples(store)
                prices = measured(prices, generate, backend.identity)
                usd = dollars(tallies, prices)
                keep.metrics(tallies, usd)
            _mirror(home, run_id, key, show)
    except EndpointError as error:
        raise ConfigError(masked(str(error))) from None
    for bad in rejected[:5]:
        show(f"rejected: {bad.file}{f':{bad.line}' if bad.line else ''}: {bad.reason}")
    extra = list(getattr(backend, "notes", ()))
    count = len(tallies[0].right)
    return EvaluationResult(
        run_id,
        key,
        model,
        count,
        len(rejected),
        tallies,
        usd,
        prices,
        ledger,
        generate.asked,
        generate.found,
        extra,
        adaptive,
    )


def _task(options: TaskOptions, path: str = "") -> Any:
    from components.reasoning.task_files.formats import Columns
    from components.reasoning.task_files.generated import GYM, open_generated
    from components.reasoning.task_files.reading import open_task

    path = path or options.task
    if path.startswith(GYM):
        return open_generated(path, options.settings.seed, options.limit)
    columns = Columns(options.question, options.answer, options.cluster)
    return open_task(path, options.format, columns, options.scorer)


def _good(options: TaskOptions) -> Iterator[TaskItem]:
    return (one for one in _task(options).items() if not isinstance(one, Quarantined))


def _kept(options: TaskOptions, identity: str, adaptive: Adaptive) -> Kept:
    """What serving needs to answer as the controller was tuned."""
    scorer = next(_good(options)).scorer.name
    return Kept(
        identity,
        options.task,
        scorer,
        options.direct_template,
        options.worked_template,
        options.templates,
        options.settings,
        adaptive.budget,
        adaptive.most,
        adaptive.tuned,
    )


def _variants(options: TaskOptions) -> tuple[list[_Variant], list[str]]:
    """The ways to ask: one, or with `sensitivity` every wording, and every order of the examples."""
    from components.reasoning.prompting.examples import Pool, choose_examples
    from components.reasoning.prompting.templates import template, wordings
    from components.reasoning.task_files.asking import as_item

    if options.search and (options.sensitivity or options.shots):
        raise ConfigError("--search looks for one wording without examples: leave out --sensitivity and --shots")
    file = Path(options.templates) if options.templates else None
    direct = template(options.direct_template, "direct", file)
    worked = template(options.worked_template, "cot", file)
    notes = [f"wordings {direct.label}, {worked.label}"]
    examples: Callable[[TaskItem], Sequence[TaskItem]] = lambda item: ()  # noqa: E731 - where there are none
    if options.shots:
        source = options.shots_from or options.task
        found = (one for one in _task(options, source).items() if not isinstance(one, Quarantined))
        pool = Pool.of(list(itertools.islice(found, POOL)))
        if options.shots_by not in ("random", "similar", "diverse"):
            raise ConfigError(f"--shots-by {options.shots_by}: takes random, similar or diverse")
        if len(pool.items) <= options.shots:
            raise ConfigError(f"--shots {options.shots}: {source} has {len(pool.items)} items to choose from")
        examples = choose_examples(pool, options.shots, options.shots_by, options.settings.seed)  # type: ignore[arg-type]
        origin = f"{options.shots_by} ones of the first {len(pool.items)} items of {source}"
        notes.append(f"{options.shots} examples before each question, {origin}, never itself or of its cluster")
        if not any(one.worked for one in pool.items):
            notes.append("the examples have no worked solutions: they show their answers alone")
    if not options.sensitivity:
        return [_Variant("", "", lambda one: as_item(one, direct, worked, examples))], notes
    variants = []
    for first, second in itertools.zip_longest(wordings("direct", file), wordings("cot", file)):
        put = partial(as_item, direct=first or direct, worked=second or worked, examples=examples)
        at_once, in_steps = (f"[{one.name}]" if one else None for one in (first, second))
        variants.append(_Variant(at_once, in_steps, put))
    for order in range(1, ORDERS + 1) if options.shots > 1 else ():
        put = partial(as_item, direct=direct, worked=worked, examples=_shuffled(examples, order))
        variants.append(_Variant(f"[order {order}]", f"[order {order}]", put))
    return variants, notes


def _searched(options: TaskOptions, generate: Recorded, show: Show) -> _Variant:
    """The wording that the first items of the task decide for; they are not evaluated."""
    from components.reasoning.endpoints.recorded import Meter
    from components.reasoning.prompting.search import SearchConfig, search_instruction
    from components.reasoning.prompting.templates import template
    from components.reasoning.task_files.asking import as_item

    items = list(itertools.islice(_good(options), options.search_items))
    meter, config = Meter(generate), SearchConfig(rounds=options.search, seed=options.settings.seed)
    for turn, found in enumerate(search_instruction(meter, items, config, options.settings.max_tokens)):
        best = found[0]
        show(f"search, round {turn}: {best.accuracy:.1%} of {len(items)} items with {best.instruction!r}")
    show(
        f"search: {len(found)} instructions, {meter.calls} requests, {meter.prompt_tokens} prompt tokens as billed, "
        f"{meter.completion_tokens} generated; its {len(items)} items are left out below"
    )
    direct = template(options.direct_template, "direct", Path(options.templates) if options.templates else None)
    return _Variant("", "", partial(as_item, direct=direct, worked=best.wording))


def _shuffled(
    examples: Callable[[TaskItem], Sequence[TaskItem]], order: int
) -> Callable[[TaskItem], Sequence[TaskItem]]:
    def another(item: TaskItem) -> Sequence[TaskItem]:
        found = list(examples(item))
        random.Random(f"order-{order}").shuffle(found)
        return found

    return another


@contextlib.contextmanager
def _backend(home: Home, target: str, endpoint: EndpointOptions) -> Iterator[tuple[Backend, str]]:
    """The model of that name or path, or what answers at an address; and what tables call it."""
    if urlsplit(target).scheme in ("http", "https"):
        from components.reasoning.endpoints.client import Endpoint, EndpointSettings

        if endpoint.api not in ("chat", "completions"):
            raise ConfigError(f"--api {endpoint.api}: takes chat or completions")
        how = {**asdict(endpoint), "url": target, "model": endpoint.model}
        if not endpoint.model:
            with Endpoint(EndpointSettings(**how)) as asking:
                names = asking.models()
            if len(names) != 1:
                there = ", ".join(names[:8]) or "none"
                raise ConfigError(f"{masked(target)} has {len(names)} models ({there}): name one with --model")
            how["model"] = names[0]
        with Endpoint(EndpointSettings(**how)) as found:
            yield found, how["model"]
        return
    from components.reasoning.endpoints.local import LocalModel
    from flows.runs.models import open_model

    opened = open_model(home, target)
    yield LocalModel(opened.model, opened.tokenizer), opened.name


def _key(identity: str, options: TaskOptions, marks: Sequence[str], held: object) -> str:
    """Of the evaluation: what its answers follow from, so that one that was killed is the same one. held: what the task
    holds."""
    shaped = {name: value for name, value in asdict(options).items() if name != "target"}
    return fingerprint.digest([identity, json.dumps([shaped, held], default=str), list(marks)])[:32]


def _samples(home: Home) -> Path:
    return home.local / "samples" / "samples.db"


def _all(
    options: TaskOptions,
    strategies: Sequence[Strategy],
    variants: Sequence[_Variant],
    generate: Recorded,
    keep: Keeper,
    told: Callable[[str, int], None],
    adaptive: Adaptive | None,
) -> tuple[list[Tally], list[Quarantined]]:
    from components.reasoning.evaluation import evaluate
    from components.reasoning.tally import Tally

    tallies: list[Tally] = []
    rejected: list[Quarantined] = []
    for variant in variants:
        mine = variant.named(strategies)
        if not mine:
            continue
        fresh = {one.name: Tally(one) for one in mine}
        rejected = []

        def good(rejected: list[Quarantined] = rejected) -> Iterator[TaskItem]:
            for one in _task(options).items():
                if isinstance(one, Quarantined):
                    rejected.append(one)
                else:
                    yield one

        skipped = options.search_items if options.search else adaptive.skipped if adaptive else 0
        asked = itertools.islice(good(), skipped, skipped + options.limit if options.limit else None)
        for answers in evaluate(asked, variant.as_item, mine, generate, options.settings, CHUNK):
            tally = fresh[answers.strategy.name]
            tally.add(answers)
            if adaptive is not None and answers.strategy.family == adaptive.strategy.family:
                adaptive.spent.add(answers)
            keep.answers(answers)
            told(answers.strategy.name, len(tally.right))
        tallies += list(fresh.values())
    if not tallies or not tallies[0].right:
        raise SourceError(f"task {options.task}: it has no item")
    return tallies, rejected


@contextlib.contextmanager
def _running(home: Home, key: str, options: TaskOptions, model: str) -> Iterator[str]:
    """A run of one stage in `runs` and `stages`; one that is killed is entered as interrupted by the next run."""
    close_dead_runs(home)
    run_id, began = new_run_id(), now()
    name = f"{masked(model)} on {options.task.rpartition('/')[2]}"
    folder = home.local / "running" / run_id

    def event(kind: str, status: str) -> None:
        row = {"run_id": run_id, "event": kind, "status": status, "name": name, "profile": EXPERIMENT, "time": now()}
        settings = json.loads(masked(json.dumps(asdict(options), default=str)))
        home.tables.write("runs", f"{run_id}-{kind}", [{**row, "config_json": settings, "host_json": {}}])

    def stage(status: str, reason: str) -> None:
        row = {"run_id": run_id, "stage": STAGE, "label": STAGE, "key": key, "kind": "eval_report", "status": status}
        times = {"started_at": began, "ended_at": now(), "seconds": (now() - began).total_seconds()}
        rest = {"reason": reason, "facts_json": {}, "config_json": {}, "inputs_json": {}, "group": "reasoning"}
        home.tables.write("stages", f"{run_id}-{STAGE}", [{**row, **times, **rest}])

    with home.lock(f"run-{run_id}"):
        folder.mkdir(parents=True)
        event("started", "running")
        try:
            yield run_id
        except BaseException as error:
            event("ended", "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            stage("failed", masked(f"{type(error).__name__}: {error}")[:500])
            raise
        else:
            stage("ran", "asked for")
            event("ended", "completed")
        finally:
            folder.rmdir()


def _mirror(home: Home, run_id: str, key: str, show: Show) -> None:
    """The run in MLflow, with some trees as traces; LIFESPAN_EVALUATE_MLFLOW=0 leaves that to `lifespan sync`."""
    if os.environ.get("LIFESPAN_EVALUATE_MLFLOW") == "0":
        return
    from storage import traces, tracker

    try:
        tracker.migrate(home)
        if problem := tracker.sync(home, [run_id], EXPERIMENT).problem:
            show(f"note: {problem}; `lifespan sync` catches up")
        else:
            traces.show_trees(home, run_id, key, EXPERIMENT)
    except Exception as error:  # a tracker that is away ends no evaluation: the tables have it all
        show(masked(f"note: MLflow at {home.mlflow_uri} is behind: {str(error).splitlines()[0][:200]}"))
