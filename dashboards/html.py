"""The report as one HTML file: styles and figures inside, no script, no address outside."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dashboards import formatting
from dashboards.blocks import Section, Table
from dashboards.facts.effects import Effect, Missing
from dashboards.facts.texts import Text
from dashboards.figures.alignment import alignment_figure, grpo_figure
from dashboards.figures.architecture import recurrent_figure
from dashboards.figures.canvas import Figure
from dashboards.figures.cost import cost_figure
from dashboards.figures.forgetting import forgetting_figure
from dashboards.figures.reasoning import reasoning_figure, tree_figure
from dashboards.figures.scaling import emergence_figure, moe_figure, scaling_figure
from dashboards.figures.training import data_figure, training_figure
from dashboards.report_model import LifeReport
from dashboards.run_data import StageRow
from dashboards.sections import sections

_STYLE = Path(__file__).with_name("report.css")
_SHORT = {
    "data": "Data",
    "rlhf": "RLHF",
    "grpo": "GRPO",
    "scaling": "Scaling",
    "moe": "Experts",
    "recurrent": "Recurrent",
    "reasoning": "Reasoning",
    "tree": "Tree of Thought",
    "cost": "Cost",
}
_CLASS = {"seen": "seen", "not seen in this run": "unseen", "measured": "measured", "not measured": "unmeasured"}


def render_html(report: LifeReport) -> str:
    """The page. It needs no network: a policy in its head forbids the browser any."""
    run = report.run
    parts = sections(report)
    drawn = _figures(report)
    title = escape(run.name)
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title} · Lifespan</title>",
            f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body>",
            _header(report),
            _contents(parts),
            "<main>",
            _headlines(report.headlines),
            *(_section(part, drawn.get(part.slug)) for part in parts),
            _texts(report.texts),
            _pipeline(report.stages),
            _commands(run.run_id),
            "</main>",
            "<footer>Intervals are 95%. A verdict is computed from its interval, never written by hand.</footer>",
            "</body></html>\n",
        )
    )


def figures(report: LifeReport) -> dict[str, tuple[str, ...]]:
    """The panels of every figure as SVG, by the part that it belongs to."""
    return {slug: figure.panels for slug, figure in _figures(report).items() if figure is not None}


@functools.lru_cache(maxsize=1)  # seconds: the page and the tracker show the same ones
def _figures(report: LifeReport) -> dict[str, Figure | None]:
    def drawn(facts: Any, draw: Callable[[Any], Figure | None]) -> Figure | None:
        return None if isinstance(facts, Missing) else draw(facts)

    return {
        "data": drawn(report.data, data_figure),
        "pretraining": drawn(report.pretraining, lambda facts: training_figure("pretraining", facts)),
        "finetuning": drawn(report.finetuning, lambda facts: training_figure("finetuning", facts.training)),
        "rlhf": drawn(report.alignment, alignment_figure),
        "grpo": drawn(report.grpo, grpo_figure),
        "forgetting": drawn(report.forgetting, forgetting_figure),
        "scaling": drawn(report.scaling, scaling_figure),
        "emergence": drawn(report.emergence, emergence_figure),
        "moe": drawn(report.moe, moe_figure),
        "recurrent": drawn(report.recurrent, recurrent_figure),
        "reasoning": drawn(report.reasoning, reasoning_figure),
        "tree": drawn(report.tree, tree_figure),
        "cost": drawn(report.cost, cost_figure),
    }


def _header(report: LifeReport) -> str:
    run = report.run
    states = [stage.status for stage in report.stages]
    pairs = [
        ("profile", run.profile),
        ("started", f"{run.started_at:%Y-%m-%d %H:%M} UTC" if run.started_at else ""),
        ("took", formatting.duration(run.seconds)),
        ("stages", f"{states.count('ran')} ran, {states.count('cached')} cached, {states.count('failed')} failed"),
        ("run", run.run_id),
    ]
    chips = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs if value)
    brand = '<p class="brand">Lifespan · the life of a model</p>'
    return f"<header>{brand}<h1>{escape(run.name)}</h1><dl>{chips}</dl></header>"


def _contents(parts: Sequence[Section]) -> str:
    names = [("headlines", "In ten lines"), *((part.slug, _SHORT.get(part.slug, part.title)) for part in parts)]
    names += [("texts", "Texts"), ("pipeline", "Pipeline"), ("commands", "Commands")]
    links = "".join(f'<a href="#{slug}">{escape(name)}</a>' for slug, name in names)
    return f'<nav aria-label="Contents">{links}</nav>'


def _headlines(effects: Iterable[Effect]) -> str:
    lines = "".join(f"<li>{_effect(effect)}</li>" for effect in effects)
    return f'<section id="headlines"><h2>In ten lines</h2><ol class="effects">{lines}</ol></section>'


def _effect(effect: Effect) -> str:
    """One line: verdict, claim, the two sides, and the difference with its interval as text and as a bar."""
    kind = _CLASS[effect.verdict]
    difference = (
        f'<span class="difference">{escape(effect.difference)}</span>{_bar(effect)}<small>{effect.size}</small>'
        if effect.difference
        else ""
    )
    method = f' title="{escape(effect.method)}"' if effect.method else ""
    return (
        f'<div class="effect {kind}"{method}><span class="verdict">{escape(effect.verdict)}</span>'
        f'<div class="claim"><strong>{escape(effect.title)}</strong><span>{escape(effect.numbers)}</span></div>'
        f'<div class="evidence">{difference}</div></div>'
    )


def _bar(effect: Effect) -> str:
    """The interval on a line with zero marked, scaled so that both fit."""
    x = effect.interval
    if x is None or not all(map(math.isfinite, (x.low, x.high))):
        return ""
    reach = max(abs(x.low), abs(x.high)) or 1.0
    least, most = min(x.low, 0.0) - 0.1 * reach, max(x.high, 0.0) + 0.1 * reach

    def at(value: float) -> str:
        return f"{100 * (value - least) / (most - least):.1f}"

    width = max(float(at(x.high)) - float(at(x.low)), 1.0)
    return (
        f'<span class="bar" aria-hidden="true"><i style="left:{at(0.0)}%"></i>'
        f'<b style="left:{at(x.low)}%;width:{width:.1f}%"></b><u style="left:{at(x.value)}%"></u></span>'
    )


def _section(part: Section, figure: Figure | None) -> str:
    if part.missing:
        body = f'<p class="missing">{escape(part.missing)}</p>'
    else:
        body = f'<p class="meaning">{_prose(part.meaning)}</p>'
        if figure is not None:
            body += _figure(figure)
        if part.effects:
            items = "".join(f"<li>{_effect(e)}<p>{escape(e.method)}</p></li>" for e in part.effects)
            body += f'<ul class="effects">{items}</ul>'
        body += f'<div class="tables">{"".join(_table(table) for table in part.tables)}</div>'
    return f'<section id="{part.slug}"><h2>{escape(part.title)}</h2>{body}</section>'


def _prose(text: str) -> str:
    """A sentence, with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _figure(figure: Figure) -> str:
    panels = "".join(f"<div>{svg}</div>" for svg in figure.panels)
    return f'<figure><div class="panels">{panels}</div><figcaption>{escape(figure.caption)}</figcaption></figure>'


