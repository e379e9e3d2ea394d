"""Prices from files. The SkyPilot rows are from its catalogues (nebius, mithril, gcp), where nothing else is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.cost.entries import CatalogueError
from components.cost.price_files import PriceFile, read_prices
from components.cost.prices import price_catalogue

DAY = "2026-11-01"
HEADER = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice"
NEBIUS = """cpu-d3_4vcpu-16gb,,0,4,16,0.0992,eu-north1,,
gpu-h100-sxm_1gpu-16vcpu-200gb,H100,1,16,200,2.95,eu-north1,"{'Gpus': [{'Name': 'H100'}]}",1.25
gpu-h100-sxm_8gpu-128vcpu-1600gb,H100,8,128,1600,23.60,eu-north1,"{'Gpus': [{'Name': 'H100'}]}",10.00
gpu-b200-sxm_8gpu-160vcpu-1792gb,B200,8,160,1792,44.00,us-central1,"{'Gpus': [{'Name': 'B200'}]}",
gpu-l40s-a_1gpu-8vcpu-32gb,L40S,1,8,32,1.5484,eu-north1,,"""


def skypilot(folder: Path, rows: str, cloud: str = "nebius", header: str = HEADER) -> PriceFile:
    file = folder / cloud / "vms.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{header}\n{rows}\n")
    return read_prices(file, price_catalogue(), DAY)


def reasons(found: PriceFile) -> dict[str, str]:
    return {one.where: one.reason for one in found.refused}


def test_a_skypilot_catalogue_gives_prices_of_one_device(tmp_path: Path) -> None:
    found = skypilot(tmp_path, NEBIUS)
    taken = [(one.hardware, one.usd_per_hour, one.commitment, one.region) for one in found.prices]
    assert taken == [
        ("h100-sxm", 2.95, "on demand", "eu-north1"),  # eight of them ask the same for each
        ("h100-sxm", 1.25, "spot", "eu-north1"),
        ("b200-sxm", 5.5, "on demand", "us-central1"),
        ("l40s", 1.5484, "on demand", "eu-north1"),
    ]
    assert {(one.provider, one.date) for one in found.prices} == {("nebius", DAY)} and not found.refused
    assert found.left_out == {"instances without an accelerator": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        # Azure's H100 was once listed at nothing.
        ("h100-sxm-8,H100,8,96,1900,0.0,eastus,,", r"Price is \$0: not for sale"),
        # Mithril's list prices were the least that one may bid.
        ("ccs-h200.sxm.1x,H200,1,20,200,1.0,us-central2-b,,1.0", r"list and spot price are the same \$1"),
        ("b200.sxm.1x,B200,1,20,200,0.01,us-central2-b,,", r"b200-sxm at \$0.01 on demand is below 50% of the middle"),
        ("h100-sxm-1,H100,1,20,200,2.9,x,,0.1", r"h100-sxm at \$0.1 spot is below 15%"),
        # GCP has a row for the host, and one without an instance for its accelerators.
        (",L4,1,,,0.56,us-central1,,0.22", "L4 is priced apart from its host"),
        ("a3-highgpu-8g,H100,8,208,1872,88.0,us-central1,,", "PCIe or SXM is not said, and prices differ"),
        ("nc-h100-nvl,H100,1,40,320,6.98,eastus,,", "it is NVL"),
        ("h100-sxm-pcie,H100,1,40,320,2.98,x,,", "it is PCIE and SXM"),
        ("gpu-l40s,L40S,0.5,4,16,0.8,x,,", "AcceleratorCount is 0.5: a part of a device"),
        ("gpu-l40s,L40S,1,4,16,cheap,x,,", "Price: takes a number, got 'cheap'"),
        ("gpu-l40s,L40S,1,4,16,,x,,", "has no price"),
    ],
)
def test_a_row_that_cannot_be_relied_on_is_refused_with_its_number_and_the_others_are_taken(
    tmp_path: Path, row: str, reason: str
) -> None:
    found = skypilot(tmp_path, f"{NEBIUS}\n{row}")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(reasons(found)["row 7"])
    assert len(found.prices) >= 4


def test_instances_say_their_form_in_words_of_their_own(tmp_path: Path) -> None:
    rows = (
        "gpu_8x_h100_sxm5,H100,8,208,1800,27.52,us-east-1,,",
        "h100-pcie-nvlink-1,H100,1,28,180,2.5,x,,",
        "p5.48xlarge,H100,8,192,2048,55.04,us-east-1,,",
        "Standard_NC24ads_A100_v4,A100-80GB,1,24,220,3.673,eastus,,",
        "x,V100,8,1,1,6.3,y,,",
    )
    found = skypilot(tmp_path, "\n".join(rows), "other")
    taken = [(one.hardware, one.usd_per_hour) for one in found.prices]
    assert taken == [("h100-sxm", 3.44), ("h100-pcie", 2.5), ("h100-sxm", 6.88), ("a100-pcie-80gb", 3.673)]
    assert found.left_out == {"V100, which the catalogue does not have": 1}


def test_undated_files_are_refused(tmp_path: Path) -> None:
    skypilot(tmp_path, NEBIUS)
    file = tmp_path / "nebius/vms.csv"
    with pytest.raises(CatalogueError, match="has no date: give its commit's, as --date"):
        read_prices(file, ())
    with pytest.raises(CatalogueError, match="--date: takes a day such as 2026-03-21, got 'May'"):
        read_prices(file, (), "May")
    moved = file.rename(tmp_path / "prices.csv")
    with pytest.raises(CatalogueError, match="give --provider"):
        read_prices(moved, (), DAY)
    assert read_prices(moved, (), DAY, "me").prices[0].provider == "me"


def test_an_own_csv(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text(
        "hardware,usd_per_hour,provider,commitment,date,source,usd_low,usd_high\n"
        "h100-sxm,1.9,Us,reserved,2026-10-01,contract 7,1.8,2.1\n"
        "h100-sxm,1.9,Us,reserved,,contract 7,,\n"
        "h10,1.9,Us,,2026-10-01,,,\n"
        "l4,free,Us,,2026-10-01,,,\n"
        "l4,0.5,Us,lease,2026-10-01,,,\n"
        "l4,0.5,Us,,2026-10-01,,,\n"
    )
    found = read_prices(file, ())
    first, last = found.prices
    assert (first.commitment, first.usd_low, first.usd_high, first.source) == ("reserved", 1.8, 2.1, "contract 7")
    assert (last.hardware, last.commitment, last.source) == ("l4", "on demand", "")
    found_reasons = reasons(found)
    assert found_reasons["row 3"].startswith("date: without a date")
    assert "no hardware 'h10'" in found_reasons["row 4"] and "got 'free'" in found_reasons["row 5"]
    assert "takes on demand, reserved, spot" in found_reasons["row 6"]
    assert len(read_prices(file, (), DAY).prices) == 3  # a date for the row that has none


MODELS: dict[str, dict[str, Any]] = {
    "sample_spec": {"litellm_provider": "one of", "mode": "chat", "input_cost_per_token": 0},
    "gpt-4o-mini": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
                    "cache_read_input_token_cost": 7.5e-08},
    "groq/openai/gpt-oss-20b": {"input_cost_per_token": 7.5e-08, "output_cost_per_token": 3e-07},
    "free": {"input_cost_per_token": 0, "output_cost_per_token": 0},
    "half": {"input_cost_per_token": 1e-6},
    "odd": {"input_cost_per_token": "1e-6", "output_cost_per_token": 1e-6},
    "thinker": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "output_cost_per_reasoning_token": 9e-6},
    "dear-cache": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "cache_read_input_token_cost": 2e-6},
    "text-embedding-3-small": {"mode": "embedding", "input_cost_per_token": 2e-08, "output_cost_per_token": 0},
}  # fmt: skip


def test_litellms_prices_of_hosted_models(tmp_path: Path) -> None:
    file = tmp_path / "model_prices.json"
    file.write_text(
        json.dumps({name: {"litellm_provider": "p", "mode": "chat", **one} for name, one in MODELS.items()})
    )
    with pytest.raises(CatalogueError, match="has no date: give the day of its release"):
        read_prices(file, ())
    found = read_prices(file, (), DAY)
    first, second = found.api_prices
    dollars = (first.usd_per_million_input, first.usd_per_million_output, first.usd_per_million_cached)
    assert dollars == pytest.approx((0.15, 0.6, 0.075))
    assert (second.model, second.usd_per_million_cached) == ("groq/openai/gpt-oss-20b", None)
    assert reasons(found) == {
        "free": "is $0 per token: free for some use, or unknown",
        "half": "is not priced by tokens read and generated",
        "odd": "input_cost_per_token is '1e-6': takes dollars per token",
        "thinker": "prices reasoning tokens apart, at $9 a million",
        "dear-cache": "asks more for a token from the cache than for one that is read",
    }
    assert found.left_out == {"models of kind embedding": 1}


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "{}", '{"a": 1}', "{", "[1]", 'a,b\n"1,2'])
def test_a_file_of_another_kind_is_one_error_that_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file.txt"
    file.write_text(text)
    with pytest.raises(CatalogueError, match=r"file\.txt: "):
        read_prices(file, (), DAY)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogueError, match="cannot be read as text"):
        read_prices(file, (), DAY)
