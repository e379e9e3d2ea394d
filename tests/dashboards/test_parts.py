"""The list of parts: what an entry brings into every view, what is read and imported for it, and names for people."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from dashboards import labels, report_model, run_data
from dashboards.blocks import Section, Table, body
from dashboards.facts.effects import Effect, Missing
from dashboards.figures.canvas import Figure
from dashboards.figures.reasoning import STRATEGY_COLORS
from dashboards.html import render_html
from dashboards.parts import PARTS, Part
from dashboards.report import collect
from dashboards.report_model import LifeReport
from dashboards.run_data import RunRows
from dashboards.terminal import render_terminal
from storage.home import Home

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"


def printed(report: LifeReport) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_terminal(report))
    return console.export_text()


@dataclass(frozen=True)
class SpeedFacts:
    """A part as a newcomer writes one."""

    tokens_per_second: float
    effects: tuple[Effect, ...]


def speed_facts(rows: RunRows) -> SpeedFacts | Missing:
    stage = rows.find("pretrain")
    values = rows.metric(stage, "tokens_per_second").values
    if not values:
        return Missing(rows.why_missing("pretraining", "The speed"))
    return SpeedFacts(max(values), (Effect("fast", "Training is fast", "measured", numbers="as it was"),))


def speed_section(facts: SpeedFacts) -> Section:
    table = Table("Peak", ("tokens per second",), ">", ((f"{facts.tokens_per_second:.0f}",),))
    return body("How fast it trained.", (table,), facts.effects)


def speed_figure(facts: SpeedFacts) -> Figure | None:
    return Figure("speed", "A caption of its own.", ('<svg class="panel"><g id="speed-bars"/></svg>',))


def test_one_entry_brings_a_part_into_every_view(life, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Part("speed", "Speed of training", "Speed", speed_facts, speed_section, speed_figure)
    monkeypatch.setattr(report_model, "PARTS", (*PARTS, entry))
    life.stage("pretrain", 1, {}, metrics=life.curve("tokens_per_second", 3, lambda x: 1000 * x))
    life.end()
    report = collect(life.home)
    assert report.effects["fast"].numbers == "as it was"
    assert report.figures["speed"].panels
    assert "Speed of training" in printed(report)
    page = render_html(report)
    assert '<a href="#speed">Speed</a>' in page
    figure = ('<g id="speed-bars"/>', "A caption of its own.")
    for shown in ("Speed of training", "How fast it trained.", ">1000<", *figure):
        assert shown in page


def test_every_part_stands_in_files_of_one_name() -> None:
    assert Counter(part.slug for part in PARTS).most_common(1)[0][1] == 1
    for part in PARTS:
        folders = [function.__module__.split(".") for function in (part.section, part.figure)]
        assert [folder[1] for folder in folders] == ["sections", "figures"]
        assert folders[0][2] == folders[1][2]
        assert (DASHBOARDS / "sections" / f"{folders[0][2]}.py").exists()


def test_the_report_in_a_terminal_does_not_pay_for_matplotlib(home: Home) -> None:
    script = (
        "import io, sys; from pathlib import Path; from rich.console import Console; from storage.home import Home\n"
        "from dashboards.report import collect; from dashboards.terminal import render_terminal\n"
        "import flows.commands.cli\n"
        "report = collect(Home(Path(sys.argv[1]))); Console(file=io.StringIO()).print(render_terminal(report))\n"
        "assert len(report.sections) > 10\n"
        "assert not {'matplotlib', 'jinja2'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(Path(home.tables.url).parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every series that is read, as (key of its stage, name)."""
    found: list[tuple[str, str]] = []
    points = run_data._points

    def noted(home: Home, key: str, name: str) -> run_data.Points:
        found.append((key, name))
        return points(home, key, name)

    monkeypatch.setattr(run_data, "_points", noted)
    return found


def test_the_terminal_reads_only_the_series_that_it_shows(home: Home, read: list[tuple[str, str]]) -> None:
    report = collect(home)
    shown = printed(report)
    keys = {stage.key: stage.label for stage in report.stages}
    seen = {(keys[key].split("[")[0], name) for key, name in read}
    assert seen == {
        ("pretrain", "loss"),
        ("pretrain", "tokens_per_second"),
        ("pretrain", "mfu"),
        ("finetune", "tokens_per_second"),
        ("finetune", "mfu"),
        ("ppo", "gold"),  # which coefficient the verdict speaks of
        ("grpo", "objective/reward"),
        ("grpo", "groups/zero_variance"),
    }
    assert "Training loss fell from" in shown
    assert max(Counter(read).values()) == 1  # each but once, however often it is looked at
    before = len(read)
    render_html(report)
    assert {name for _, name in read[before:]} >= {"objective/kl", "gold_low", "gold_high"}  # the page draws them
    assert max(Counter(read).values()) == 1


def test_of_a_step_that_was_written_twice_the_last_value_counts(life) -> None:
    import datetime

    rows = life.curve("loss", 4, lambda x: 5.0)
    rows += [
        {**rows[2], "value": 3.0, "time": rows[2]["time"] + datetime.timedelta(hours=1)},
        {**rows[3], "value": float("nan")},
    ]
    life.stage("pretrain", 1, {}, metrics=rows[::-1])
    life.end()
    found = run_data.read_run(life.home)
    series = found.metric(found.find("pretrain"), "no such", "loss")
    assert (series.steps, series.values) == ((1, 2, 3, 4), (5.0, 5.0, 3.0, 5.0))
    assert not found.metric(found.find("pretrain"), "no such")
    assert not found.metric(None, "loss")


def test_every_strategy_of_a_life_has_a_colour_and_a_name_of_its_own(report: LifeReport) -> None:
    scores = [*report.facts["reasoning"].scores, *report.facts["tree"].scores]
    families = {score.family for score in scores}
    assert {"self_consistency", "best_of", "tree_of_thought"} <= families
    assert families <= set(STRATEGY_COLORS)
    assert families <= set(labels.STRATEGIES)
    # On one suite no two families that are joined to a line share a colour.
    for part in ("reasoning", "tree"):
        sized = {score.family for score in report.facts[part].scores if score.k}
        assert len({STRATEGY_COLORS[family] for family in sized}) == len(sized)
    for section in report.sections:
        cells = [cell for table in section.tables for row in table.rows for cell in row if section.slug != "cost"]
        assert not [cell for cell in cells if "self_consistency" in cell or "tree_of_thought" in cell]


@pytest.mark.parametrize(
    ("name", "family", "size", "shown"),
    [
        ("cot", "cot", None, "chain of thought"),
        ("self_consistency@16", "self_consistency", 16, "self-consistency, k=16"),
        (
            "tree_of_thought[depth,judge,60]",
            "tree_of_thought",
            None,
            "Tree of Thought, depth first, judged by the model, up to 60 states",
        ),
        ("brand_new", "brand_new", None, "brand new"),
    ],
)
def test_strategies_are_named_in_words(name: str, family: str, size: int | None, shown: str) -> None:
    assert labels.strategy(name, family, size) == shown
