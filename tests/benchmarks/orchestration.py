"""What orchestration and tracking cost: stages of a life by `lifespan run`, beside the same functions called plainly.

Both sides run the data stages and a pretraining of `--steps` steps with the smoke profile, in fresh homes. The first
goes through workers, the store, tables, Prefect and MLflow; the second calls the stage functions one after another in
one process. `pretrain` is the wall time of that stage on either side.

`beyond start-up` is processor time of every process of the run (workers, Prefect's server, MLflow's client, the
program itself) that is neither a stage's own, nor start-up, nor spent on the page. Start-up is what a run of the first
stage alone takes beside that stage, which makes the databases and starts the same processes, and what each worker
takes to import what the other stages use (torch among it). The page is what drawing the report of the whole takes more
than drawing that of the first stage alone: no part of orchestration, and told beside it.

    python tests/benchmarks/orchestration.py [--profile laptop]     the second table alone, for a whole life
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.cli import app; app()"
# The critical path runs alone; what runs beside it in a worker of its own is done before it.
CHAIN = ("prepare_corpus", "train_tokenizer", "tokenize", "pretrain")


@dataclass(frozen=True)
class Life:
    """Seconds of each stage of `CHAIN`, and processor seconds: of all, of its stages, of start-up, of the page."""

    seconds: dict[str, float]
    processor: float
    stages: float
    start_up: float
    page: float

    @property
    def share(self) -> float:
        """Orchestration and tracking beyond start-up, as a share of all."""
        return (self.processor - self.stages - self.start_up - self.page) / self.processor


def orchestrated(arguments: list[str], folder: Path) -> Life:
    """A run with everything on, and one of its first stage alone, each in a fresh home."""
    from storage.home import Home
    from storage.queries import query

    first, first_own = processor_seconds(["run", arguments[0], "--only", CHAIN[0]], folder / "first")
    used, own = processor_seconds(["run", *arguments], folder / "whole")
    rows = query(Home(folder / "whole"), "SELECT label, seconds FROM stages").to_pylist()
    seconds = {row["label"]: row["seconds"] for row in rows if row["label"] in CHAIN}
    workers = len(list((folder / "whole" / "logs").glob("*/worker-*.log")))
    later = importing([row["label"] for row in rows], arguments[0]) - importing([CHAIN[0]], arguments[0])
    page = drawing(folder / "whole") - drawing(folder / "first")
    return Life(seconds, used, own, first - first_own + workers * later, page)


def importing(labels: list[str], profile: str) -> float:
    """Processor seconds of a worker's start until all is imported that these stages use."""
    from flows.config import load_config
    from flows.graph import assemble
    from flows.lifecycle import lifecycle_graph
    from flows.runner import modules_of

    modules = modules_of(assemble(lifecycle_graph, load_config(profile)), labels)
    script = "import sys, time; from flows.worker import preload; [preload(m) for m in sys.argv[1:]]"
    command = [sys.executable, "-c", f"{script}; print(time.process_time())", *modules]
    return float(printed(command))


def drawing(home: Path) -> float:
    """Processor seconds of reading the newest run of a home and drawing its page, imports among them."""
    script = (
        "import sys, time; from pathlib import Path; from storage.home import Home; from storage.queries import query; "
        "from dashboards.report import collect; from dashboards.html import render_html; "
        "home = Home(Path(sys.argv[1])); run = query(home, 'SELECT run_id FROM current_run').to_pylist()[0]['run_id']; "
        "render_html(collect(home, run)); print(time.process_time())"
    )
    return float(printed([sys.executable, "-c", script, str(home)]))


def printed(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def processor_seconds(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Of a command and of all that it starts, in a fresh home; and of its stages alone."""
    from storage.home import Home
    from storage.queries import query

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "LIFESPAN_HOME": str(folder)}
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = query(Home(folder), "SELECT sum(cpu_seconds) AS own FROM costs").to_pylist()[0]["own"]
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, own


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
    for label in CHAIN:
        node = graph.nodes[label]
        assert all(handle.key in folders for handle in artifacts_in(node.bound.inputs))
        out = folder / label
        out.mkdir(parents=True)
        start = time.perf_counter()
        node.stage.fn(Plain(out, folder / "state" / label, cfg.compute), **node.bound.settings, **node.bound.inputs)
        seconds[label] = time.perf_counter() - start
        folders[node.key] = out
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", help="a whole life of this profile in place of the chain, once")
    parser.add_argument("--plainly", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plainly:
        print(json.dumps(call_plainly(options.steps, options.plainly)))
        return
    lives, plain = [], []
    chain = ["smoke", "--only", "pretrain", "--set", f"pretrain.num_steps={options.steps}"]
    for _ in range(1 if options.profile else options.rounds):
        with tempfile.TemporaryDirectory() as place:
            lives.append(orchestrated([options.profile] if options.profile else chain, Path(place) / "home"))
            if not options.profile:
                plain.append(plainly(options.steps, Path(place) / "plain"))
    if plain:
        ours = statistics.median(life.seconds["pretrain"] for life in lives)
        theirs = statistics.median(found["pretrain"] for found in plain)
        print(f"pretrain: {ours:.2f} s orchestrated, {theirs:.2f} s called plainly, ratio {ours / theirs:.3f}")
    for life in lives:
        print(
            f"processor time {life.processor:.1f} s: stages {life.stages:.1f} s, start-up {life.start_up:.1f} s, "
            f"the page {life.page:.1f} s; orchestration and tracking beyond start-up {life.share:.1%}"
        )


if __name__ == "__main__":
    main()
