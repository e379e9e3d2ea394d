"""A stage on several processes: what it makes, reports and saves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_training import ADAMW, DROPLESS, MODEL, SIZE, make_world

from components.training.config import PretrainConfig
from flows.engine.graph import Graph
from flows.engine.jobs import execute
from flows.engine.wire import Job
from flows.settings import ComputeConfig
from flows.stages.training import pretrain
from storage.artifacts import Artifact
from storage.home import Home

pytestmark = pytest.mark.slow
CONFIG = PretrainConfig(**SIZE, optimizer=ADAMW)


@pytest.fixture
def world(home: Home) -> dict[str, Artifact]:
    return make_world(Path(home.root))


def job(home: Home, world: dict[str, Artifact], config: PretrainConfig = CONFIG, **compute: Any) -> Job:
    run = Graph()
    arguments = {
        "model": replace(MODEL, moe=DROPLESS),
        "config": config,
        "weights": {"tales": 0.5, "sums": 0.5},
        "seed": 0,
    }
    pretrain.submit(run, **arguments, shards=world["shards"], tokenizer=world["tokenizer"])
    (node,) = run.nodes.values()
    return node.job("r1", home, ComputeConfig(**compute), {a.key: a for a in world.values()})


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_make_the_checkpoint_that_one_process_makes(
    home: Home, world: dict[str, Artifact], tmp_path: Path, parallel: str
) -> None:
    from components.training.checkpoints import load_model

    events: list[dict[str, Any]] = []
    many = execute(job(home, world, ranks=2, parallel=parallel), events.append)
    assert (many.facts["ranks"], many.facts["parallel"]) == (2, parallel)
    alone = Home(tmp_path / "alone")
    one = execute(job(alone, make_world(Path(alone.root))), lambda event: None)
    assert one.key == many.key
    assert many.facts["num_tokens"] == one.facts["num_tokens"] == many.facts["usage"]["tokens"]
    assert many.facts["loss"] == pytest.approx(one.facts["loss"], rel=1e-4)
    ours, theirs = (load_model(h.store.path(a)).state_dict() for h, a in ((home, many), (alone, one)))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() < 1e-3, name
    names = {row["name"] for row in home.tables.read("metrics", ["name"]).to_pylist()}
    assert {"loss", "tokens_per_second", "router_entropy"} <= names
    assert len(home.tables.read("costs")) == 1
    assert events[-1]["event"] == "progress" and events[-1]["done"] == events[-1]["total"]
    assert not home.scratch(many.key).exists() or not any(home.scratch(many.key).iterdir())


def test_a_mistake_in_the_settings_is_told_once_and_not_tried_again(home: Home, world: dict[str, Artifact]) -> None:
    from flows.engine.ranks import RanksFailed

    with pytest.raises(RanksFailed, match="batch_size is 4: on 3 ranks it must be a multiple of 3"):
        execute(job(home, world, ranks=3), lambda event: None)
    assert home.store.find(job(home, world).key) is None


@pytest.fixture
def worker(home: Home, world: dict[str, Artifact]) -> Iterator[subprocess.Popen[str]]:
    """A worker process that trains on two ranks for long, and saves a state every moment."""
    config = replace(CONFIG, num_steps=4000)
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from flows.engine.jobs import execute
from flows.engine.wire import Job
from flows.engine.work import NOTICE
import json, signal
signal.signal(signal.SIGTERM, NOTICE.give)
execute(Job.from_json(sys.stdin.readline()), lambda event: print(json.dumps(event), flush=True))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(job(home, world, config, ranks=2, checkpoint_seconds=0.5).to_json() + "\n")
    process.stdin.flush()
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ranks_of(worker: int) -> list[int]:
    """Process ids of the ranks below this worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])
            if grandparent == worker and b"flows.engine.rank" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def progress_to(worker: subprocess.Popen[str], step: float) -> None:
    assert worker.stdout
    for line in worker.stdout:
        if line.startswith("{") and json.loads(line).get("done", 0) >= step:
            return
    raise AssertionError("the worker ended")


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_ranks_end_with_a_worker_that_is_killed(worker: subprocess.Popen[str]) -> None:
    progress_to(worker, 10)
    ranks = ranks_of(worker.pid)
    assert len(ranks) == 2
    os.kill(worker.pid, signal.SIGKILL)
    assert gone(ranks)


def test_ranks_save_their_state_when_the_worker_is_asked_to_end(
    worker: subprocess.Popen[str], home: Home, world: dict[str, Artifact]
) -> None:
    progress_to(worker, 10)
    ranks = ranks_of(worker.pid)
    os.killpg(worker.pid, signal.SIGTERM)  # as the pool does
    assert worker.wait(60) == -signal.SIGTERM
    assert gone(ranks)
    states = list(home.scratch(job(home, world, replace(CONFIG, num_steps=4000)).key).glob("step-*.json"))
    assert max(json.loads(state.read_text())["step"] for state in states) >= 10
