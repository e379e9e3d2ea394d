"""The report in a terminal: the ten lines that matter first, then a compact table a part."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from dashboards import wording
from dashboards.blocks import Section, Table
from dashboards.facts.effects import Effect, Verdict
from dashboards.life import LifeReport
from dashboards.sections import sections

LOOK: dict[Verdict, tuple[str, str]] = {  # verdict -> mark, style
    "seen": ("✓", "green"),
    "not seen in this run": ("✗", "yellow"),
    "measured": ("·", "cyan"),
    "not measured": ("–", "dim"),
}


def render_terminal(report: LifeReport, longest_table: int = 14) -> RenderableType:
    """The whole report. Tables of more than `longest_table` rows are cut; the page has all of them."""
    parts: list[RenderableType] = [_head(report), _headlines(report.headlines)]
    for section in sections(report):
        parts += _section(section, longest_table)
    return Group(*parts)


def _head(report: LifeReport) -> RenderableType:
    run = report.run
    cached = sum(stage.status == "cached" for stage in report.stages)
    ran = sum(stage.status == "ran" for stage in report.stages)
    line = Text.assemble(
        ("Life of ", "bold"),
        (run.name, "bold cyan"),
        f"  profile {run.profile or wording.MISSING}",
        f" · {wording.duration(run.seconds)} · {ran} stages ran, {cached} cached",
    )
    failed = [stage.label for stage in report.stages if stage.status == "failed"]
    if failed:
        line.append(f" · failed: {', '.join(failed)}", "bold red")
    return Padding(line, (1, 0, 0, 0))


def _headlines(effects: tuple[Effect, ...]) -> RenderableType:
    table = RichTable(box=box.SIMPLE_HEAD, show_header=False, expand=True, padding=(0, 1))
    table.add_column(width=1)
    table.add_column(ratio=1)
    for effect in effects:
        mark, style = LOOK[effect.verdict]
        line = Text(effect.title, "bold")
        line.append(f"  {effect.verdict}", style)
        line.append(f"\n{effect.numbers}", "default not bold" if effect.verdict != "not measured" else "dim not bold")
        if effect.difference:
            line.append(f"\n{_evidence(effect)}", "cyan not bold")
        table.add_row(Text(mark, style), line)
    return table


def _evidence(effect: Effect) -> str:
    return ", ".join(text for text in (effect.difference, effect.size) if text)


def _section(section: Section, longest: int) -> Iterator[RenderableType]:
    yield Rule(Text(section.title, "bold"), align="left", style="dim")
    if section.missing:
        yield Padding(Text(section.missing, "yellow"), (0, 0, 1, 1))
        return
    yield Padding(Text(section.meaning), (0, 0, 0, 1))
    for effect in section.effects:
        mark, style = LOOK[effect.verdict]
        detail = _evidence(effect) or effect.numbers
        yield Padding(Text.assemble((f"{mark} ", style), f"{effect.title}: ", (detail, "cyan")), (0, 0, 0, 1))
    if section.tables:
        yield _table(section.tables[0], longest)


def _table(table: Table, longest: int) -> RenderableType:
    drawn = RichTable(
        title=table.title,
        title_justify="left",
        title_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
    )
    for name, side in zip(table.columns, table.align, strict=True):
        drawn.add_column(name, justify="right" if side == ">" else "left", overflow="fold", no_wrap=side == ">")
    for row in table.rows[:longest]:
        drawn.add_row(*(Text(cell) for cell in row))  # Text: a bracket of an interval is no markup
    if len(table.rows) > longest:
        drawn.caption = f"{len(table.rows) - longest} more rows in the page"
    return Padding(drawn, (0, 0, 0, 1))
