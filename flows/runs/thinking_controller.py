"""The adaptive controller of a model: tuned on the first items of a task, kept in the home, read again to serve."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from components.reasoning.evaluation import EvaluationSettings
from flows.runs.token_prices import Prices
from flows.settings import ConfigError
from storage import fingerprint
from storage.durable import replacing
from storage.home import Home

if TYPE_CHECKING:
    from components.inference.text import Generate
    from components.reasoning.controller import Controller, Point, Rates, Tuned
    from components.reasoning.controller_report import Spent
    from components.reasoning.items import Item
    from components.reasoning.serving import ServedController
    from components.reasoning.strategy import Strategy
    from components.reasoning.task_files.reading import TaskItem
    from flows.runs.models import OpenedModel

NAME = "auto"
VOTES = 9  # of `auto` without a number
MAX_VOTES = 65
_BUDGET = re.compile(r"(\$?)\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*([a-z]*)", re.IGNORECASE)
_UNITS = {
    **dict.fromkeys(("tok", "token", "tokens"), "tokens"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "seconds"),
    **dict.fromkeys(("usd", "dollar", "dollars"), "usd"),
}


@dataclass(frozen=True)
class Budget:
    """What a question may cost on average."""

    amount: float
    unit: Literal["tokens", "seconds", "usd"]

    def __str__(self) -> str:
        return f"${self.amount:g}" if self.unit == "usd" else f"{self.amount:g} {self.unit}"


def read_budget(text: str) -> Budget:
    """ "600tokens", "2s", "0.001usd", "$0.001". Raises ConfigError for anything else."""
    found = _BUDGET.fullmatch(text.strip())
    unit = _UNITS.get("usd" if found[1] else found[3].lower()) if found and not (found[1] and found[3]) else None
    if found is None or unit is None or float(found[2]) <= 0:
        raise ConfigError(f"--budget {text!r}: write what a question may cost, as 600tokens, 2s or 0.001usd")
    return Budget(float(found[2]), cast("Any", unit))


def votes_of(names: Iterable[str]) -> int:
    """The votes that `auto` or `auto@k` among the names may take; 0 where neither is there. Raises ConfigError."""
    most = 0
    for name in names:
        word, at, size = name.partition("@")
        if word != NAME:
            continue
        if most:
            raise ConfigError("--strategy names auto twice")
        if at and not (size.isdigit() and 3 <= int(size) <= MAX_VOTES):
            raise ConfigError(f"--strategy {name}: auto takes from 3 to {MAX_VOTES} votes")
        most = int(size) if at else VOTES
    return most


def rivals(names: Sequence[str], most: int) -> list[str]:
    """The fixed strategies that an adaptive one is compared with: those given and every rung of its ladder. Votes of
    more samples first, so that those of fewer find theirs."""
    from components.reasoning.controller import rungs_to

    given = [name for name in names if name.partition("@")[0] != NAME]
    rungs = ["direct", "cot", *(f"sc@{size}" for size in sorted(rungs_to(most)[2:], reverse=True))]
    return [*given, *(name for name in rungs if name not in given)]


def rates_of(budget: Budget, prices: Prices) -> Rates:
    """Raises ConfigError for dollars where nobody knows what tokens cost."""
    from components.reasoning.controller import Rates

    if budget.unit == "tokens":
        return Rates("tokens", 1.0, 1.0, 0.0)
    if budget.unit == "seconds":
        return Rates("seconds", 0.0, 0.0, 1.0)
    if prices.prompt is None or prices.completion is None:
        raise ConfigError(f"--budget {budget}: {prices.basis}; or give it in tokens or seconds")
    return Rates("usd", prices.prompt / 1e6, prices.completion / 1e6, 0.0)


@dataclass
class Adaptive:
    """A tuned controller in an evaluation. skipped: items that it was tuned on, which are not reported."""

    budget: Budget
    tuned: Tuned
    controller: Controller
    point: Point
    most: int
    skipped: int
    spent: Spent = field(repr=False)

    @property
    def strategy(self) -> Strategy:
        """As evaluations run it."""
        from components.reasoning.strategies.auto import auto

        return auto(self.controller, self.tuned.rates, self.most)


def tune_controller(
    items: Iterable[TaskItem],
    as_item: Callable[[TaskItem], Item],
    generate: Generate,
    settings: EvaluationSettings,
    most: int,
    count: int,
    budget: Budget,
    prices: Callable[[], Prices],
) -> Adaptive:
    """On the first `count` items. prices: asked for when the samples are there. Raises ConfigError."""
    from components.reasoning.controller import tune
    from components.reasoning.controller_report import Spent
    from components.reasoning.strategies.adaptive import drawn_from
    from components.reasoning.strategy import Trial

    chosen = [as_item(one) for one in itertools.islice(items, count)]
    if len(chosen) < count:
        raise ConfigError(f"--tune-items {count}: the task has {len(chosen)} items, and others must be left to report")
    trial = Trial(
        generate,
        chosen,
        num_samples=most,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        max_direct_tokens=settings.max_direct_tokens or settings.max_tokens,
        seed=settings.seed,
    )
    drawn = drawn_from(trial)
    try:
        tuned = tune(drawn, most, rates_of(budget, prices()))
    except ValueError as error:
        raise ConfigError(f"--tune-items: {error}") from None
    controller, point = tuned.within(budget.amount)
    return Adaptive(budget, tuned, controller, point, most, count, Spent())


# -- kept in the home --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A controller of a model. direct, worked: names of the wordings, from the file `templates` ("": ours). scorer: how
    it finds answers, to compare them. settings: of its requests."""

    identity: str
    task: str
    scorer: str
    direct: str
    worked: str
    templates: str
    settings: EvaluationSettings
    budget: Budget
    most: int
    tuned: Tuned


