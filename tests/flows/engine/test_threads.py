"""What may change the last bits of a result is in its key, and nothing else that is said of a machine is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flows.config import RunConfig, load_config
from flows.engine.graph import assemble
from flows.engine.jobs import run_here
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.lifecycle import lifecycle_graph
from flows.outside import Outside
from flows.settings import MOST_WORKERS, ComputeConfig, Settings
from storage.home import Home

TEXT_ALONE = {"prepare_corpus", "make_conversations", "make_puzzles"}


def keys(*overrides: str) -> Mapping[str, str]:
    def assembly(cfg: RunConfig, run: object) -> None:
        lifecycle_graph(cfg, run, Outside())  # type: ignore[arg-type]

    graph = assemble(assembly, load_config("smoke", list(overrides)))
    return {label: node.key for label, node in graph.nodes.items()}


@pytest.mark.parametrize("changed", ["compute.threads_per_worker=2", "compute.device=cuda"])
def test_threads_and_device_are_in_the_key_of_all_that_computes(changed: str) -> None:
    before, after = keys(), keys(changed)
    assert {label for label in before if before[label] == after[label]} == TEXT_ALONE


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ComputeConfig)])
def test_every_other_setting_of_the_machine_is_in_no_key(field: str) -> None:
    default = getattr(ComputeConfig(), field)
    known = {  # values that are known, and what else they want
        "hardware": ('"h100-sxm"',),
        "engine": ('"ray"',),
        "address": ('"127.0.0.1:6379"', "compute.engine=ray"),
        "seats": ("{ppo = {cpus = 2.0}}",),
        "parallel": ('"fsdp2"',),
    }
    strings = (f'"{default}x"',) if isinstance(default, str) else ()
    other, *more = known.get(field) or strings or (default + 3,)
    same = keys() == keys(f"compute.{field}={other}", *more)
    # The price of an hour is a setting of the stage that accounts for it, and of none else; hardware has its own price.
    if field in ("usd_per_core_hour", "hardware"):
        before, after = keys(), keys(f"compute.{field}={other}")
        assert {label for label in before if before[label] != after[label]} == {"account_costs"}
    else:
        assert same == (field not in ComputeConfig().numerics)


@dataclass(frozen=True)
class Summed:
    threads: int
    total: float


@stage(produces="toy", group="cost", seconds=0.1)
def add_up(work: Work, *, seed: int) -> Summed:
    """A product long enough to be split among threads."""
    x = torch.randn(64, 200_000, generator=torch.Generator().manual_seed(seed))
    return Summed(torch.get_num_threads(), float((x @ x.T).sum()))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stage_computes_with_the_threads_of_its_key_in_whatever_process(threads: int, tmp_path: Path) -> None:
    """The calling process has another number; a worker that starts with another one would give other bits."""

    class Config(Settings):
        pass

    cfg = Config(compute=ComputeConfig(workers=0, threads_per_worker=threads))
    graph = assemble(lambda _, run: add_up.submit(run, seed=0), cfg)
    (node,) = graph.nodes.values()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        made = run_here(node.job("run", Home(tmp_path), cfg.compute, {}), lambda event: None)
        assert torch.get_num_threads() == 3  # as it was found
    finally:
        torch.set_num_threads(before)
    assert made.facts["threads"] == threads
    record = Home(tmp_path).store.record(node.key)
    assert record is not None and record.config["compute"] == {"device": "cpu", "threads_per_worker": threads}


def test_workers_fill_the_cores_with_the_threads_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads, workers in ((2, 1, 2), (2, 2, 1), (1, 2, 1), (6, 2, 3), (64, 1, MOST_WORKERS)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert ComputeConfig(threads_per_worker=threads).counted().workers == workers
        assert ComputeConfig(threads_per_worker=threads).counted().threads_per_worker == threads
    assert ComputeConfig(workers=0).counted().workers == 0
