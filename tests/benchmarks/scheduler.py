"""A sweep of 10,000 stages over 1,000 workers through the scheduler of a run: seconds per stage, and how they grow.

    python tests/benchmarks/scheduler.py [--stages 10000] [--seats 1000]

Graph, priorities, runner, pool and seats' threads are those of every run. The stages alone are not real: a seat answers
at once, and neither artifacts nor rows are written, so that what is measured is the deciding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flows.engine import runner as engine
from flows.engine.graph import Graph, assemble
from flows.engine.progress import Board
from flows.engine.runner import Runner
from flows.engine.stage import stage
from flows.engine.wire import Job
from flows.engine.work import Work
from flows.engine.workers import SeatPool
from flows.settings import ComputeConfig
from storage.artifacts import Artifact
from storage.home import Home


@dataclass(frozen=True)
class Nothing:
    """What a stage of the sweep finds."""

    value: float = 0.0


@dataclass(frozen=True)
class Sweep:
    """Half of the stages train, half score one training each, and one fits them all."""

    stages: int
    compute: ComputeConfig = field(default_factory=lambda: ComputeConfig(workers=1))


@stage(produces="checkpoint", group="scaling")
def train(work: Work, *, seed: int) -> Nothing:
    """One training."""
    return Nothing()


@stage(produces="evaluation", group="scaling")
def score(work: Work, *, trained: Artifact) -> Nothing:
    """Its score."""
    return Nothing()


@stage(produces="scaling_law", group="scaling")
def fit(work: Work, *, scores: list[Artifact]) -> Nothing:
    """All scores."""
    return Nothing()


def sweep(cfg: Sweep, run: Graph) -> None:
    """The assembly."""
    scores = []
    for number in range(cfg.stages // 2):
        trained = train.submit(run, label=f"train[{number}]", seed=number)
        scores.append(score.submit(run, label=f"score[{number}]", trained=trained))
    fit.submit(run, scores=scores)


class InstantSeat:
    """A seat whose stages take no time."""

    node, log = "", None

    def ready(self, seconds: float) -> bool:
        """Always."""
        return True

    def alive(self) -> bool:
        """Always."""
        return True

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        """Ends at once."""
        made = Artifact("checkpoint", job.key, {"usage": dict.fromkeys(USAGE, 0.0)})
        yield {"event": "done", "artifact": made.to_json()}

    def ask(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""

    def close(self, seconds: float) -> None:
        """Nothing is held."""


USAGE = ("seconds", "cpu_seconds", "tokens", "prompt_tokens", "generated_tokens", "flops", "flops_6nd")


@dataclass
class InstantSeats:
    """So many of them."""

    size: int
    eager: bool = True

    def kind(self, job: Job | None) -> Hashable:
        """All alike."""
        return None

    def count(self, kind: Hashable) -> int:
        """All of them."""
        return self.size

    def missing(self, kind: Hashable) -> str:
        """Nothing."""
        return ""

    def open(self, kind: Hashable, number: int) -> InstantSeat:
        """One more."""
        return InstantSeat()

    def close(self) -> None:
        """Nothing is held."""


class Deciding(Runner):
    """A runner that decides everything and writes nothing."""

    def _write_row(self, node: Any, outcome: Any, **ended: str) -> None:
        """No row."""

    def _turn(self, node: Any) -> Any:  # no lock: nobody else is in this home
        import contextlib

        return contextlib.nullcontext()


def seconds_of(stages: int, seats: int) -> tuple[float, float]:
    """Seconds to assemble the graph, and to bring all stages to their end."""
    began = time.perf_counter()
    cfg = Sweep(stages=stages)
    graph = assemble(sweep, cfg)
    assembled = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        home = Home(folder)
        pool = engine.open_pool
        engine.open_pool = lambda compute, home, run, events, modules: SeatPool(InstantSeats(seats), events)  # type: ignore[assignment]
        home.store.find = lambda key: None  # type: ignore[method-assign]
        try:
            made = Deciding(graph, home, "run", cfg.compute, Board("sweep"), "sweep")
            made.waste.made = lambda *_: None  # type: ignore[method-assign]
            began = time.perf_counter()
            made.start()
            made.wait("fit", timeout=600)
            assert made.finished.wait(60) and not made.failures()
            return assembled, time.perf_counter() - began
        finally:
            engine.open_pool = pool


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--seats", type=int, default=1_000)
    asked = parser.parse_args()
    print(f"{'stages':>8} {'seats':>6} {'graph ms/stage':>15} {'deciding ms/stage':>18}")
    for stages in (asked.stages // 4, asked.stages):
        assembled, took = seconds_of(stages, asked.seats)
        print(f"{stages:>8} {asked.seats:>6} {1e3 * assembled / stages:>15.3f} {1e3 * took / stages:>18.3f}")


if __name__ == "__main__":
    main()
