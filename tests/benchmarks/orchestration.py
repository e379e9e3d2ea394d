"""What orchestration and tracking cost: stages of a life by `lifespan run`, beside the same functions called plainly.

Both sides run the data stages and a pretraining of `--steps` steps with the smoke profile, in fresh homes. The first
goes through workers, the store, tables, Prefect and MLflow; the second calls the stage functions one after another in
one process. Compared is the time from the first stage's start to the last one's end, without start-up, and the time
that a single stage (pretraining) takes in each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.cli import app; app()"
# The critical path runs alone; what runs beside it in a worker of its own is done before it.
CHAIN = ("prepare_corpus", "train_tokenizer", "tokenize", "pretrain")


def orchestrated(steps: int, folder: Path) -> dict[str, float]:
    """Seconds of each stage, and of the whole chain, of a run with everything on."""
    settings = ["--set", f"pretrain.num_steps={steps}", "--set", "compute.workers=1"]
    command = [sys.executable, "-c", PROGRAM, "run", "smoke", "--only", "pretrain", *settings]
    subprocess.run(command, env={**os.environ, "LIFESPAN_HOME": str(folder)}, check=True, stdout=subprocess.DEVNULL)
    from storage.home import Home
    from storage.queries import query

    rows = query(Home(folder), "SELECT label, started_at, ended_at, seconds FROM stages").to_pylist()
    chain = [row for row in rows if row["label"] in CHAIN]
    whole = max(row["ended_at"] for row in chain) - min(row["started_at"] for row in chain)
    return {"whole": whole.total_seconds(), **{row["label"]: row["seconds"] for row in chain}}


def plainly(steps: int, folder: Path) -> dict[str, float]:
    """The same stage functions, called in order in a process of their own."""
    command = [sys.executable, __file__, "--plainly", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def call_plainly(steps: int, folder: Path) -> dict[str, float]:
    import torch

    from flows.config import load_config
    from flows.graph import artifacts_in, assemble
    from flows.lifecycle import lifecycle_graph
    from flows.work import Work
    from storage.artifacts import Artifact

    torch.set_num_threads(1)
    cfg = load_config("smoke", [f"pretrain.num_steps={steps}"])
    graph = assemble(lifecycle_graph, cfg)
    folders: dict[str, Path] = {}

    class Plain(Work):
        def open(self, artifact: Artifact) -> Path:
            return folders[artifact.key]

    # What any run has imported before its first stage begins.
    import components.data.pipeline
    import components.training.language_model  # noqa: F401

    seconds: dict[str, float] = {}
    began = time.perf_counter()
    for label in CHAIN:
        node = graph.nodes[label]
        assert all(handle.key in folders for handle in artifacts_in(node.bound.inputs))
        out = folder / label
        out.mkdir(parents=True)
        start = time.perf_counter()
        node.stage.fn(Plain(out, folder / "state" / label, cfg.compute), **node.bound.settings, **node.bound.inputs)
        seconds[label] = time.perf_counter() - start
        folders[node.key] = out
    return {"whole": time.perf_counter() - began, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plainly", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plainly:
        print(json.dumps(call_plainly(options.steps, options.plainly)))
        return
    sides: dict[str, list[dict[str, float]]] = {"orchestrated": [], "plain": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as place:
            sides["orchestrated"].append(orchestrated(options.steps, Path(place) / "home"))
            sides["plain"].append(plainly(options.steps, Path(place) / "plain"))
    print(f"{'seconds (medians)':24}{'orchestrated':>14}{'plain':>10}{'ratio':>8}")
    for what in ("whole", *CHAIN):
        ours, theirs = (statistics.median(found[what] for found in sides[side]) for side in ("orchestrated", "plain"))
        print(f"{what:24}{ours:14.2f}{theirs:10.2f}{ours / theirs:8.3f}")


if __name__ == "__main__":
    main()
