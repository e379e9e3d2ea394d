"""What a flow of a deployment does beside running a life."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from flows.settings import ConfigError
from storage.home import Home


def test_a_run_holds_the_accelerator_while_it_runs_and_waits_for_nothing_on_cpu(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deployments  # settles where Prefect keeps its files: not before there is a home

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
    from flows.deploy import _times

    with pytest.raises(ConfigError, match=told):
        _times(cron, every, "UTC")
    assert _times("0 0 29 2 *", 0.0, "Europe/Berlin").cron == "0 0 29 2 *"  # in some years
