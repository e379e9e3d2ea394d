"""Prefect sees what really happened: one server for the session, real task states, nothing left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
sys.path[:0] = {path!r}
from io import StringIO
from rich.console import Console
from flows.services import hermetic, server_process
from storage.home import Home
home = Home({root!r})
hermetic.apply(home.local)
server = server_process.prefect_api(home.local / "logs" / "prefect.log")
os.environ["PREFECT_API_URL"] = server.url + "/api"
from toy_life import count, scale, total, train, toy_graph, Counting, ToyConfig
from flows.settings import ComputeConfig
from toy_run import run_assembly
server.wait_healthy()
from prefect.client.orchestration import get_client
from flows.runs.prefect_view import task_states, bury
from dashboards.report import collect
from prefect.client.schemas.filters import ArtifactFilter
fuse = home.local / "fuse"
fuse.touch()
def broken(cfg, run):
    total.submit(run, parts=[train.submit(run, steps=2, fuse=str(fuse), mode="value")])
    count.submit(run, config=Counting(3))
out, states = [], []
for graph in (toy_graph, toy_graph, broken):
    cfg = ToyConfig(compute=ComputeConfig(workers=0))
    options = {{"conclude": collect}} if not out else {{}}
    result = run_assembly(graph, cfg, home=home, mlflow=False, console=Console(file=StringIO()), **options)
    with get_client(sync_client=True) as client:
        (flow,) = [r for r in client.read_flow_runs() if "lifespan-run:" + result.run_id in r.tags]
        tasks = [t for t in client.read_task_runs() if t.flow_run_id == flow.id]
        mine = ArtifactFilter.model_validate({{"flow_run_id": {{"any_": [str(flow.id)]}}}})
        told = {{a.key: a.data for a in client.read_artifacts(artifact_filter=mine) if a.task_run_id is None}}
    out.append({{"status": result.status, "warnings": result.warnings, "flow": flow.state_name,
                "tasks": task_states(flow.id), "told": told, "run_id": result.run_id,
                "kinds": sorted(tag for t in tasks for tag in t.tags if "lifespan" not in tag),
                "edges": sum(len(v) for t in tasks for v in t.task_inputs.values())}})
from prefect.states import Running
with get_client(sync_client=True) as client:
    client.set_flow_run_state(flow.id, Running(), force=True)
buried = [bury(lambda run_id: True), bury(lambda run_id: False)]
with get_client(sync_client=True) as client:
    out.append({{"buried": buried, "state": client.read_flow_run(flow.id).state_name}})
server.stop()
print(json.dumps(out), server.process.poll())
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Three toy runs against one server, in a process of their own: Prefect reads its environment once."""
    root = tmp_path_factory.mktemp("prefect") / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(path=path, root=str(root))],
        env={**environment, "LIFESPAN_HOME": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, code = done.stdout.strip().rsplit(" ", 1)
    assert code != "None"  # the server ended
    found: list[dict[str, object]] = json.loads(answer)
    return found


def test_stages_are_tasks_with_the_edges_of_the_graph(seen: list[dict[str, object]]) -> None:
    first = seen[0]
    assert first["warnings"] == []
    assert first["flow"] == "Completed"
    assert first["tasks"] == dict.fromkeys(["count", "scale[factor=1.0]", "scale[factor=2.0]", "total"], "Completed")
    assert first["kinds"] == ["data", "pretraining", "pretraining", "report"]
    assert first["edges"] == 4


def test_the_flow_run_has_the_report_as_a_link_and_a_table(seen: list[dict[str, object]]) -> None:
    told = seen[0]["told"]
    assert f"reports/{seen[0]['run_id']}.html" in told["report"]  # type: ignore[index]
    assert {line["verdict"] for line in json.loads(told["headlines"])} == {"measured"}  # type: ignore[index]
    assert seen[1]["told"] == {}  # a run without a report


def test_a_cached_stage_is_cached_in_prefect_too(seen: list[dict[str, object]]) -> None:
    assert set(seen[1]["tasks"].values()) == {"Cached"}  # type: ignore[attr-defined]
    assert seen[1]["flow"] == "Cached"  # the life as a whole, in the list of runs


def test_failed_and_skipped_stages_show_as_such(seen: list[dict[str, object]]) -> None:
    broken = seen[2]
    assert (broken["status"], broken["flow"]) == ("failed", "Failed")
    # Prefect names a task run `total-ef3` until it starts, and this one never does.
    tasks = {name.split("-")[0]: state for name, state in broken["tasks"].items()}  # type: ignore[attr-defined]
    assert tasks == {"train": "Failed", "total": "NotReady", "count": "Cached"}


def test_only_dead_runs_are_buried(seen: list[dict[str, object]]) -> None:
    assert seen[3] == {"buried": [0, 1], "state": "Crashed"}
