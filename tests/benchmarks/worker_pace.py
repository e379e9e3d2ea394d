"""Tokens per second of worker processes side by side, each with its threads: `measure`.

As a script with a width it is one of the processes that are timed: a line "threads seconds" on stdin, tokens per second
on stdout.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

SECONDS = 0.4


def measure(options: list[tuple[int, int]], width: int) -> list[float]:
    """Tokens per second of all workers together, by (workers, threads)."""
    most = max(workers for workers, _ in options)
    command = [sys.executable, __file__, str(width)]
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
