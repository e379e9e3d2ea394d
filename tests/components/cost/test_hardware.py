from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.cost.hardware import HARDWARE, PRICES, Price, find_hardware, find_price, measure_cpu_core


def test_peaks_are_dense() -> None:
    # The data sheets' figures with sparsity are 624, 1,979 and 4,500 TFLOP/s.
    assert find_hardware("a100-sxm-80gb").peak_flops == pytest.approx(312e12)
    assert find_hardware("h100-sxm").peak_flops == pytest.approx(989e12, rel=1e-3)
    assert find_hardware("b200-sxm").peak_flops == pytest.approx(2.25e15)
    assert find_hardware("h100-sxm").flops_per_byte == pytest.approx(295, rel=0.01)


def test_every_figure_has_a_source_and_a_date_and_every_device_a_price() -> None:
    assert {p.hardware for p in PRICES} == {h.name for h in HARDWARE}
    for row in (*HARDWARE, *PRICES):
        assert row.source and len(row.date) == 10 and row.date[4] == "-"


def test_the_newest_price_is_taken_unless_a_provider_is_named() -> None:
    table = (*PRICES, Price("h100-sxm", 9.0, "Later", "2999-01-01", "test"))
    assert find_price("h100-sxm", table).usd_per_hour == 9.0
    assert find_price("h100-sxm", table, provider="RunPod").usd_per_hour == 2.69


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'h100-sxm'"):
        find_hardware("h100-smx")
    with pytest.raises(ValueError, match=r"known are .*b200-sxm"):
        find_price("abacus")
    with pytest.raises(ValueError, match="peak_flops must be positive"):
        replace(HARDWARE[0], peak_flops=0.0)


def test_this_machines_core_is_measured_within_physics() -> None:
    threads = torch.get_num_threads()
    core = measure_cpu_core(size=384, seconds=0.03)
    # A core does between 1 GFLOP/s and 1 TFLOP/s in fp32, and moves between 0.5 and 500 GB/s.
    assert 1e9 < core.peak_flops < 1e12
    assert 5e8 < core.memory_bandwidth < 5e11
    assert core.source == "measured on this machine"
    assert torch.get_num_threads() == threads
