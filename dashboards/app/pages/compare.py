"""Runs beside each other: only the settings that differ, the numbers, and their curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.app.address import Address
from dashboards.app.figures.curves import AXES, Curve, curves_figure, seeds_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.run import flattened
from dashboards.app.rows import Columns, ask, run_names, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Format, Note, Table, View, missing
from storage.home import Home

BUCKETS = 400  # of a curve: more than a screen shows
_RUNS = "SELECT run_id, config_json FROM runs WHERE event = 'started' AND run_id IN (SELECT unnest($runs))"
_NUMBERS = "SELECT * FROM run_summary WHERE run_id IN (SELECT unnest($runs))"
_NAMES = """
        SELECT DISTINCT s.label, v.name FROM stages s JOIN last_values v USING (key)
        WHERE s.run_id IN (SELECT unnest($runs)) AND s.status IN ('ran', 'cached') AND v.n > 1 ORDER BY ALL"""
# Buckets of steps, never ntile; least and greatest make the band, so that no spike is averaged away.
_CURVES = """
        WITH wanted AS (
            SELECT DISTINCT run_id, key FROM stages
            WHERE run_id IN (SELECT unnest($runs)) AND label = $label AND status IN ('ran', 'cached')),
        m AS (SELECT w.run_id, w.key, step, value, epoch(time) AS moment
              FROM metrics JOIN wanted w USING (key) WHERE name = $name AND isfinite(value)),
        spent AS (SELECT key, sum(tokens) AS tokens, sum(usd) / nullif(sum(seconds), 0) AS rate
                  FROM costs WHERE key IN (SELECT key FROM wanted) GROUP BY key),
        w AS (SELECT run_id, max(step) + 1 AS width, max(step) AS final_step, min(moment) AS began
              FROM m GROUP BY run_id)
        SELECT m.run_id, min(step) AS step, avg(value) AS mean, min(value) AS low, max(value) AS high,
               min(step) / nullif(any_value(final_step), 0) * any_value(tokens) AS tokens,
               min(moment) - any_value(began) AS time,
               (min(moment) - any_value(began)) * any_value(rate) AS dollars
        FROM m JOIN w USING (run_id) LEFT JOIN spent USING (key)
        GROUP BY m.run_id, step * $points // width ORDER BY m.run_id, step"""
_LAST = """
        WITH wanted AS (
            SELECT DISTINCT run_id, key FROM stages
            WHERE run_id IN (SELECT unnest($runs)) AND label = $label AND status IN ('ran', 'cached'))
        SELECT w.run_id, min(value) AS least, arg_min(step, value) AS least_at, max(value) AS greatest,
               arg_max(step, value) AS greatest_at, arg_max(value, step) AS final, max(step) AS final_at
        FROM metrics JOIN wanted w USING (key) WHERE name = $name AND isfinite(value)
        GROUP BY w.run_id ORDER BY w.run_id"""
_SUMMARY: tuple[tuple[str, Format], ...] = (
    ("status", "status"),
    ("accuracy", "percent"),
    ("held_out_loss", "number"),
    ("gold", "number"),
    ("usd", "dollars"),
    ("seconds", "duration"),
    ("forecast_error", "number"),
    ("alarms", "count"),
    ("seen", "count"),
    ("not_seen", "count"),
)


def compare_page(home: Home, address: Address, outside: Outside) -> View:
    """Settings, numbers and curves of the runs in the address; without any, of the two newest."""
    known = run_names(home)
    runs = address.names("runs") or tuple(run for run, _ in known[:2])
    if not runs:
        return missing("Compare", f"No run yet in {home.shown}.", ("Runs", "/"))
    address.used["runs"] = ",".join(runs)
    heads = ask(home, _RUNS, {"runs": list(runs)})
    found = [run for run in runs if run in heads["run_id"]]
    blocks: list[Block] = []
    if lost := [run for run in runs if run not in found]:
        blocks.append(Note(f"not in this home: {', '.join(lost)}", "warn"))
    if not found:
        return View("Compare", (*blocks, Note("Choose runs on the first page.", "muted", (("Runs", "/"),))))
    configs = {
        run: flattened(json.loads(text or "{}"))
        for run, text in zip(heads["run_id"], heads["config_json"], strict=True)
    }
    numbers = ask(home, _NUMBERS, {"runs": found})
    base = address.text("baseline", "", ["", *found])
    choices = (("", "none"), *((run, run) for run in found))
    blocks.append(Controls((Control("baseline", "baseline", "select", base, choices),)))
    blocks.append(differences(found, configs, numbers, typed(_NUMBERS, {"runs": found}), base))
    blocks += _curves(home, address, found, known, configs)
    return View("Compare", tuple(blocks), address=address.used)


# What a run has more or less of than the baseline.
_AGAINST: tuple[tuple[str, Format], ...] = (
    ("accuracy", "percent"),
    ("held_out_loss", "number"),
    ("gold", "number"),
    ("usd", "dollars"),
    ("seconds", "number"),
)


