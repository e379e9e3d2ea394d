"""One run: what it shows, when its stages ran, and what lies behind each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards import formatting
from dashboards.app.address import Address, link
from dashboards.app.figures.timeline import timeline_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import Columns, ask, typed
from dashboards.app.view import Block, Chart, Column, Controls, Fact, Facts, Note, Table, Text, Texts, View, missing
from storage.home import Home

_SUMMARY = "SELECT * FROM run_summary WHERE run_id = $run"
_STAGES = """
        SELECT label, stage, "group", status, started_at, ended_at, seconds, key, reason
        FROM run_stages WHERE run_id = $run ORDER BY started_at NULLS LAST, label"""
_CLAIMS = """
        SELECT claim, title, verdict, value, low, high, n, unit, numbers FROM claims WHERE run_id = $run
        ORDER BY array_position(['held', 'seen', 'not seen', 'not identified'], verdict)
                 NULLS LAST, claim"""
_STAGE = """
        SELECT label, stage, key, kind, status, reason, config_json, facts_json, inputs_json
        FROM run_stages WHERE run_id = $run AND label = $label"""
_MADE_FROM = "SELECT DISTINCT key, label, status FROM run_stages WHERE run_id = $run AND key IN (SELECT unnest($keys))"
_COSTS = (
    "SELECT usd, seconds, cpu_seconds, tokens, flops, paid_by_run FROM run_costs WHERE run_id = $run AND label = $label"
)
LOG_BYTES = 60_000  # of a stage's log that are shown


def run_page(home: Home, address: Address, outside: Outside) -> View:
    """The verdicts, the timeline by worker, and the stage that was chosen."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Run", f"No run yet in {home.shown}.", ("Runs", "/"))
    found = ask(home, _SUMMARY, {"run": run})
    if not found["run_id"]:
        return missing("Run", f"There is no run {run} in {home.shown}.", ("Runs", "/"))
    row = {name: values[0] for name, values in found.items()}
    stages = ask(home, _STAGES, {"run": run})
    alive = run in outside.running()
    blocks: list[Block] = [Controls((control,)), _head(home, row, alive)]
    if row["status"] == "running" and not alive:
        blocks.append(
            Note("This run was killed: what it sealed is kept, and `lifespan run` goes on from there.", "warn")
        )
    for label, reason in _failed(stages):
        blocks.append(Note(f"{label} failed: {reason}", "bad", (("look at it", link("/run", run=run, stage=label)),)))
    workers = workers_of(home, run)
    blocks.append(
        Chart(
            "timeline",
            "When its stages ran",
            timeline_figure(stages, workers),
            typed(_STAGES, {"run": run}),
            "A click on a stage shows its settings, its log and why it ran. Cached stages took no time.",
            height=min(900, 90 + 22 * max(len(set(stages["label"])), 1)),
        )
    )
    claims = ask(home, _CLAIMS, {"run": run})
    blocks.append(_claims(claims, run))
    label = address.text("stage")
    if label:
        blocks[2:2] = _stage(home, run, label)
    return View(
        str(row["name"] or run),
        tuple(blocks),
        refresh=2.0 if alive else 0.0,
        address=address.used,
        links=(
            ("Training", link("/training", run=run)),
            ("Compare", link("/compare", runs=run)),
            *((("MLflow", f"/mlflow/{run}"),) if outside.mlflow else ()),
            *((("Report", f"/report/{run}"),) if home.report(run).exists() else ()),
        ),
    )


def _head(home: Home, row: Mapping[str, Any], alive: bool) -> Facts:
    run, sql = row["run_id"], typed(_SUMMARY, {"run": row["run_id"]})
    state = "running" if alive else "killed" if row["status"] == "running" else row["status"]
    accuracy = formatting.percent(row["accuracy"])
    if row["accuracy"] is not None:
        accuracy += f" [{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]"
    tone: dict[str, Any] = {"completed": "good", "failed": "bad", "killed": "warn", "interrupted": "warn"}
    return Facts(
        (
            Fact("state", state, tone=tone.get(state, "")),
            Fact("profile", row["profile"] or formatting.MISSING),
            Fact("took", formatting.duration(row["seconds"])),
            Fact("dollars", formatting.dollars(row["usd"]), link("/cost", run=run), sql),
            Fact("energy", formatting.energy(row["energy_joules"]), "", sql),
            Fact("held-out loss", formatting.decimal(row["held_out_loss"]), link("/training", run=run), sql),
            Fact("best accuracy [95%]", accuracy, link("/reasoning", run=run), sql),
            Fact("gold of the best policy", formatting.signed(row["gold"]), link("/alignment", run=run), sql),
            Fact("stages", f"{row['ran']} ran, {row['cached']} cached, {row['failed']} failed"),
        )
    )


def _failed(stages: Columns) -> list[tuple[str, str]]:
    zipped = zip(stages["label"], stages["status"], stages["reason"], strict=True)
    return [
        (label, (reason or "it says no reason").splitlines()[0])
        for label, status, reason in zipped
        if status == "failed"
    ]


