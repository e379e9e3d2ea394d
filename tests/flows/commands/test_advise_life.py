"""Advice on a life without a run of one's own: what is printed, as JSON, and one line for what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.cli import app

LIKE = ["advise", "--like", "llama-2-7b", "--requests-per-day", "1e6", "--months", "24"]


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "home"))


def test_a_life_like_llama_needs_no_run() -> None:
    done = CliRunner().invoke(app, [*LIKE, "--latency-ttft", "1", "--latency-tpot", "0.05", "--api", "0.1/0.4"])
    assert done.exit_code == 0, done.output
    for part in ("compute-optimal", "d_model", "devices", "Besiroglu et al. 2024", "limits:", "RunPod, 2026-03-21"):
        assert part in done.output
    assert "one's own pays from about" in done.output


def test_json_adds_up() -> None:
    done = CliRunner().invoke(app, [*LIKE, "--json"])
    found = json.loads(done.output)
    best = found["best"]
    cheaper = min(best["on_demand_usd"], best["reserved_usd"])
    assert best["life_usd"] == pytest.approx(best["training_usd"] + cheaper)
    assert best["life_usd"] < found["compute_optimal"]["life_usd"]
    assert found["inference_share"] == pytest.approx(cheaper / best["life_usd"])
    assert found["life_usd"]["low"] < best["life_usd"] < found["life_usd"]["high"]
    assert best["num_heads"] % best["num_kv_heads"] == 0 and len(found["assumptions"]) >= 6


def test_an_accuracy_is_asked_of_the_law_that_has_one() -> None:
    done = CliRunner().invoke(app, ["advise", "--target-accuracy", "0.5"])
    assert done.exit_code == 0 and "an accuracy of 50.0% is a loss of 2.54" in done.output


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--hardware", "h10-sxm"], "--hardware: no hardware 'h10-sxm': did you mean 'h100-sxm'?"),
        (["--requests-per-day", "0"], "--requests-per-day is 0: takes a finite number above 0"),
        (["--requests-per-day", "-3"], "--requests-per-day is -3"),
        (["--budget", "-1"], "--budget is -1: takes dollars"),
        (["--budget", "10"], "--budget 10 USD is too little for any model of this demand: the least is"),
        (["--latency-tpot", "nan"], "--latency-tpot is nan: takes seconds"),
        (["--latency-tpot", "0.00001"], "the nearest is"),
        (["--api", "cheap"], "--api cheap: takes dollars a million tokens read and written, such as 0.1/0.4"),
        (["--law", "chinchila"], "did you mean 'chinchilla'?"),
        (["--law", "run"], "no run"),
        (["--target-loss", "2"], "takes one of --like, --target-loss and --target-accuracy, got 2"),
    ],
)
def test_odd_asks_get_one_line(asked: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [*LIKE, *asked])
    assert done.exit_code == 2, done.output
    assert message in done.output and done.output.startswith("error: ") and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--like", "lama-2-7b"], "did you mean 'llama-2-7b'?"),
        (["--like", "mixtral-8x7b"], "nobody says on how many tokens"),
        (["--like", "qwen3-30b-a3b"], "mixture of experts"),
        (["--target-accuracy", "1.5"], "--target-accuracy is 1.5: takes a share between 0 and 1"),
        (["--target-accuracy", "0.9"], "the nearest that can be asked for is 0.726"),
        (["--target-loss", "1.8"], "at or below the irreducible 1.8172"),
        (["--target-loss", "inf"], "--target-loss is inf"),
        (["--think"], "no run of this home has measured"),
    ],
)
def test_odd_targets_get_one_line(asked: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["advise", *asked])
    assert done.exit_code == 2, done.output
    assert message in done.output and done.output.count("\n") == 1
