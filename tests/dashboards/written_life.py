"""The rows of one run, as its stages would write them into a home. Every draw is seeded."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Mapping
from typing import Any

from components.reasoning.strategy import Strategy
from components.statistics import wilson
from storage.home import Home

START = datetime.datetime(2026, 3, 2, 9, 30, tzinfo=datetime.UTC)


class Life:
    """Collects the rows of one run and writes them, stage by stage, into a home."""

    def __init__(
        self,
        home: Home,
        run_id: str = "run-1",
        name: str = "laptop · clever-heron",
        began: datetime.datetime = START,
    ) -> None:
        self.home, self.run_id = home, run_id
        self.clock = began
        self.random = random.Random(7)
        self.stages: list[dict[str, Any]] = []
        home.tables.write("runs", f"{run_id}-started", [self._event("started", "running", name=name)])

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
        group: str,
        seconds: float,
        facts: Mapping[str, Any],
        *,
        kind: str = "checkpoint",
        status: str = "ran",
        reason: str = "",
        key: str = "",
        cost: bool = True,
        **tables: list[dict[str, Any]],
    ) -> str:
        """A stage with the rows that it wrote into `tables`; returns its key."""
        stage, key = label.split("[")[0], key or f"{len(self.stages):02d}{'ab12' * 15}{self.run_id[-2:]}"
        began, self.clock = self.clock, self.clock + datetime.timedelta(seconds=seconds)
        self.stages.append(
            {
                "run_id": self.run_id,
                "stage": stage,
                "label": label,
                "key": key,
                "kind": kind,
                "status": status,
                "reason": reason,
                "started_at": began,
                "ended_at": self.clock,
                "seconds": seconds,
                "group": group,
                "facts_json": dict(facts),
            }
        )
        if cost and status == "ran":
            tables["costs"] = [
                {
                    "stage": stage,
                    "group": group,
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
            self.home.tables.write(table, key, [{**named, **row} for row in rows])
        return key

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
        strategy: Strategy,
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
                    **strategy.columns(),
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
