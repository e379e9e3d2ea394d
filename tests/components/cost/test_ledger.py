from __future__ import annotations

import datetime
import json

import pytest

from components.cost.focus import focus_rows
from components.cost.ledger import Rates, entry, lost

CORE = Rates("cpu", "cpu-core", usd_per_hour=3.6, pue=1.5, carbon_grams_per_kwh=400.0)
USED = {"tokens": 10.0, "prompt_tokens": 4.0, "generated_tokens": 6.0, "flops": 9e9, "flops_6nd": 8e9}


def test_an_entry_by_hand() -> None:
    row = entry({**USED, "seconds": 30.0, "cpu_seconds": 20.0, "peak_memory_bytes": 5e8}, CORE)
    assert row["device_seconds"] == 20.0  # a crowded machine makes nothing dearer
    assert row["usd"] == pytest.approx(20.0 / 3600 * 3.6)
    assert row["energy_joules"] == pytest.approx(4.375 * 20.0 * 1.5)
    assert row["carbon_grams"] == pytest.approx(4.375 * 20.0 * 1.5 / 3.6e6 * 400.0)
    assert row["mfu"] == pytest.approx(9e9 / (0.09e12 * 20.0))
    assert row["energy_basis"].startswith("modelled: 4.375 W rated x 1 drawn x PUE 1.5")
    assert (row["prompt_tokens"], row["generated_tokens"], row["peak_memory_bytes"]) == (4.0, 6.0, 500_000_000)


def test_an_accelerator_is_paid_by_the_clock_and_draws_less_than_its_rating() -> None:
    row = entry({**USED, "seconds": 30.0, "cpu_seconds": 20.0}, Rates("cuda:0", "h100-sxm", 3.6, pue=1.0))
    assert row["device_seconds"] == 30.0
    assert row["energy_joules"] == pytest.approx(700 * 0.75 * 30.0)


def test_measured_energy_stands_over_the_model_and_says_by_what() -> None:
    row = entry({**USED, "seconds": 30.0, "cpu_seconds": 20.0, "energy_joules": 100.0}, CORE, "RAPL")
    assert row["energy_joules"] == pytest.approx(150.0)
    assert row["energy_basis"] == "measured: RAPL x PUE 1.5"


def test_an_unreadable_meter_is_said() -> None:
    row = entry({**USED, "seconds": 1.0, "cpu_seconds": 1.0}, CORE, "no meter: RAPL needs root")
    assert row["energy_basis"].endswith("; no meter: RAPL needs root")


def test_power_that_nobody_publishes_is_no_number() -> None:
    row = entry({**USED, "seconds": 1.0, "cpu_seconds": 1.0}, Rates("tpu", "tpu-v5e", 1.2))
    assert row["energy_joules"] is None and row["carbon_grams"] is None and "not published" in row["energy_basis"]


def test_lost_is_what_no_state_holds() -> None:
    assert lost({"tokens": 9.0, "seconds": 5.0, "peak_memory_bytes": 7.0}, {"tokens": 6.0, "seconds": 5.5}) == {
        "tokens": 3.0,
        "seconds": 0.0,
    }


def test_focus_rows_add_up_and_carry_tags() -> None:
    end = datetime.datetime(2026, 12, 1, 0, 0, 10, tzinfo=datetime.UTC)
    row = {
        **dict.fromkeys(("prompt_tokens", "generated_tokens", "flops", "energy_joules", "carbon_grams")),
        "run_id": "r", "key": "k", "stage": "train", "label": "train[a]", "group": "sft", "outcome": "killed",
        "ended_at": end, "seconds": 20.0, "device_seconds": 1800.0, "usd": 2.0, "hardware": "h100-sxm", "tokens": 5,
    }  # fmt: skip
    (charge,) = focus_rows([row, {**row, "ended_at": None}], {"r": {"team": "red"}}, {"h100-sxm": "gpu"})
    assert charge["BilledCost"] == charge["EffectiveCost"] == charge["ListCost"] == 2.0
    assert (charge["ConsumedQuantity"], charge["ConsumedUnit"], charge["ListUnitPrice"]) == (0.5, "GPU-Hours", 4.0)
    assert charge["ChargePeriodStart"] == end - datetime.timedelta(seconds=20)
    assert (charge["BillingPeriodStart"].month, charge["BillingPeriodEnd"].month) == (11, 12)
    assert json.loads(charge["Tags"]) == {"team": "red", "lifespan.outcome": "killed"}
