"""What a flow of a deployment does beside running a life."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.config import load_config
from flows.settings import ConfigError
from storage.home import Home


def test_a_run_holds_the_accelerator_while_it_runs_and_waits_for_nothing_on_cpu(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.deployment import deployments  # settles where Prefect keeps its files: not before there is a home

    held: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def concurrency(name: str, occupy: int) -> Iterator[None]:
        held.append((name, occupy))
        yield
        held.remove((name, occupy))

    monkeypatch.setattr(deployments, "concurrency", concurrency)
    with deployments.device_to_itself("cpu"):
        assert held == []
    with deployments.device_to_itself("cuda"):
        assert held == [("accelerator", 1)]
    assert held == []


@pytest.mark.parametrize(
    ("cron", "every", "told"),
    [
        ("0 2 30 2 *", 0.0, "that date never comes"),  # such a one stops Prefect's scheduler for others too
        ("0 0 31 4,6 *", 0.0, "that date never comes"),
        ("0 2 *", 0.0, "Invalid cron string"),
        ("", float("nan"), "takes a number of seconds"),
        ("", float("inf"), "takes a number of seconds"),
        ("", 1e20, "takes a number of seconds"),
        ("", -1.0, "greater than 0"),
    ],
)
def test_a_schedule_that_could_not_fire_is_refused(home: Home, cron: str, every: float, told: str) -> None:
    from flows.deployment.deploy import _times

    with pytest.raises(ConfigError, match=told):
        _times(cron, every, "UTC")
    assert _times("0 0 29 2 *", 0.0, "Europe/Berlin").cron == "0 0 29 2 *"  # in some years


def test_what_a_webhook_is_sent_names_flow_run_and_reason() -> None:
    import datetime
    import json
    import uuid

    from prefect.server.events.schemas.events import ReceivedEvent
    from prefect.server.utilities.user_templates import render_user_template_sync

    from flows.deployment.deploy import PAYLOAD

    def sent(event: str, **payload: str) -> dict[str, str]:
        resource = {"prefect.resource.id": "prefect.flow-run.1", "prefect.resource.name": "smoke"}
        flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.name": "cost"}
        happened = ReceivedEvent.model_validate(
            {
                "id": uuid.uuid4(),
                "occurred": datetime.datetime.now(datetime.UTC),
                "event": event,
                "resource": {**resource, "prefect.state-message": "no sign of life"},
                "related": [{**flow, "prefect.resource.role": "flow"}],
                "payload": payload,
            }
        )
        sent: dict[str, str] = json.loads(render_user_template_sync(PAYLOAD, {"event": happened}))
        return sent

    assert sent("prefect.flow-run.Crashed")["text"] == "cost smoke: no sign of life"
    assert sent("lifespan.run.failed", message='a "name" <b>\n1 failed')["text"] == 'cost smoke: a "name" <b>\n1 failed'


@pytest.mark.parametrize("address", ["hooks.example.org/x", "ftp://example.org", "http:///x", "https:// x"])
def test_a_webhook_that_is_no_address_is_refused(home: Home, address: str) -> None:
    from flows.deployment.deploy import deploy

    with pytest.raises(ConfigError, match="http:// or https://") as caught:
        deploy(home, "smoke", address)
    assert address not in str(caught.value)  # it may be half a secret


def test_what_fails_before_the_first_stage_is_told_without_its_secrets(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.deployment import deployments

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-s3-secret")
    told: list[tuple[str, str]] = []

    def fail(*arguments: object) -> None:
        raise OSError("s3://me:planted-password@bucket refused planted-s3-secret")

    monkeypatch.setattr(deployments, "_live", fail)
    monkeypatch.setattr(deployments, "_tell", lambda event, message: told.append((event, message)))
    state = deployments.cost.fn()
    assert state.is_failed()
    assert state.message == "OSError: s3://***@bucket refused ***"
    assert told == [("lifespan.run.failed", state.message)]
    error = capsys.readouterr().err
    assert "Traceback" in error and "s3://***@bucket" in error and "planted-s3-secret" not in error


def test_prefect_yaml_deploys_what_the_command_deploys() -> None:
    import importlib
    from pathlib import Path

    import yaml

    from flows.deployment.catalogue import EVALUATE, FLOWS
    from flows.deployment.deploy import NAME, NIGHTLY
    from flows.services.services import POOL

    root = Path(__file__).parents[3]
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    entrypoints = [deployment["entrypoint"].partition(":") for deployment in deployments]
    assert {function for _, _, function in entrypoints} == {*FLOWS, EVALUATE}
    for file, _, function in entrypoints:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert getattr(module, function).name == function
    for deployment in deployments:
        assert (deployment["name"], deployment["work_pool"]["name"]) == (NAME, POOL)
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        parameters = deployment["parameters"]
        assert not parameters or load_config(parameters["profile"], parameters["settings"])
    (nightly,) = [schedule for deployment in deployments for schedule in deployment.get("schedules", [])]
    assert (nightly["slug"], nightly["active"]) == (NIGHTLY, False)


def test_an_evaluation_as_a_flow_tells_how_it_ended(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows.deployment import deployments

    told: list[tuple[str, str]] = []
    monkeypatch.setattr(deployments, "_tell", lambda event, message: told.append((event, message)))
    assert (
        deployments.evaluate.fn("http://127.0.0.1:9/v1").message
        == "the parameter `task` is empty: give a file of questions"
    )
    state = deployments.evaluate.fn("http://127.0.0.1:9/v1", str(tmp_path / "gone.jsonl"))
    assert state.is_failed() and "no such file" in state.message
    assert [event for event, _ in told] == ["lifespan.run.failed"] * 2


def test_a_schedule_keeps_its_profile_when_it_is_paused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from prefect.client import orchestration
    from prefect.client.schemas.schedules import CronSchedule

    from flows.deployment import deploy

    parameters = {"profile": "smoke", "settings": ["seed=3"]}
    kept = SimpleNamespace(id=7, slug="nightly", active=True, schedule=CronSchedule(cron="0 2 * * *"))
    kept.parameters = parameters
    deployment = SimpleNamespace(id=5, parameters={"profile": "laptop", "settings": []})

    class Server:
        """As Prefect 3.8.8: what is not sent is forgotten."""

        def update_deployment_schedule(self, deployment: int, schedule: int, **sent: object) -> None:
            assert (deployment, schedule) == (5, 7)
            kept.active, kept.parameters = sent["active"], sent.get("parameters", {})

    monkeypatch.setattr(deploy, "connect", lambda home: None)
    monkeypatch.setattr(deploy, "_found", lambda: iter([("data", deployment, kept)]))
    monkeypatch.setattr(orchestration, "get_client", lambda sync_client: contextlib.nullcontext(Server()))
    for active in (False, True):
        deploy.change_schedule(home, "nightly", active=active)
        assert [(s.active, s.parameters) for s in deploy.schedules(home)] == [(active, parameters)]
    kept.parameters = {}  # paused in Prefect's page
    assert deploy.schedules(home)[0].parameters == deployment.parameters


def test_a_schedule_finds_its_profile_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deployment.deploy import _from_anywhere

    (tmp_path / "mine.toml").write_text('extends = "smoke"\n')
    monkeypatch.chdir(tmp_path)
    assert _from_anywhere("mine.toml") == str(tmp_path / "mine.toml")
    assert _from_anywhere("smoke") == "smoke"
    with pytest.raises(ConfigError, match="no such file"):
        _from_anywhere("yours.toml")


def test_every_group_of_every_stage_is_reached_by_a_flow_of_its_own() -> None:
    import importlib
    import pkgutil

    import flows.stages
    from flows.deployment.catalogue import FLOWS
    from flows.engine.stage import Stage

    names = [info.name for info in pkgutil.walk_packages(flows.stages.__path__, "flows.stages.")]
    found = [one for name in names for one in vars(importlib.import_module(name)).values() if isinstance(one, Stage)]
    groups = [group for flow_groups, _ in FLOWS.values() for group in flow_groups]
    assert sorted(groups) == sorted({stage.group for stage in found})  # each in one flow, and none that no stage has


@pytest.mark.parametrize(
    ("cron", "every", "told"),
    [
        ("0 0 2 * * *", 0.0, "has 6 fields; it takes five"),
        ("0 2 * *", 0.0, "has 4 fields; it takes five"),
        ("", 0.5, "--every 0.5: takes at least 30 seconds"),
        ("", float("inf"), "takes at least 30 seconds"),
        ("", float("nan"), "takes at least 30 seconds"),
    ],
)
def test_times_that_mean_something_else_are_refused_without_a_server(
    home: Home, cron: str, every: float, told: str
) -> None:
    from flows.deployment.deploy import add_schedule

    with pytest.raises(ConfigError, match=told):
        add_schedule(home, "lifecycle", cron, every=every, profile="smoke")
