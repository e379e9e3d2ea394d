"""MLflow shows what the tables say: once, completely, and never in the way of a run."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage import tracker
from storage.home import Home

START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
PPO, SFT = "a" * 64, "b" * 64


def stage(run: str, label: str, key: str, status: str) -> dict[str, Any]:
    return {
        "run_id": run, "stage": "ppo", "label": label, "key": key, "kind": "checkpoint", "status": status,
        "reason": "it never ran before", "started_at": START, "ended_at": START + timedelta(seconds=30),
        "seconds": 30.0, "group": "rlhf", "facts_json": {"num_params": 7, "usage": {"tokens": 12}, "loss": None},
        "config_json": {"ppo": {"kl_coef": 0.1, "prompts": ["x" * 100] * 9}}, "inputs_json": {"reward": SFT},
    }  # fmt: skip


def test_a_life_is_mirrored_once_and_caught_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    write = home.tables.write
    started = {"run_id": "r1", "event": "started", "status": "running", "profile": "laptop", "time": START}
    write("runs", "r1-started", [{**started, "config_json": {"seed": 3, "ppo": {"kl_coef": 0.1}}}])
    write("stages", "r1-ppo", [stage("r1", "ppo[beta=0.1]", PPO, "failed")])
    at = {"run_id": "r1", "key": PPO, "stage": "ppo", "name": "reward"}
    # More than one batch, a value that is no number, a name that MLflow does not take.
    times = [START + timedelta(seconds=step) for step in range(1100)]
    points = [{**at, "step": step, "value": step / 2, "time": time} for step, time in enumerate(times)]
    points += [{**at, "step": 0, "value": float("nan"), "time": START, "name": "loss@1"}]
    write("metrics", PPO, points)
    write("costs", PPO, [{"run_id": "r1", "key": PPO, "stage": "ppo", "usd": 0.5}])

    first = tracker.sync(home)
    assert (first.problem, first.runs, first.stages, first.metrics) == (None, 1, 1, 1101)
    assert tracker.sync(home) == tracker.SyncResult()

    # The stage runs after all, the run ends, its report is written; a second run finds the stage cached.
    write("stages", "r1-ppo", [stage("r1", "ppo[beta=0.1]", PPO, "ran")])
    write(
        "runs", "r1-ended", [{**started, "event": "ended", "status": "completed", "time": START + timedelta(hours=1)}]
    )
    (home.reports / "r1.html").write_text("<h1>report</h1>")
    write("runs", "r2-started", [{**started, "run_id": "r2", "time": START + timedelta(hours=2)}])
    write("stages", "r2-cached", [stage("r2", "ppo[beta=0.1]", PPO, "cached")])
    assert tracker.sync(home, run_ids=["r1"]).runs == 0
    second = tracker.sync(home)
    assert (second.problem, second.runs, second.stages, second.metrics) == (None, 1, 1, 2)
    assert tracker.sync(home) == tracker.SyncResult()
    (home.reports / "r1.html").unlink()  # as `lifespan gc` does: MLflow still shows it
    assert "r1" not in tracker.behind(home)
    (home.reports / "r1.html").write_text("<h1>another report</h1>")
    assert "r1" in tracker.behind(home)
    (home.reports / "r1.html").unlink()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(home.mlflow_uri)
    place = client.get_experiment_by_name("laptop")
    assert place is not None and place.artifact_location == (tmp_path / "mlflow-artifacts").as_uri()
    assert (
        place.tags["mlflow.experimentKind"] == "custom_model_development"
        and "laptop" in place.tags["mlflow.note.content"]
    )
    runs = client.search_runs([place.experiment_id])
    parents = {run.data.tags["lifespan.run_id"]: run for run in runs if run.data.tags["lifespan.level"] == "run"}
    nested = {run.data.tags["lifespan.run_id"]: run for run in runs if run.data.tags["lifespan.level"] == "stage"}
    assert len(runs) == 4
    parent, own = parents["r1"], nested["r1"]
    assert parent.info.run_name == f"laptop {START.astimezone():%Y-%m-%d %H:%M}"
    assert (parent.info.status, parents["r2"].info.status, own.info.status) == ("FINISHED", "RUNNING", "FINISHED")
    assert parent.info.end_time - parent.info.start_time == 3_600_000
    assert parent.data.params == {"seed": "3", "ppo.kl_coef": "0.1"}
    report = client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path))
    assert Path(report).read_text() == "<h1>report</h1>"

    assert own.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert own.info.run_name == "ppo[beta=0.1]"
    assert own.data.params["ppo.kl_coef"] == "0.1"
    assert len(own.data.params["ppo.prompts"]) == 500 and own.data.params["ppo.prompts"].endswith("characters in all)")
    assert own.data.metrics["fact.usage.tokens"] == 12 and own.data.metrics["cost.usd"] == 0.5
    history = client.get_metric_history(own.info.run_id, "reward")
    assert sorted((m.step, m.value, m.timestamp) for m in history) == [
        (step, step / 2, int(time.timestamp() * 1000)) for step, time in enumerate(times)
    ]
    assert "loss_1" in own.data.metrics

    cached = nested["r2"]
    assert (cached.data.tags["lifespan.cached"], cached.data.tags["lifespan.produced_by"]) == ("true", "r1")
    assert cached.data.tags["lifespan.key"] == PPO and cached.data.tags["lifespan.input.reward"] == SFT
    assert [m.value for m in client.get_metric_history(cached.info.run_id, "reward")] == [1099 / 2]

    # What a user deleted stays deleted.
    client.delete_run(parents["r2"].info.run_id)
    write("stages", "r2-more", [stage("r2", "sft", SFT, "ran")])
    assert tracker.sync(home) == tracker.SyncResult()


def test_a_server_that_is_away_warns_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    home = Home(tmp_path)
    row = {"run_id": "r1", "event": "started", "status": "running", "profile": "laptop", "time": START}
    home.tables.write("runs", "r1-started", [row])
    with caplog.at_level(logging.WARNING, logger="storage.tracker"):
        result = tracker.sync(home)
    assert result.runs == 0 and result.problem and "http://127.0.0.1:9 is behind" in result.problem
    assert "lifespan sync" in caplog.text


def test_a_stage_is_shown_while_it_runs_and_completed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    started = {"run_id": "r1", "event": "started", "status": "running", "profile": "laptop", "time": START}
    home.tables.write("runs", "r1-started", [started])
    assert tracker.sync(home).problem is None
    for done in (5.0, 10.0):
        tracker.show_live(home, "r1", [tracker.Live("sft", "finetune", START, done, 20.0, {"loss": 30 - done})])
    with tracker.connected(home) as client:
        (run,) = client.search_runs(["1"], "tags.`lifespan.label` = 'sft'")
        assert run.info.status == "RUNNING"
        curve = client.get_metric_history(run.info.run_id, "live/loss")
        assert [(point.step, point.value) for point in curve] == [(5, 25.0), (10, 20.0)]
        assert run.data.metrics["live/progress"] == 0.5
    home.tables.write("stages", "r1-sft", [stage("r1", "sft", SFT, "ran")])
    level: set[str] = set()
    assert tracker.sync(home, level=level).stages == 1
    with tracker.connected(home) as client:
        (run,) = client.search_runs(["1"], "tags.`lifespan.label` = 'sft'")  # the same one
        assert run.info.status == "FINISHED"
        assert run.data.params["ppo.kl_coef"] == "0.1"
    # Who remembers what it has mirrored still sees what another has.
    home.tables.write("stages", "r1-ppo", [stage("r1", "ppo[model='a']", PPO, "ran")])
    assert tracker.sync(home).stages == 1
    assert tracker.sync(home, level=level).stages == 0
    home.tables.write("stages", "r1-ppo", [stage("r1", "ppo[model='a']", PPO, "failed")])
    assert tracker.sync(home, level=level).stages == 1
    with tracker.connected(home) as client:
        (experiment,) = client.search_experiments(filter_string="name = 'laptop'")
        assert len(client.search_runs([experiment.experiment_id])) == 3
        client.rename_experiment(experiment.experiment_id, "another")
    assert tracker.sync(home, level=level).stages == 2  # as when the database is lost


def test_a_home_without_runs_needs_no_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_client", lambda home: pytest.fail("asked MLflow"))
    assert tracker.sync(Home(tmp_path)) == tracker.SyncResult()
