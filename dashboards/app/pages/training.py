"""A stage as it trains: loss, gradient, throughput; what is new is read from where the last look ended."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from dashboards.app.address import Address
from dashboards.app.figures.curves import live_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import ask, typed
from dashboards.app.view import Block, Chart, Control, Controls, Note, View, missing
from storage.home import Home
from storage.live import live_files, read_live

BUCKETS = 400
MOST_CHARTS = 6
# What is looked at first, where a stage has it.
FIRST = (
    "loss",
    "valid_loss",
    "objective/score",
    "gold",
    "objective/kl",
    "greedy_accuracy",
    "objective/reward",
    "grad_norm",
    "tokens_per_second",
    "lr_factor",
    "loss/policy",
    "rewards/accuracy",
    "eval_loss",
)
SKIPPED = ("skipped", "policy/skipped_updates", "reward_model/skipped_updates")
_STAGES = """
        WITH s AS (SELECT label, key, min(started_at) AS started FROM stages
                   WHERE run_id = $run AND status <> 'failed' GROUP BY ALL)
        SELECT s.label, s.key, v.name, v.n FROM s JOIN last_values v USING (key) WHERE v.n > 1
        ORDER BY s.started, s.label, v.name"""
_CURVE = """
        WITH m AS (SELECT step, value FROM live_metrics WHERE key = $key AND name = $name AND isfinite(value)),
             w AS (SELECT max(step) + 1 AS width FROM m)
        SELECT min(step) AS step, avg(value) AS mean, min(value) AS low, max(value) AS high
        FROM m, w GROUP BY step * $points // width ORDER BY step"""
_SKIPS = """
        SELECT DISTINCT step FROM live_metrics
        WHERE key = $key AND name IN (SELECT unnest($names)) AND value > 0 ORDER BY step LIMIT 200"""


def training_page(home: Home, address: Address, outside: Outside) -> View:
    """The curves of one stage of one run; live while it runs."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Training", f"No run yet in {home.shown}.", ("Runs", "/"))
    found = ask(home, _STAGES, {"run": run})
    stages: dict[str, tuple[str, list[str]]] = {}
    for label, key, name in zip(found["label"], found["key"], found["name"], strict=True):
        stages.setdefault(label, (key, []))[1].append(name)
    live = _live_stages(home, run)
    for label, (key, names) in live.items():
        stages[label] = key, names
    alive = run in outside.running()
    if not stages:
        text = "No stage of this run has logged anything yet." if alive else "No stage of this run has written a curve."
        return View(
            "Training", (Controls((control,)), Note(text, "muted")), refresh=2.0 if alive else 0.0, address=address.used
        )
    default = next(iter(live), "pretrain")
    label = address.text("stage", default, list(stages))
    key, names = stages[label]
    chosen = [name for name in address.names("metrics", MOST_CHARTS) if name in names] or first_of(names)
    address.used["metrics"] = ",".join(chosen)
    options = tuple((one, f"{one} · running" if alive and one in live else one) for one in stages)
    blocks: list[Block] = [
        Controls(
            (
                control,
                Control("stage", "stage", "select", label, options),
                Control("metrics", "metrics", "multi", ",".join(chosen), tuple((one, one) for one in names)),
            )
        )
    ]
    if label in live and not alive:
        blocks.append(
            Note("This stage was stopped before it was sealed; the next run goes on from its last state.", "warn")
        )
    skipped = ask(home, _SKIPS, {"key": key, "names": list(SKIPPED)})["step"] if set(SKIPPED) & set(names) else []
    for name in chosen:
        params = {"key": key, "name": name, "points": BUCKETS}
        rows = ask(home, _CURVE, params)
        marks = skipped if name == chosen[0] else []
        blocks.append(
            Chart(
                f"curve-{name}",
                name,
                live_figure(label, name, rows, marks),
                typed(_CURVE, params),
                height=300,
                live=label in live,
            )
        )
    return View("Training", tuple(blocks), address=address.used, refresh=0.0)


def first_of(names: list[str]) -> list[str]:
    """What to draw of a stage's metrics when nobody has chosen."""
    first = [name for name in FIRST if name in names]
    held_out = [name for name in names if name.startswith("valid_loss/")]
    return (first + held_out + [name for name in names if name not in first])[:4]


def _live_stages(home: Home, run: str) -> dict[str, tuple[str, list[str]]]:
    """By label, key and metrics of the stages of a run that show their points now."""
    found = {}
    for file in live_files(home):
        with contextlib.suppress(OSError):
            lines = read_live(file).lines
            if lines and lines[-1]["run_id"] == run:
                names = sorted({name for line in lines for name in line["name"]})
                found[str(lines[-1]["label"])] = (str(lines[-1]["key"]), names)
    return found


def live_points(home: Home, run: str, cursors: Mapping[str, str]) -> dict[str, Any]:
    """What the stages of a run have logged since the cursors: per label the cursor, whether it began anew, and columns
    step, name, value. A label without a cursor tells only where its end is: the page has drawn what came before."""
    stages = {}
    for file in live_files(home):
        try:
            key = file.parent.name
            read = read_live(file, cursors.get(key, ""))
        except OSError:
            continue  # sealed meanwhile
        mine = [line for line in read.lines if line["run_id"] == run]
        if not mine and key not in cursors:
            continue
        fresh = mine if key in cursors else []
        stages[key] = {
            "label": mine[-1]["label"] if mine else "",
            "cursor": read.cursor,
            "afresh": read.afresh and key in cursors,
            "step": [step for line in fresh for step in line["step"]],
            "name": [name for line in fresh for name in line["name"]],
            "value": [value for line in fresh for value in line["value"]],
        }
    return {"stages": stages}