def _table(table: Table) -> str:
    sides = ["r" if side == ">" else "l" for side in table.align]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f'<{tag} class="{side}">{escape(cell)}</{tag}>' for side, cell in zip(sides, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    grid = f"<table><thead><tr>{cells('th', table.columns)}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="table"><h3>{escape(table.title)}</h3><div class="scroll" tabindex="0">{grid}</div></div>'


def _texts(texts: Sequence[Text]) -> str:
    if not texts:
        return '<section id="texts"><h2>Texts</h2><p class="missing">No stage wrote samples in this run.</p></section>'
    by_stage: dict[str, list[Text]] = {}
    for text in texts:
        by_stage.setdefault(text.stage, []).append(text)
    groups = []
    for stage, samples in by_stage.items():
        shown = "".join(
            f"<li><pre><span>{escape(s.prompt)}</span>{escape(s.completion)}</pre>"
            + (f"<small>{escape(s.note)}</small>" if s.note else "")
            + "</li>"
            for s in samples
        )
        groups.append(f"<details open><summary>{escape(stage)}</summary><ul>{shown}</ul></details>")
    meaning = '<p class="meaning">Prompts in grey, then what the model wrote.</p>'
    return f'<section id="texts"><h2>Texts</h2>{meaning}{"".join(groups)}</section>'


def _pipeline(stages: Sequence[StageRow]) -> str:
    """Every stage with its state and time, and when it ran as a bar on the run's clock."""
    starts = [s.started_at for s in stages if s.started_at]
    ends = [s.ended_at for s in stages if s.ended_at]
    begin = min(starts, default=None)
    span = (max(ends) - begin).total_seconds() if begin and ends else 0.0
    rows = []
    for stage in stages:
        bar = ""
        if stage.started_at and stage.ended_at and begin and span > 0:
            left = 94 * (stage.started_at - begin).total_seconds() / span
            width = max(94 * (stage.ended_at - stage.started_at).total_seconds() / span, 0.4)
            bar = f'<b style="left:{left:.2f}%;width:{width:.2f}%"></b>'
        state = escape(stage.status)
        rows.append(
            f'<tr class="{state}"><td class="l">{escape(stage.label)}</td><td class="l">{escape(stage.group)}</td>'
            f'<td class="l"><span class="state">{state}</span></td>'
            f'<td class="r">{escape(formatting.duration(stage.seconds))}</td>'
            f'<td class="clock">{bar}</td><td class="l key">{escape(stage.key[:12])}</td></tr>'
        )
    cached = sum(stage.status == "cached" for stage in stages)
    meaning = f"{len(stages)} stages" if stages else "No stage was recorded"
    meaning += f"; {cached} came from the cache and cost this run nothing." if cached else "."
    names = (
        ("l", "stage"),
        ("l", "part"),
        ("l", "state"),
        ("r", "time"),
        ("l", "on the run's clock"),
        ("l", "artifact"),
    )
    head = "".join(f'<th class="{side}">{name}</th>' for side, name in names)
    return (
        f'<section id="pipeline"><h2>Pipeline</h2><p class="meaning">{meaning}</p><div class="scroll" tabindex="0">'
        f'<table class="stages"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def queries(run_id: str) -> tuple[tuple[str, str], ...]:
    """What a reader may want to ask of the tables, and the SQL for it. Cached stages keep their rows under the run
    that made them, hence the joins by key."""
    run = run_id.replace("'", "''")
    stages = f"(SELECT DISTINCT key, label FROM stages WHERE run_id = '{run}')"
    return (
        (
            "what each stage cost",
            "SELECT label, sum(seconds) AS seconds, sum(flops) AS flops, sum(usd) AS usd "
            f"FROM costs JOIN {stages} USING (key) GROUP BY ALL ORDER BY usd DESC",
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


def _commands(run_id: str) -> str:
    asked = "".join(
        f'<dt>{escape(what)}</dt><dd><code>lifespan query "{escape(sql)}"</code></dd>' for what, sql in queries(run_id)
    )
    others = (
        ("open the MLflow and Prefect pages", "lifespan ui"),
        ("see what a run would do and why", "lifespan plan"),
        ("see the state of this home", "lifespan status"),
    )
    run = "".join(f"<dt>{escape(what)}</dt><dd><code>{escape(command)}</code></dd>" for what, command in others)
    meaning = '<p class="meaning">Every number above is in the tables.</p>'
    return f'<section id="commands"><h2>Commands</h2>{meaning}<dl class="commands">{asked}{run}</dl></section>'
