"""How many workers of how many threads train fastest on this machine: measured once, kept in the user's cache folder.

Small models gain from processes side by side, large ones from threads within one process.
`python -m flows.engine.autotune WIDTH` is one of the processes that are timed: a line "threads seconds" on stdin,
tokens per second on stdout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.settings import ComputeConfig

MOST_WORKERS = 4  # about as many stages as a life has ready at a time
SECONDS = 0.4
WIDTH = 64  # d_model of the models that train, where nobody says


def settled(compute: ComputeConfig, width: int, say: Callable[[str], object]) -> ComputeConfig:
    """The same settings with `workers` and `threads_per_worker` chosen, where workers is -1.

    Args:
        width: d_model of the models that will train.
        say: told of the choice.
    """
    if compute.workers >= 0:
        return compute
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = [(workers, cores // workers) for workers in (1, 2, MOST_WORKERS) if workers <= cores]
    kept = _cache() / f"pace-{_known_by(cores, width)}.json"
    rates: list[float] = []
    with contextlib.suppress(OSError, ValueError):
        rates = json.loads(kept.read_text(encoding="utf-8"))
    if len(rates) != len(options):
        say("measuring how many workers are fastest")
        try:
            rates = measure(options, width) if len(options) > 1 else [1.0]
        except (OSError, ValueError, subprocess.SubprocessError):  # take what small models are fastest with
            rates = [float(workers) for workers, _ in options]
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{kept.name}.{os.getpid()}")
            part.write_text(json.dumps(rates), encoding="utf-8")
            part.replace(kept)
    workers, threads = max(zip(rates, options, strict=True))[1]
    if len(options) > 1:
        shown = ", ".join(f"{w}x{t} {rate:,.0f}" for rate, (w, t) in zip(rates, options, strict=True))
        say(f"{workers} worker{'s' * (workers > 1)} x {threads} thread{'s' * (threads > 1)} (tokens/s: {shown})")
    return dataclasses.replace(compute, workers=workers, threads_per_worker=threads)


def measure(options: list[tuple[int, int]], width: int) -> list[float]:
    """Tokens per second of all workers together, by (workers, threads)."""
    most = max(workers for workers, _ in options)
    command = [sys.executable, "-m", "flows.engine.autotune", str(width)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(most)
    ]

    def ask(workers: int, threads: int) -> float:
        for child in children[:workers]:
            assert child.stdin
            child.stdin.write(f"{threads} {SECONDS}\n")
            child.stdin.flush()
        return sum(float(child.stdout.readline()) for child in children[:workers] if child.stdout)

    try:
        for child in children:  # all have imported and built before the first is timed
            if child.stdout and child.stdout.readline() != "ready\n":
                raise ValueError("a process that was to be timed has ended")
        return [ask(*option) for option in options]
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifespan"


def _known_by(cores: int, width: int) -> str:
    return hashlib.sha256(f"{platform.node()} {platform.processor()} {cores} {width}".encode()).hexdigest()[:16]


def main() -> None:
    import torch

    from components.model.config import ModelConfig
    from components.model.transformer import Transformer
    from components.training.config import TrainConfig
    from components.training.language_model import LMBatch, train
    from components.training.optimizers import Optimizer

    config = TrainConfig(num_steps=10**9, batch_size=8)
    heads = max(1, int(sys.argv[1]) // 32)
    model = Transformer(ModelConfig(d_model=int(sys.argv[1]) // (2 * heads) * 2 * heads, num_heads=heads))
    rows = torch.randint(0, 512, (8, 129), generator=torch.Generator().manual_seed(0))
    batch = LMBatch(rows[:, :-1], rows[:, 1:])
    steps = train(model, Optimizer(model, config.optimizer), config, lambda step: batch)
    next(steps)
    print("ready", flush=True)
    for line in sys.stdin:
        threads, seconds = line.split()
        torch.set_num_threads(int(threads))
        began, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < float(seconds) or not count:
            next(steps)
            count += 1
        print(count * rows.shape[0] * 128 / spent, flush=True)


if __name__ == "__main__":
    main()
