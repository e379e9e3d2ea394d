from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.cost.entries import CatalogueError
from components.cost.hardware import CATALOGUE, find_hardware, hardware_catalogue, measure_cpu_core
from storage.code import code_fingerprint


def test_peaks_are_dense() -> None:
    # The data sheets' figures with sparsity are 624, 1,979 and 4,500 TFLOP/s.
    assert find_hardware("a100-sxm-80gb").peak_flops == pytest.approx(312e12)
    assert find_hardware("h100-sxm").peak_flops == pytest.approx(989e12, rel=1e-3)
    assert find_hardware("b200-sxm").peak_flops == pytest.approx(2.25e15)
    assert find_hardware("h100-sxm").flops_per_byte == pytest.approx(295, rel=0.01)
    for device in hardware_catalogue():  # each narrower precision is at most twice as fast (MI355X: 10,066 of 5,033)
        assert device.fp8_flops is None or 1.9 < device.fp8_flops / device.peak_flops < 2.1
        assert device.fp4_flops is None or 1.9 < device.fp4_flops / (device.fp8_flops or 1) < 2.1


def test_without_units_for_a_precision_the_next_wider_one_computes() -> None:
    a100, h100, b200 = (find_hardware(name) for name in ("a100-sxm-80gb", "h100-sxm", "b200-sxm"))
    assert a100.peak("fp8") == a100.peak_flops and a100.fp8_flops is None
    assert h100.peak("fp4") == h100.peak("fp8") == pytest.approx(1.9789e15)
    assert b200.peak("fp4") == pytest.approx(9e15)


def test_every_device_has_a_source_and_a_date_and_a_known_name() -> None:
    for row in hardware_catalogue():
        assert row.source and len(row.date) == 10 and row.date[4] == "-"
    with pytest.raises(ValueError, match="did you mean 'h100-sxm'"):
        find_hardware("h100-smx")
    with pytest.raises(ValueError, match="peak_flops must be positive"):
        replace(hardware_catalogue()[0], peak_flops=0.0)


GOOD = """
[[hardware]]
name = "toy"
kind = "gpu"
peak_tflops = { bf16 = 1 }
bandwidth_gb_per_s = 1
memory_gb = 1
source = "test"
date = "2026-01-01"
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('date = "2026-01-01"', ""), r"\[\[hardware\]\] 1 \(toy\), date: without a date"),
        (('"2026-01-01"', '"2999-01-01"'), "lies in the future"),
        (('"2026-01-01"', '"January"'), "takes a day such as"),
        (('source = "test"', ""), r"\(toy\), source: takes a text"),
        (("memory_gb = 1", "memory_gb = 0"), r"\(toy\), memory_gb: takes a number above 0, got 0"),
        (("memory_gb = 1", "memory_gb = nan"), "takes a number above 0, got nan"),
        (("memory_gb = 1", 'memory_gb = "1"'), "takes a number above 0, got '1'"),
        (("memory_gb = 1", "memory_gigabytes = 1"), "unknown field 'memory_gigabytes'"),
        (("bf16 = 1", "fp16 = 1"), "peak_tflops: takes a table with bf16"),
        (('"gpu"', '"npu"'), "kind: takes cpu, gpu, tpu, got 'npu'"),
        (("[[hardware]]", "[[software]]"), r"unknown table 'software'"),
        (("name", "name ="), "cannot be read as TOML"),
    ],
)
def test_a_fault_names_file_entry_and_field(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    assert hardware_catalogue(file)[0].peak_flops == 1e12 and hardware_catalogue(file)[0].power_watts is None
    faulty = tmp_path / "faulty.toml"
    faulty.write_text(GOOD.replace(*change, 1))
    with pytest.raises(CatalogueError, match=message) as caught:
        hardware_catalogue(faulty)
    assert "faulty.toml" in str(caught.value)


def test_another_source_of_one_figure_is_told_and_the_oldest_date_counts(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD + '[hardware.other_sources]\nmemory_gb = { source = "a blog", date = "2025-01-01" }\n')
    (device,) = hardware_catalogue(file)
    assert device.source == "test; memory_gb: a blog" and device.date == "2025-01-01"


def test_the_catalogue_is_part_of_the_code_that_names_it(tmp_path: Path) -> None:
    """A figure that is edited makes a stage run again that writes it into the tables."""
    from flows.stages.cost import account_costs

    assert CATALOGUE.is_file()
    assert "components.cost.hardware" in code_fingerprint(account_costs.fn)
    from storage.code import _source  # the digest covers the files that a module names

    module = tmp_path / "hardware.py"
    module.write_text('FILE = "catalogue/hardware.toml"\n')
    (tmp_path / "catalogue").mkdir()
    digests = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "catalogue/hardware.toml").write_text(text)
        _source.cache_clear()
        digests.append(_source("hardware", module).whole.digest)
    assert digests[0] != digests[1]


def test_this_machines_core_is_measured_within_physics() -> None:
    threads = torch.get_num_threads()
    core = measure_cpu_core(size=384, seconds=0.03)
    # A core does between 1 GFLOP/s and 1 TFLOP/s in fp32, and moves between 0.5 and 500 GB/s.
    assert 1e9 < core.peak_flops < 1e12
    assert 5e8 < core.memory_bandwidth < 5e11
    assert core.source == "measured on this machine"
    assert torch.get_num_threads() == threads