def differences(
    runs: Sequence[str], configs: Mapping[str, Mapping[str, Any]], numbers: Columns, sql: str, base: str = ""
) -> Table:
    """A row a run: the settings in which they differ, then the numbers, then how far those are from the baseline's."""
    names = dict.fromkeys(name for run in runs for name in configs[run])
    differ = [name for name in names if len({_text(configs[run].get(name)) for run in runs}) > 1]
    at = {run: place for place, run in enumerate(numbers["run_id"])}
    rows: Columns = {"run_id": list(runs)}
    for name in differ:
        rows[f"set_{name}"] = [_text(configs[run].get(name)) for run in runs]
    for name in dict.fromkeys(
        ["name", *(name for name, _ in _SUMMARY), "accuracy_low", "accuracy_high", "gold_low", "gold_high"]
    ):
        rows[name] = [numbers[name][at[run]] if run in at else None for run in runs]
    against = _AGAINST if base in at else ()
    for name, _ in against:
        start = numbers[name][at[base]]
        rows[f"than_{name}"] = [None if x is None or start is None else x - start for x in rows[name]]
    ends = {"accuracy": ("accuracy_low", "accuracy_high"), "gold": ("gold_low", "gold_high")}
    columns = (
        Column("run_id", "run", "text", "/run?run={run_id}"),
        *(Column(f"set_{name}", name) for name in differ[:40]),
        *(
            Column(n, n.replace("_", " "), form, low=ends.get(n, ("", ""))[0], high=ends.get(n, ("", ""))[1])
            for n, form in _SUMMARY
        ),
        *(Column(f"than_{n}", f"{n.replace('_', ' ')} − baseline", form) for n, form in against),
    )
    count = len(differ)
    said = (
        f"{count} setting{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}"
        if count
        else "no setting differs"
    )
    if count > 40:
        said += "; the first 40 are shown"
    return Table("differences", f"{len(runs)} run{'s' * (len(runs) > 1)}: {said}", columns, rows, sql)


def _text(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _curves(
    home: Home,
    address: Address,
    runs: list[str],
    known: Sequence[tuple[str, str]],
    configs: Mapping[str, Mapping[str, Any]],
) -> list[Block]:
    names = ask(home, _NAMES, {"runs": runs})
    pairs = list(zip(names["label"], names["name"], strict=True))
    if not pairs:
        return [Note("No stage of these runs has written a curve yet.", "muted")]
    labels = list(dict.fromkeys(label for label, _ in pairs))
    label = address.text("stage", "pretrain", labels)
    metrics = [name for one, name in pairs if one == label]
    metric = address.text("metric", "loss", metrics)
    x = address.text("x", "step", list(AXES))
    weight = address.number("smooth", 0.0, 0.0, 0.99)
    log_x, log_y, seeds = (address.flag(name) for name in ("logx", "logy", "seeds"))
    params = {"runs": runs, "label": label, "name": metric, "points": BUCKETS}
    rows = ask(home, _CURVES, params)
    curves = read_curves(rows, x, dict(known), configs)
    draw = seeds_figure if seeds else curves_figure
    ends = ask(home, _LAST, {"runs": runs, "label": label, "name": metric})
    controls = Controls(
        (
            Control("stage", "stage", "select", label, tuple((one, one) for one in labels)),
            Control("metric", "metric", "select", metric, tuple((one, one) for one in metrics)),
            Control("x", "over", "select", x, tuple((one, one) for one in AXES)),
            Control("smooth", "smooth", "range", weight, low=0.0, high=0.99, step=0.01),
            Control("logx", "log x", "check", log_x),
            Control("logy", "log y", "check", log_y),
            Control("seeds", "seeds as mean and band", "check", seeds),
        )
    )
    note = (
        "Runs that differ in the seed alone are one line; the band goes from the least to the greatest of them."
        if seeds
        else ""
    )
    if x in ("tokens", "dollars"):
        note += " Tokens are spread evenly over the stage's steps, dollars over its seconds."
    chart = Chart(
        "curves",
        f"{metric} of {label}",
        draw(curves, metric, x, weight, log_x, log_y),
        typed(_CURVES, params),
        note.strip(),
        420,
    )
    best = Table(
        "ends",
        "Best beside last",
        (
            Column("run_id", "run", href="/run?run={run_id}"),
            Column("least", "least", "number"),
            Column("least_at", "at step", "count"),
            Column("greatest", "greatest", "number"),
            Column("greatest_at", "at step", "count"),
            Column("final", "last", "number"),
            Column("final_at", "at step", "count"),
        ),
        ends,
        typed(_LAST, {"runs": runs, "label": label, "name": metric}),
    )
    return [controls, chart, best]


def read_curves(
    rows: Columns, x: str, names: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]
) -> list[Curve]:
    """Rows of buckets as curves, without the buckets whose place on the axis is not known."""
    found: dict[str, list[int]] = {}
    for place, run in enumerate(rows["run_id"]):
        if rows[x][place] is not None:
            found.setdefault(run, []).append(place)
    return [
        Curve(
            run,
            names.get(run, run).split(" · ")[1] + " " + run if run in names else run,
            [rows[x][place] for place in places],
            [rows["mean"][place] for place in places],
            [rows["low"][place] for place in places],
            [rows["high"][place] for place in places],
            group=_without_seed(configs.get(run, {})),
        )
        for run, places in found.items()
    ]


def _without_seed(config: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in config.items() if name != "seed"}, sort_keys=True, default=str)