def _claims(claims: Columns, run: str) -> Table:
    return Table(
        "claims",
        "What it shows",
        (
            Column("verdict", "verdict", "verdict"),
            Column("title", "claim"),
            Column("value", "difference", "number", low="low", high="high"),
            Column("unit", ""),
            Column("n", "n", "count"),
            Column("numbers", "the two sides"),
        ),
        claims,
        typed(_CLAIMS, {"run": run}),
        "A verdict is computed from its interval. One training: its intervals are over items, not over trainings.",
        empty="this run's report has not been written yet, so no claim was put on trial",
    )


# --- a stage -------------------------------------------------------------------------------------------------------


def _stage(home: Home, run: str, label: str) -> list[Block]:
    found = ask(home, _STAGE, {"run": run, "label": label})
    if not found["label"]:
        return [Note(f"Run {run} has no stage {label}.", "warn", (("all stages", link("/run", run=run)),))]
    row = {name: values[0] for name, values in found.items()}
    cost = ask(home, _COSTS, {"run": run, "label": label})
    paid = {name: values[0] if values else None for name, values in cost.items()}
    record = home.store.record(row["key"]) if re.fullmatch(r"[0-9a-f]{64}", row["key"] or "") else None
    facts = Facts(
        (
            Fact("state", row["status"], tone="bad" if row["status"] == "failed" else ""),
            Fact("why it ran" if row["status"] == "ran" else "why", row["reason"] or formatting.MISSING),
            Fact("dollars", formatting.dollars(paid["usd"]), "", typed(_COSTS, {"run": run, "label": label})),
            Fact("core time", formatting.duration(paid["cpu_seconds"])),
            Fact("tokens", formatting.count(paid["tokens"])),
            Fact("paid by", paid["paid_by_run"] or formatting.MISSING, link("/run", run=paid["paid_by_run"])),
            Fact("artifact", f"{row['kind'] or ''} {row['key'][:12]}" + ("" if record else ", not in the store")),
        ),
        f"Stage {label}",
    )
    blocks: list[Block] = [facts, _settings(row["config_json"], "settings", "Its settings")]
    blocks.append(_settings(row["facts_json"], "found", "What it found out"))
    blocks.append(_lineage(home, run, row["inputs_json"], record))
    log = stage_log(home, run, row["key"])
    if log:
        blocks.append(Texts("Its log", (Text(label, log),), wide=True))
    return blocks


def _settings(text: str | None, id: str, title: str) -> Table:
    flat = flattened(json.loads(text)) if text else {}
    return Table(
        id,
        title,
        (Column("name", "name"), Column("value", "value")),
        {"name": list(flat), "value": [_shown(value) for value in flat.values()]},
        empty="none",
    )


def _shown(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) or value is None else str(value)
    )


def _lineage(home: Home, run: str, text: str | None, record: Any) -> Table:
    inputs = [
        (name, key)
        for name, given in (json.loads(text) if text else {}).items()
        for key in (given if isinstance(given, list) else [given])
    ]
    known = ask(home, _MADE_FROM, {"run": run, "keys": [key for _, key in inputs]})
    labels = dict(zip(known["key"], known["label"], strict=True))
    modules = sorted(record.code) if record else []
    return Table(
        "lineage",
        "What it was made from",
        (
            Column("input", "input"),
            Column("made_by", "made by", href=f"/run?run={run}&stage={{made_by}}"),
            Column("key", "artifact"),
        ),
        {
            "input": [name for name, _ in inputs],
            "made_by": [labels.get(key, "") for _, key in inputs],
            "key": [key[:16] for _, key in inputs],
        },
        note=f"Its key covers {len(modules)} modules of code." if modules else "",
        empty="no inputs: it begins with the settings alone",
    )


def flattened(value: Any, name: str = "", most: int = 400) -> dict[str, Any]:
    """Nested settings as `a.b.c` -> value; lists of plain values stay whole."""
    flat: dict[str, Any] = {}

    def walk(one: Any, path: str) -> None:
        if len(flat) >= most:
            return
        if isinstance(one, dict) and one:
            for key, inner in one.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        else:
            flat[path or "value"] = one

    walk(value, name)
    return flat


# --- the logs of workers -------------------------------------------------------------------------------------------

_BEGIN = re.compile(r"^=== (.+) ([0-9a-f]{12}) of run (\S+)$", re.MULTILINE)


def workers_of(home: Home, run: str) -> dict[str, str]:
    """By label, the worker that made the stage, from the marks in the workers' logs."""
    found = {}
    for file in _logs(home, run):
        for label, _, _ in _BEGIN.findall(_read(file)):
            found[label] = file.stem
    return found


def stage_log(home: Home, run: str, key: str) -> str:
    """What a worker's log says of a stage, its end where it is long; "" where there is none."""
    for file in _logs(home, run):
        text = _read(file)
        marks = list(_BEGIN.finditer(text))
        for mark, after in zip(marks, [*marks[1:], None], strict=True):
            if mark[2] == key[:12]:
                return text[mark.end() : after.start() if after else None].strip()[-LOG_BYTES:]
    return ""


def _logs(home: Home, run: str) -> Sequence[Path]:
    if not re.fullmatch(r"[\w.-]+", run) or run.startswith("."):
        return ()
    return sorted((home.local / "logs" / run).glob("worker-*.log"))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