def controller_file(home: Home, identity: str) -> Path:
    """Of a model, by the digest of its weights and vocabulary."""
    return home.local / "controllers" / f"{fingerprint.digest(identity)[:16]}.json"


def keep_controller(home: Home, kept: Kept) -> Path:
    """Write it, in place of an older one of the model."""
    from components.reasoning.controller import as_json

    file = controller_file(home, kept.identity)
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {
        **vars(kept),
        "settings": asdict(kept.settings),
        "budget": asdict(kept.budget),
        "tuned": as_json(kept.tuned),
    }
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(held, indent=1), encoding="utf-8")
    return file


def kept_controller(home: Home, identity: str, name: str) -> Kept:
    """That of a model. Raises ConfigError where none was tuned, or the file cannot be read."""
    from components.reasoning.controller import from_json

    file = controller_file(home, identity)
    if not file.exists():
        raise ConfigError(
            f"--reasoning auto: no controller was tuned for {name}: "
            f"`lifespan evaluate {name} --task FILE --strategy auto --budget 600tokens` tunes one and keeps it"
        )
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        settings, budget = EvaluationSettings(**held["settings"]), Budget(**held["budget"])
        rest = {key: held[key] for key in ("identity", "task", "scorer", "direct", "worked", "templates", "most")}
        return Kept(**rest, settings=settings, budget=budget, tuned=from_json(held["tuned"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: {error}: it is no controller; tune it again or remove the file") from None


def served_controller(home: Home, opened: OpenedModel, budget: str) -> tuple[ServedController, str]:
    """The controller that was tuned for a model, at a budget ("": that of its tuning), and a line that says so. Raises
    ConfigError."""
    from components.reasoning.endpoints.local import digest_of
    from components.reasoning.prompting.templates import template
    from components.reasoning.serving import ServedController

    kept = kept_controller(home, f"model {digest_of(opened.model, opened.tokenizer)}", opened.name)
    allowed = read_budget(budget) if budget else kept.budget
    if allowed.unit != kept.budget.unit:
        raise ConfigError(f"--budget {budget}: the controller was tuned in {kept.budget.unit}: give it in these")
    controller, point = kept.tuned.within(allowed.amount)
    file = Path(kept.templates) if kept.templates else None
    direct, worked = template(kept.direct, "direct", file), template(kept.worked, "cot", file)
    told = (
        f"reasoning: for {allowed} a question, tuned on {kept.tuned.num_items} items of {kept.task}; expected there: "
        f"{point.accuracy:.1%} at {point.cost:.4g} {allowed.unit}"
    )
    return ServedController(controller, kept.scorer, direct, worked, kept.settings), told
