"""Stages on the nodes of a real Ray: the same keys, rows and bytes, and a node that is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_life import train

from flows.config import load_config
from flows.engine.graph import Graph
from flows.engine.progress import Board
from flows.engine.runner import Runner
from flows.lifecycle import run_lifecycle
from flows.settings import ComputeConfig
from storage.home import Home

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes, whose head has no room for stages."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 0, "node_ip_address": "127.0.0.2", "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}") for number in (3, 4)]
    ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_a_part_of_a_life_on_ray_is_byte_for_byte_the_local_one(smoke: Any, tmp_path: Path, console: Any) -> None:
    cfg = load_config("smoke", ["compute.engine=ray"])
    home = Home(tmp_path / "home")
    ended = run_lifecycle(cfg, home=home, console=console, only=["finetune"], prefect=False, mlflow=False)
    assert (ended.status, ended.failures) == ("completed", {})
    assert not ray.is_initialized()  # the Ray that was started is gone
    assert {"pretrain", "finetune"} <= ended.outcomes.keys()
    for label, outcome in ended.outcomes.items():
        assert outcome.artifact.key == smoke.outcomes[label].key
        ours, theirs = home.store.record(outcome.artifact.key), smoke.home.store.record(outcome.artifact.key)
        assert ours.files == theirs.files, label
        assert outcome.node, label
    keys = {outcome.artifact.key for outcome in ended.outcomes.values()}
    for table in ("metrics", "samples", "quarantine"):
        assert rows(home, table, keys) == rows(smoke.home, table, keys), table


def rows(home: Home, table: str, keys: set[str]) -> list[tuple[Any, ...]]:
    from storage.queries import query

    sql = f"SELECT * EXCLUDE (run_id) FROM {table}"
    found = [row for row in query(home, sql).to_pylist() if row["key"] in keys]
    timed = ("tokens_per_second", "mfu", "peak_memory_bytes")
    return sorted(
        str({name: value for name, value in row.items() if name != "time"})
        for row in found
        if row.get("name") not in timed
    )


def test_the_stage_of_a_killed_node_goes_on_elsewhere_and_has_not_failed(two_nodes: Any, home: Home) -> None:
    cluster, nodes = two_nodes
    graph = Graph(ComputeConfig())
    for number in (30, 31):
        train.submit(graph, label=f"train{number}", steps=number, pause=0.2)
    compute = ComputeConfig(engine="ray", address=cluster.address)
    board = Board("toy")
    runner = Runner(graph, home, "r1", compute, board, "toy")
    runner.start()
    while not all(row.done >= 3 for row in board.rows.values()):
        assert not runner.finished.wait(0.1), runner.failures()
    cluster.remove_node(nodes[0], allow_graceful=False)
    outcomes = {label: runner.wait(label, 100) for label in graph.nodes}
    assert sorted(outcome.artifact.facts["w"] for outcome in outcomes.values()) == [sum(range(30)), sum(range(31))]
    assert sorted(outcome.artifact.facts["resumed_at"] > 0 for outcome in outcomes.values()) == [False, True]
    assert any("was lost" in line and "it goes next" in line for line in board.take_lines())
    steps = home.tables.read("metrics", ["key", "step"]).to_pylist()
    assert len(steps) == 30 + 31  # no row lost, none twice
    statuses = home.tables.read("stages", ["status"]).column("status").to_pylist()
    assert statuses == ["ran", "ran"]
    assert runner.finished.wait(20)
