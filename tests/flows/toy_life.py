"""Toy stages for the tests of the platform: numbers instead of models."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.engine.stage import stage
from flows.engine.work import Work
from flows.settings import Settings
from storage.artifacts import Artifact


class ToyConfig(Settings):
    """A life with nothing but what every run has."""


@dataclass(frozen=True)
class Counting:
    upto: int = 3
    pause: float = 0.0


@dataclass(frozen=True)
class Counted:
    num_tokens: int


@dataclass(frozen=True)
class Total:
    total: float


@dataclass(frozen=True)
class Trained:
    resumed_at: int
    w: float | None = None


@stage(produces="corpus", group="data")
def count(work: Work, *, config: Counting, seed: int = 0) -> Counted:
    """Writes the numbers below `upto`."""
    for step in range(config.upto):
        work.log(step, {"number": float(step + seed)})
        work.progress(step + 1, config.upto, tokens=step)
        time.sleep(config.pause)
    (work.out / "numbers.json").write_text(json.dumps(list(range(config.upto))))
    work.usage(tokens=config.upto, flops=10.0)
    return Counted(config.upto)


@stage(produces="checkpoint", group="pretraining")
def scale(work: Work, *, numbers: Artifact, factor: float) -> Total:
    values = json.loads((work.open(numbers) / "numbers.json").read_text())
    assert numbers.facts["num_tokens"] == len(values)
    (work.out / "numbers.json").write_text(json.dumps([factor * value for value in values]))
    return Total(factor * sum(values))


@stage(produces="report", group="report")
def total(work: Work, *, parts: list[Artifact]) -> Total:
    whole = sum(part.facts["total"] for part in parts)
    (work.out / "report.html").write_text(f"<p>{whole}</p>")
    return Total(whole)


@stage(produces="checkpoint", group="pretraining")
def train(work: Work, *, steps: int, fuse: str = "", mode: str = "", pause: float = 0.0) -> Trained:
    """Sums step numbers in a tensor, saving a state each step; at half-way, if the fuse file exists, it blows up."""
    import torch

    done, weights = 0, torch.zeros(1)
    if state := work.load_state():
        done, weights = state[0], state[1]["w"]
    resumed_at = done
    while done < steps:
        if done == steps // 2 and fuse and Path(fuse).exists():
            Path(fuse).unlink()
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if mode == "segv":
                print("about to crash", flush=True)
                os.kill(os.getpid(), signal.SIGSEGV)
            if mode == "value":
                raise ValueError("line 3 of stories.jsonl is not JSON: fix it or set data.skip_broken=true")
            raise RuntimeError("a bug")
        weights = weights + done
        done += 1
        work.log(done, {"w": float(weights)})
        work.usage(tokens=1)
        work.save_state(done, {"w": weights}, {"note": "hello"})
        work.progress(done, steps, tokens=done, loss=1.0 / done)
        time.sleep(pause)
    (work.out / "w.json").write_text(str(float(weights)))
    return Trained(resumed_at, float(weights))


@stage(produces="checkpoint", group="pretraining")
def train_long(work: Work, *, steps: int) -> Trained:
    """Counts steps, and saves a state only when it is due."""
    import torch

    state = work.load_state()
    done = resumed_at = state[0] if state else 0
    while done < steps:
        done += 1
        work.log(done, {"w": float(done)})
        if work.state_due():
            work.save_state(done, {"w": torch.zeros(1)}, {})
        if done == 20 and not resumed_at:
            work.progress(done, steps)
            time.sleep(0.5)
        if not resumed_at:
            time.sleep(0.02)
    (work.out / "w.json").write_text(str(done))
    return Trained(resumed_at)


def toy_graph(cfg: Any, run: Any) -> None:
    numbers = count.submit(run, config=Counting(cfg.seed + 3))
    parts = [scale.submit(run, label=f"scale[factor={f}]", numbers=numbers, factor=f) for f in (1.0, 2.0)]
    total.submit(run, parts=parts)
