"""A home of many runs whose rows follow known laws, for the pages and their benchmark. Nothing was trained for it."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from storage.home import Home

START = datetime(2026, 10, 1, tzinfo=UTC)
SEEDS = 5  # runs of equal settings, one after the other
STATUSES = ("completed", "completed", "completed", "failed", "interrupted", "running")
PARTS = ("pretrain", "evaluate_reasoning", "account_costs", "ppo", "forecast_loss")


def run_name(number: int) -> str:
    """Id of a run; it sorts by time."""
    return f"{START + timedelta(minutes=20 * number):%Y%m%d-%H%M%S}-{number:04x}"


def key_of(number: int, label: str) -> str:
    """Key of a stage's artifact."""
    return hashlib.sha256(f"{number} {label}".encode()).hexdigest()


def loss_at(number: int, step: np.ndarray) -> np.ndarray:
    """Loss of a run: a power law of the step whose start depends on the settings, with the noise of its seed."""
    setting, seed = divmod(number, SEEDS)
    noise = np.random.default_rng(number).standard_normal(len(step))
    return 2.0 + (1.5 + 0.01 * (setting % 50)) * (1.0 + step / 50.0) ** -0.5 + 0.05 * noise + 0.002 * seed


def fill(home: Home, runs: int, points: int = 2000, name: str = "life") -> None:
    """Write `runs` runs with five stages each and `points` points of the loss."""
    tables: dict[str, list[dict[str, Any]]] = {
        table: [] for table in ("runs", "stages", "costs", "evals", "forecasts", "claims", "samples")
    }
    for number in range(runs):
        for table, rows in _run(number, name).items():
            tables[table] += rows
    for table, rows in tables.items():
        home.tables.write(table, "generated", rows)
    steps = np.arange(points)
    for first in range(0, runs, 100):
        some = range(first, min(first + 100, runs))
        size = points * len(some)
        home.tables.write(
            "metrics",
            f"generated-{first:06d}",
            pa.table(
                {
                    "run_id": np.repeat([run_name(n) for n in some], points),
                    "key": np.repeat([key_of(n, "pretrain") for n in some], points),
                    "stage": pa.repeat(pa.scalar("pretrain"), size),
                    "step": np.tile(steps, len(some)),
                    "name": pa.repeat(pa.scalar("loss"), size),
                    "value": np.concatenate([loss_at(n, steps) for n in some]),
                    "time": pa.repeat(pa.scalar(START, pa.timestamp("us", tz="UTC")), size),
                }
            ),
        )


def _run(number: int, name: str) -> dict[str, list[dict[str, Any]]]:
    setting, seed = divmod(number, SEEDS)
    run, began = run_name(number), START + timedelta(minutes=20 * number)
    status = STATUSES[number % len(STATUSES)]
    config = {"seed": seed, "model": {"d_model": 64 + 16 * (setting % 8)}, "data": {"words": 1000 * (1 + setting % 3)}}
    head = {"run_id": run, "name": name, "profile": "generated"}
    events = [{**head, "event": "started", "status": "running", "time": began, "config_json": config}]
    if status != "running":
        ended = began + timedelta(minutes=6, seconds=number % 60)
        events.append({**head, "event": "ended", "status": status, "time": ended})
    stages, costs = [], []
    for place, label in enumerate(PARTS):
        failed = status == "failed" and label == "ppo"
        ran = "failed" if failed else "cached" if seed and label == "forecast_loss" else "ran"
        at = began + timedelta(minutes=place)
        stages.append(
            {
                "run_id": run,
                "stage": label,
                "label": label,
                "key": key_of(number, label),
                "status": ran,
                "reason": "the disk is full" if failed else "",
                "started_at": at,
                "ended_at": at + timedelta(seconds=50),
                "seconds": 50.0,
                "group": "pretraining",
                "facts_json": _facts(label, number),
                "config_json": config,
                "inputs_json": {},
            }
        )
        spent = {"usd": 0.01 * (place + 1), "seconds": 50.0, "energy_joules": 100.0, "tokens": 1000, "flops": 1e9}
        costs.append({"run_id": run, "key": key_of(number, label), "stage": label, "hardware": "cpu-core", **spent})
    common = {"run_id": run, "key": key_of(number, "evaluate_reasoning"), "stage": "evaluate_reasoning"}
    rng = np.random.default_rng(number)
    evals = [
        {
            **common,
            "suite": "chains",
            "model": "sft",
            "strategy": strategy,
            "strategy_family": family,
            "strategy_size": size,
            "needs_verifier": False,
            "greedy": size is None,
            "item_id": f"item{item}",
            "prompt": f"3 + {item} = ?",
            "target": str(3 + item),
            "answer": str(3 + item),
            "correct": bool(right),
            "prompt_tokens": 10,
            "completion_tokens": tokens,
        }
        for strategy, family, size, tokens, share in (
            ("cot", "cot", None, 20, 0.5),
            ("self_consistency@8", "self_consistency", 8, 160, 0.7),
        )
        for item, right in enumerate(rng.random(8) < share)
    ]
    observed = 2.0 + 0.01 * math.sin(number)
    forecast = {
        "run_id": run,
        "key": key_of(number, "forecast_loss"),
        "sweep": "dense",
        "target": "loss",
        "method": "law",
        "num_params": 10_000 * (1 + setting),
        "tokens": 100_000,
        "extrapolation": 3.0,
        "predicted": 2.0,
        "low": 1.99,
        "high": 2.02,
        "observed": observed,
        "made_at": began,
        "scored_at": began + timedelta(minutes=5),
    }
    claim = {
        "run_id": run,
        "claim": "forecast",
        "title": "A larger run is forecast",
        "seed": seed,
        "code": "c",
        "verdict": "seen" if 1.99 <= observed <= 2.02 else "not seen",
        "settings": str(setting),
        "time": began + timedelta(minutes=6),
        "side": "covers",
        "profile": "generated",
    }
    sample = {
        "run_id": run,
        "key": key_of(number, "ppo"),
        "stage": "ppo",
        "step": 1,
        "prompt": "Tell",
        "completion": "x",
    }
    return {
        "runs": events,
        "stages": stages,
        "costs": costs,
        "evals": evals,
        "forecasts": [forecast],
        "claims": [claim],
        "samples": [sample],
    }


def _facts(label: str, number: int) -> dict[str, Any]:
    if label == "pretrain":
        return {"loss": float(loss_at(number, np.array([2000]))[0])}
    if label == "ppo":
        gold = math.cos(number)
        return {"gold": gold, "gold_low": gold - 0.2, "gold_high": gold + 0.2, "alarm": number % 7 == 0, "kl": 1.0}
    return {}
