"""The report as one HTML file: styles, figures and one script inside, no address outside.

The markup is in `templates/`. Whatever a run, a model or a user wrote is escaped there by jinja2; only the figures,
which `figures.canvas` made, go into the page as markup. The script, `templates/report.js`, sorts and copies tables; the
page's policy names its hash, so that a browser runs it and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dashboards import formatting, labels
from dashboards.blocks import Table, chosen_table
from dashboards.facts.effects import Effect
from dashboards.facts.texts import Text
from dashboards.report_model import LifeReport
from dashboards.run_data import StageRow

COMMANDS = (
    ("open the MLflow and Prefect pages", "lifespan ui"),
    ("see what a run would do and why", "lifespan plan"),
    ("see the state of this home", "lifespan status"),
)
_HERE = Path(__file__).with_name("templates")
_VERDICT_CLASSES = {
    "held": "seen",
    "seen": "seen",
    "not seen": "unseen",
    "not identified": "unseen",
    "measured": "measured",
    "not measured": "unmeasured",
}


def render_html(report: LifeReport) -> str:
    """The page. It needs no network: a policy in its head forbids the browser any."""
    script = _HERE.joinpath("report.js").read_text(encoding="utf-8")
    states = [stage.status for stage in report.stages]
    return (
        _templates()
        .get_template("report.html")
        .render(
            run=report.run,
            num_stages={state: states.count(state) for state in ("ran", "cached", "failed")},
            headlines=report.headlines,
            scope=report.scope,
            before=report.before,
            chosen=chosen_table(report.chosen) if report.chosen else None,
            sections=report.sections,
            figures=report.figures,
            section_of=report.section_of,
            texts=report.texts,
            script=Markup(script),
            script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
            stages=list(zip(report.stages, _clock(report.stages), strict=True)),
            queries=queries(report.run.run_id),
            commands=COMMANDS,
        )
    )


def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "bar": _bar,
        "by_stage": lambda texts: _by_stage(texts).items(),
        "cells": _cells,
        "code_spans": _code_spans,
        "duration": formatting.duration,
        "group": partial(labels.label, labels.GROUPS),
        "svg": Markup,
        "verdict_class": lambda effect: _VERDICT_CLASSES[effect.verdict],
    }
    return templates


@dataclass(frozen=True)
class Bar:
    """An interval on a line, all in percent of the line's length."""

    zero: float
    low: float
    value: float
    width: float


def _bar(effect: Effect) -> Bar | None:
    """The interval of an effect on a line that holds it and zero; None without a finite interval."""
    x = effect.interval
    if x is None or not all(map(math.isfinite, (x.low, x.high))):
        return None
    reach = max(abs(x.low), abs(x.high)) or 1.0
    least, most = min(x.low, 0.0) - 0.1 * reach, max(x.high, 0.0) + 0.1 * reach

    def at(value: float) -> float:
        return round(100 * (value - least) / (most - least), 1)

    return Bar(at(0.0), at(x.low), at(x.value), max(at(x.high) - at(x.low), 1.0))


def _cells(row: Sequence[str], table: Table) -> list[tuple[str, str]]:
    """Class and text of every cell of a row."""
    return [("r" if side == ">" else "l", cell) for side, cell in zip(table.align, row, strict=True)]


def _code_spans(text: str) -> list[tuple[bool, str]]:
    """A sentence in pieces; True marks what stood between backticks."""
    return [(bool(index % 2), piece) for index, piece in enumerate(re.split("`([^`]+)`", text))]


def _by_stage(texts: Sequence[Text]) -> dict[str, list[Text]]:
    groups: dict[str, list[Text]] = {}
    for text in texts:
        groups.setdefault(text.stage, []).append(text)
    return groups


def _clock(stages: Sequence[StageRow]) -> list[tuple[float, float] | None]:
    """When each stage ran: start and length in percent of the run's clock; None where it is not known."""
    starts = [s.started_at for s in stages if s.started_at]
    ends = [s.ended_at for s in stages if s.ended_at]
    begin = min(starts, default=None)
    span = (max(ends) - begin).total_seconds() if begin and ends else 0.0

    def place(stage: StageRow) -> tuple[float, float] | None:
        if not (stage.started_at and stage.ended_at and begin and span > 0):
            return None
        left = 94 * (stage.started_at - begin).total_seconds() / span
        width = 94 * (stage.ended_at - stage.started_at).total_seconds() / span
        return left, max(width, 0.4)  # a short one is still seen

    return [place(stage) for stage in stages]


def queries(run_id: str) -> tuple[tuple[str, str], ...]:
    """What a reader may want to ask of the tables, and the SQL for it. Cached stages keep their rows under the run
    that made them, hence the joins by key."""
    run = run_id.replace("'", "''")
    stages = f"(SELECT DISTINCT key, label FROM stages WHERE run_id = '{run}')"
    return (
        (
            "what each stage cost",
            "SELECT made.label, sum(seconds) AS seconds, sum(flops) AS flops, sum(usd) AS usd "
            f"FROM costs JOIN {stages} made USING (key) GROUP BY ALL ORDER BY usd DESC",
        ),
        (
            "accuracy by strategy",
            "SELECT suite, model, strategy, avg(correct::INT) AS accuracy, count(*) AS n, "
            f"avg(completion_tokens) AS tokens FROM evals JOIN {stages} USING (key) GROUP BY ALL ORDER BY ALL",
        ),
        (
            "a training curve",
            f"SELECT step, value FROM metrics JOIN {stages} USING (key) "
            "WHERE label = 'pretrain' AND name = 'loss' ORDER BY step",
        ),
        (
            "the scaling points",
            "SELECT sweep, variant, num_params, tokens, loss "
            f"FROM scaling_points JOIN {stages} USING (key) ORDER BY ALL",
        ),
    )
