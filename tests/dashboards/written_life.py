"""A life for the report to tell: real rows of a smoke life, with values that a test chooses and no name of its own.

Every stage, fact, metric, detail and strategy must be one that the smoke life wrote, or stand in `ELSEWHERE` with where
it comes from: a name that no stage writes is refused here, as nobody could ever read it.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import math
import pkgutil
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from smoke_life import SmokeLife

import flows.stages
from components.stage_results import fact_names, from_facts
from components.statistics import wilson
from flows.engine.stage import Stage
from storage.home import Home
from storage.queries import query

START = datetime.datetime(2026, 3, 2, 9, 30, tzinfo=datetime.UTC)

# Metrics that a smoke life does not write, by where they come from.
ELSEWHERE = {
    "skipped": "a step whose loss was not finite",
    "skipped_steps": "a step whose loss was not finite",
    "restored_step": "a step after which the guard went back",
    "rate_factor": "a step after which the guard went back",
    # The smoke life trains for fewer than 20 steps on facts.
    "tokens_per_second": "every 20th step on facts",
}


# The columns that say which row of a table it is: what a stage writes there decides what else the row can hold.
NAMED_BY = {
    "evals": ("suite", "strategy"),
    "scaling_points": ("sweep", "variant"),
    "scaling_fits": ("sweep", "law", "parameter"),
    "forgetting": ("unit",),
}


@cache
def stages_by_name() -> dict[str, Stage]:
    """Every stage in flows/stages."""
    names = [one.name for one in pkgutil.iter_modules(flows.stages.__path__)]
    modules = [importlib.import_module(f"flows.stages.{name}") for name in names]
    found = [thing for module in modules for thing in vars(module).values() if isinstance(thing, Stage)]
    return {stage.name: stage for stage in found}


@dataclass(frozen=True, eq=False)
class RealRows:
    """What the smoke life wrote, by the names under which it is read."""

    life: SmokeLife

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table, of the first run alone."""
        mine = {"run": self.life.run_id}
        return list(query(self.life.home, f"SELECT * FROM {name} WHERE run_id = $run", mine).to_pylist())

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        return self.table("stages")

    @cached_property
    def metrics(self) -> set[tuple[str, str]]:
        """(stage, name) of every metric."""
        return {(row["stage"], row["name"]) for row in self.table("metrics")}

    @cached_property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Tables whose rows tests choose values of."""
        names = ("evals", "scaling_points", "scaling_fits", "forecasts", "forgetting", "preferences", "samples")
        return {name: self.table(name) for name in names}

    def stage(self, label: str) -> dict[str, Any]:
        """The real stage of that label, else one whose label begins alike (`ppo[…]`), else one of that name."""
        head = label.split("[")[0]
        for found in (
            [row for row in self.stages if row["label"] == label],
            [row for row in self.stages if row["label"].split("[")[0] == head],
            [row for row in self.stages if row["stage"] == head],
        ):
            if found:
                return found[0]
        raise KeyError(f"no stage is labelled {label}; the smoke life has {sorted(r['label'] for r in self.stages)}")

    def row(self, table: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """A real row of the table, like what is chosen in what names it, with the chosen values in place."""
        like = self._like(table, tuple(chosen.get(name) for name in NAMED_BY.get(table, ())))
        real = {name: value for name, value in like.items() if name not in ("run_id", "key", "stage", "part")}
        written = {name: json.loads(real[name]) for name in real if name.endswith("_json") and real[name]}
        for name, value in chosen.items():
            if name == "details_json" and isinstance(value, Mapping):
                if unknown := value.keys() - written[name].keys():
                    raise KeyError(f"no details of {table} are called {sorted(unknown)}")
                real[name] = {**written[name], **value}
            else:
                real[name] = value
        return real

    @cache  # noqa: B019 - one object a session
    def _like(self, table: str, chosen: tuple[Any, ...]) -> dict[str, Any]:
        """The first real row that has these values in the columns that name a row; None: any."""
        pairs = list(zip(NAMED_BY.get(table, ()), chosen, strict=True))
        for asked in (pairs, pairs[:1] if table == "scaling_points" else pairs):  # variants of a sweep are the user's
            for row in self.tables[table]:
                if all(value is None or row[name] == value for name, value in asked):
                    return row
        raise KeyError(f"no row of {table} has {dict(pairs)}")


class Life:
    """Collects the rows of one run and writes them, stage by stage, into a home."""

    def __init__(
        self,
        home: Home,
        real: RealRows,
        run_id: str = "run-1",
        name: str = "laptop · clever-heron",
        began: datetime.datetime = START,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.home, self.real, self.run_id = home, real, run_id
        self.clock = began
        self.random = random.Random(7)
        self.stages: list[dict[str, Any]] = []
        home.tables.write(
            "runs", f"{run_id}-started", [self._event("started", "running", name=name, config_json=config or {})]
        )

    def another(self, run_id: str, **config: Any) -> Life:
        """A later run of the same home, with these settings."""
        return Life(self.home, self.real, run_id, "again", began=self.clock, config=config)

    def _event(self, event: str, status: str, **more: Any) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "event": event,
            "status": status,
            "profile": "laptop",
            "time": self.clock,
            **more,
        }

    def stage(
        self,
        label: str,
        seconds: float = 1.0,
        facts: Mapping[str, Any] | None = None,
        *,
        status: str = "ran",
        reason: str = "",
        key: str = "",
        cost: bool = True,
        **tables: list[dict[str, Any]],
    ) -> str:
        """A stage with its real facts, these in place of theirs, and the rows that it wrote into `tables`; returns its
        key."""
        real = self.real.stage(label)
        made = hashlib.sha256(f"{self.run_id} {len(self.stages)}".encode()).hexdigest()
        stage, key = real["stage"], key or made
        kind = stages_by_name()[stage].hints["return"]
        if unknown := (facts or {}).keys() - fact_names(kind):
            raise KeyError(f"{stage} returns a {kind.__name__}, which has no {sorted(unknown)}")
        written = {**json.loads(real["facts_json"]), **(facts or {})}
        from_facts(kind, json.loads(json.dumps(written)))
        began, self.clock = self.clock, self.clock + datetime.timedelta(seconds=seconds)
        self.stages.append(
            {
                "run_id": self.run_id,
                "stage": stage,
                "label": label,
                "key": key,
                "kind": real["kind"],
                "status": status,
                "reason": reason,
                "started_at": began,
                "ended_at": self.clock,
                "seconds": seconds,
                "group": real["group"],
                "facts_json": written if status in ("ran", "cached") else {},
            }
        )
        if cost and status == "ran":
            tables["costs"] = [
                {
                    "stage": stage,
                    "group": real["group"],
                    "tokens": int(seconds * 4e4),
                    "flops": seconds * 3e10,
                    "seconds": seconds,
                    "cpu_seconds": seconds,
                    "energy_joules": 15 * seconds,
                    "usd": seconds * 2e-5,
                    "hardware": "two CPU cores",
                }
            ]
        for table, rows in tables.items():
            named = {"run_id": self.run_id, "key": key}
            if table in ("metrics", "evals", "samples", "costs"):
                named["stage"] = stage
            if table == "metrics":
                self._check_metrics(stage, {row["name"] for row in rows})
            if table in self.real.tables:
                rows = [self.real.row(table, row) for row in rows]
            self.home.tables.write(table, key, [{**row, **named} for row in rows])
        return key

    def _check_metrics(self, stage: str, names: set[str]) -> None:
        if unknown := {name for name in names if (stage, name) not in self.real.metrics} - ELSEWHERE.keys():
            raise KeyError(f"{stage} logs no metric {sorted(unknown)}")

    def end(self) -> None:
        self.home.tables.write("stages", self.run_id, self.stages)
        self.home.tables.write("runs", f"{self.run_id}-ended", [self._event("ended", "completed")])

    # Rows

    def curve(
        self, name: str, steps: int, value: Callable[[float], float], noise: float = 0.0, every: int = 1
    ) -> list[dict[str, Any]]:
        """Metric rows: `value` takes the share of the way, 0 to 1."""
        return [
            {"step": step, "name": name, "value": value(step / steps) + self.random.gauss(0, noise), "time": START}
            for step in range(1, steps + 1, every)
        ]

    def answers(
        self,
        suite: str,
        model: str,
        strategy: str,
        accuracy: float,
        tokens: float,
        n: int = 300,
        prompt_tokens: int = 18,
    ) -> list[dict[str, Any]]:
        """Item i is as hard for every strategy, so that pairs go together; more operations are harder."""
        rows = []
        for i in range(n):
            ease = random.Random(f"{suite}{i}").random()
            level = 1 + i % 6
            correct = ease < accuracy + 0.06 * (3.5 - level) * (0.1 < accuracy < 0.95)
            rows.append(
                {
                    "suite": suite,
                    "model": model,
                    "strategy": strategy,
                    "item_id": f"{suite}-{i}",
                    "difficulty": level,
                    "prompt": f"What is {i} + {level} - 2 * 3 ?",
                    "answer": str(i + level - 6 + (not correct)),
                    "target": str(i + level - 6),
                    "correct": correct,
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": max(1, round(tokens * (0.8 + 0.4 * level / 6))),
                }
            )
        return rows


def accuracy_facts(name: str, successes: int, n: int) -> dict[str, float]:
    x = wilson(successes, n)
    return {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high}


def judged_pairs(truth: Callable[[float], float]) -> list[dict[str, Any]]:
    """Held-out pairs of 30 requests with the margins that a reward model gave them, right as often as the log-odds
    `truth(margin)` say."""
    rows = []
    for number in range(900):
        odds = 0.2 + 3 * (number % 30) / 30
        right = (number // 30 + 0.5) / 30 < 1 / (1 + math.exp(-truth(odds)))
        request = f"request {(number * 7 + number // 30) % 30}"
        named = {"suite": "preference pairs", "strategy": "gold", "item_id": f"p{number}", "prompt": request}
        rows.append({**named, "correct": right, "score": odds if right else -odds})
    return rows


def with_bars(name: str, value: float, half: float, n: int) -> dict[str, float]:
    """The four facts of an interval."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half, f"{name}_n": n}


def compared_run(name: str, loss: float, half: float, **chosen: Any) -> dict[str, Any]:
    """A model in the comparison of a recurrent net with a transformer."""
    run = {
        "architecture": name,
        "num_params": 56_000,
        "num_params_non_embedding": 40_000,
        "num_tokens": 245_760,
        "flops_per_token": 3e5,
        "loss": loss,
        "loss_low": loss - half,
        "loss_high": loss + half,
        "n": 256,
        "products_in_a_row": 19,
    }
    return run | chosen
