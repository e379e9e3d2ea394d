"""Meters: what a counter says, shared by busy time on a CPU, and said plainly where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.engine.energy import EnergySpan, busy_cpu_seconds, meter


def rising(*values: float):  # type: ignore[no-untyped-def]
    left = list(values)
    return lambda: left.pop(0)


def test_a_processors_energy_is_shared_by_busy_time() -> None:
    span = EnergySpan("cpu", rising(100.0, 180.0), rising(50.0, 60.0))
    assert span.joules(cpu_seconds=2.5) == pytest.approx(80.0 * 2.5 / 10.0)


def test_an_accelerators_energy_is_all_the_stages() -> None:
    assert EnergySpan("cuda:0", rising(100.0, 180.0)).joules(cpu_seconds=2.5) == 80.0


def test_without_a_meter_there_is_no_number_and_a_reason() -> None:
    assert EnergySpan("cpu").joules(1.0) is None
    counter, told = meter("mps")
    assert counter is None and told.startswith("no meter")


def test_busy_time_leaves_idle_and_waiting_out(tmp_path: Path) -> None:
    file = tmp_path / "stat"
    file.write_text("cpu  100 20 30 5000 400 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert busy_cpu_seconds(file) == pytest.approx((100 + 20 + 30 + 1 + 2 + 3) / 100)
