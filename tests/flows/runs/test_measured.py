"""What advice reads of a run: from rows written by hand to the numbers that it reckons with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from components.cost.advice import CoreSpeeds
from flows.runs.measured import measured_run
from flows.settings import ConfigError
from storage.artifacts import Artifact, Record
from storage.home import Home
from storage.named import answer

RUN = "20261122-140300-aaaa"
START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
COT = {
    "name": "sft cot", "accuracy": 0.6, "low": 0.5, "high": 0.7, "n": 100, "prompt_tokens": 12.0,
    "tokens_per_item": 30.0, "extra_training_usd": 0.0, "usd_per_thousand": 2.0, "needs_verifier": False,
}  # fmt: skip
BEST = {**COT, "name": "sft best_of@8", "extra_training_usd": 1.0, "tokens_per_item": 240.0, "needs_verifier": True}
UNPRICED = {name: value for name, value in COT.items() if name != "needs_verifier"}


def write_run(home: Home, facts: dict[str, dict[str, Any]], run: str = RUN) -> None:
    config = {"compute": {"usd_per_core_hour": 0.05}}
    event = {"run_id": run, "name": "life", "profile": "smoke", "time": START}
    home.tables.write("runs", run, [{**event, "event": "started", "status": "running", "config_json": config}])
    stages = [
        {
            "run_id": run, "stage": stage, "label": stage, "key": f"{number:064x}", "status": "ran", "group": "cost",
            "started_at": START, "ended_at": START, "facts_json": found,
        }
        for number, (stage, found) in enumerate(facts.items())
    ]  # fmt: skip
    home.tables.write("stages", run, stages)


def test_strategies_and_speeds_of_a_run(home: Home) -> None:
    speeds = {"prefill_tokens_per_second": 900.0, "decode_tokens_per_second": 300.0}
    facts: dict[str, dict[str, Any]] = {
        "account_costs": {"comparisons": [COT, BEST, UNPRICED]},
        "pretrain": {"num_params_non_embedding": 1000},
        "measure_serving": speeds,
    }
    write_run(home, facts)
    measured = measured_run(home, RUN[:8])
    assert measured.run_id == RUN and measured.fit is None and measured.sweep is None
    assert measured.speeds == CoreSpeeds(0.05, 1000.0, 900.0, 300.0)
    cot, best = measured.strategies
    assert (cot.name, cot.prompt_tokens, cot.answer_tokens, cot.verified) == ("sft cot", 12.0, 30.0, False)
    assert (cot.accuracy.value, cot.accuracy.low, cot.accuracy.high, cot.accuracy.n) == (0.6, 0.5, 0.7, 100)
    assert best.verified and best.option.cost(1000) == 1.0 + 2.0


def test_a_run_without_measured_costs_says_what_to_run(home: Home) -> None:
    write_run(home, {"account_costs": {"comparisons": [UNPRICED]}})
    with pytest.raises(ConfigError, match=f"run {RUN} has not measured .*lifespan run --only account_costs"):
        measured_run(home, "newest")


def test_the_reach_of_a_sweep_is_in_the_laws_own_units(home: Home) -> None:
    write_run(home, {"train_on_facts": {}, "other": {}})
    key, other = f"{0:064x}", f"{1:064x}"
    at = {"run_id": RUN, "key": key, "sweep": "dense", "variant": "", "seed": 1, "num_params_kind": "non_embedding"}
    points = [(100.0, 500, 4.0), (100.0, 1000, 3.5)]
    rows = [{**at, "num_params": n, "tokens": d, "flops": 1.0, "loss": loss} for n, d, loss in points]
    home.tables.write("scaling_points", "dense", rows)
    home.tables.write("scaling_points", "moe", [{**rows[0], "sweep": "moe", "loss": 0.1, "key": other}])
    cost = {"run_id": RUN, "key": key, "stage": "train_on_facts", "group": "scaling", "cpu_seconds": 3.0}
    home.tables.write("costs", "c", [{**cost, "seconds": 9.0, "usd": 1.0, "tokens": 1000, "flops": 1.0}])
    (reach,) = answer(home, "sweep_reach", run=RUN)
    # The training of 100 parameters on 1,000 tokens, 6ND FLOPs, took 3 seconds of a core.
    assert reach == {
        "min_params": 100, "max_params": 100, "min_tokens": 500, "max_tokens": 1000, "lowest_loss": 3.5,
        "training_flops_per_second": 6 * 100 * 1000 / 3,
    }  # fmt: skip


def test_facts_of_one_stage_or_of_all(home: Home) -> None:
    write_run(home, {"pretrain": {"loss": 1}, "ppo": {"kl": 2}})
    assert [row["facts_json"] for row in answer(home, "facts", stage="ppo")] == ['{"kl": 2}']
    assert [row["stage"] for row in answer(home, "facts")] == ["ppo", "pretrain"]


def test_a_law_that_another_version_fitted_says_what_to_do(home: Home) -> None:
    write_run(home, {"account_costs": {"comparisons": [COT]}, "fit_scaling_law": {}})
    key = f"{1:064x}"
    with home.store.writing(key) as folder:
        (folder / "chinchilla.json").write_text("{}")
        artifact = Artifact("scaling_fit", key, {})
        home.store.seal(folder, Record(artifact, "fit_scaling_law", {}, {}, {}, RUN))
    with pytest.raises(ConfigError, match=r"its fitted law has no '\w+', so another version made it: `lifespan run`"):
        measured_run(home, RUN)
