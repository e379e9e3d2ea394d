"""What a flow of a deployment does beside running a life."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

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
