"""What orchestration and tracking cost: stages by `lifespan run`, beside the same functions called plainly, and a life.

First both sides run the data stages and a pretraining of `--steps` steps with the smoke profile, in fresh homes: one
through workers, the store, tables, Prefect and MLflow; the other calls the stage functions one after another in one
process. `pretrain` is the wall time of that stage on either side.

Then a whole life. `beyond start-up` is processor time of every process of the run (workers, Prefect's server, MLflow's
client, the program itself) that is neither a stage's own, nor start-up, nor spent on the page. Start-up is what a run
of the first stage alone takes beside that stage, which makes the databases and starts the same processes, and what each
worker takes to import what the other stages use (torch among it). The page is what drawing the report of the whole
takes more than drawing that of the first stage alone: no part of orchestration, and told beside it. A stage costs about
the same however short it is, so in `smoke`, whose stages take half a second, the share is larger.

    python tests/benchmarks/orchestration.py [--profile laptop] [--steps 2000] [--rounds 3]
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
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
# The critical path runs alone; what runs beside it in a worker of its own is done before it.
CHAIN = ("prepare_corpus", "train_tokenizer", "tokenize", "pretrain")


@dataclass(frozen=True)
class Life:
    """Processor seconds: of all, of its stages, of start-up, of the page."""

    processor: float
    stages: float
    start_up: float
    page: float

    @property
    def share(self) -> float:
        """Orchestration and tracking beyond start-up, as a share of all."""
        return (self.processor - self.stages - self.start_up - self.page) / self.processor


def whole_life(profile: str, folder: Path) -> Life:
    """A run with everything on, and one of its first stage alone, each in a fresh home."""
    first, first_own = processor_seconds(["run", profile, "--only", CHAIN[0]], folder / "first")
    used, own = processor_seconds(["run", profile], folder / "whole")
    labels = list(stage_seconds(folder / "whole"))
    workers = len(list((folder / "whole" / "logs").glob("*/worker-*.log")))
    later = importing(labels, profile) - importing([CHAIN[0]], profile)
    page = drawing(folder / "whole") - drawing(folder / "first")
    return Life(used, own, first - first_own + workers * later, page)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Wall time of each stage in the home's runs."""
    from storage.home import Home
    from storage.queries import query

    return {
        row["label"]: row["seconds"] for row in query(Home(folder), "SELECT label, seconds FROM stages").to_pylist()
    }


def importing(labels: list[str], profile: str) -> float:
    """Processor seconds of a worker's start until all is imported that these stages use."""
    from flows.config import load_config
    from flows.engine.runner import modules_of
    from flows.lifecycle import life
    from storage.home import Home

    modules = modules_of(life(load_config(profile), Home.from_env()), labels)
    script = "import sys, time; from flows.engine.worker import preload; [preload(m) for m in sys.argv[1:]]"
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
    from flows.engine.graph import artifacts_in
    from flows.engine.work import Work
    from flows.lifecycle import life
    from storage.artifacts import Artifact
    from storage.home import Home

    torch.set_num_threads(1)
    cfg = load_config("smoke", [f"pretrain.num_steps={steps}"])
    graph = life(cfg, Home(folder))
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
    parser.add_argument("--profile", default="laptop", help="whose life")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plainly", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plainly:
        print(json.dumps(call_plainly(options.steps, options.plainly)))
        return
    orchestrated, plain = [], []
    chain = ["run", "smoke", "--only", CHAIN[-1], "--set", f"pretrain.num_steps={options.steps}"]
    with tempfile.TemporaryDirectory() as place:
        for turn in range(options.rounds):
            home = Path(place, f"home-{turn}")
            processor_seconds(chain, home)
            orchestrated.append(stage_seconds(home)[CHAIN[-1]])
            plain.append(plainly(options.steps, Path(place, f"plain-{turn}"))[CHAIN[-1]])
        ours, theirs = statistics.median(orchestrated), statistics.median(plain)
        print(
            f"pretrain: {ours:.2f} s orchestrated, {theirs:.2f} s called plainly, ratio {ours / theirs:.3f}", flush=True
        )
        life = whole_life(options.profile, Path(place))
    print(
        f"life of {options.profile}: processor time {life.processor:.1f} s: stages {life.stages:.1f} s, "
        f"start-up {life.start_up:.1f} s, the page {life.page:.1f} s; "
        f"orchestration and tracking beyond start-up {life.share:.1%}"
    )


if __name__ == "__main__":
    main()
