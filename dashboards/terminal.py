"""The report in a terminal: the ten lines that matter first, then a compact table a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from dashboards import formatting
from dashboards.blocks import Section, Table, chosen_table
from dashboards.facts.effects import Effect, Verdict
from dashboards.report_model import LifeReport

BETWEEN = 3  # cells between two columns
LONG_CELL = 24  # of words; a longer one may be broken
LOOK: dict[Verdict, tuple[str, str]] = {  # verdict -> mark, style
    "held": ("✓", "green"),
    "seen": ("✓", "green"),
    "not seen": ("✗", "yellow"),
    "not identified": ("?", "yellow"),
    "measured": ("·", "cyan"),
    "not measured": ("–", "dim"),
}


def render_terminal(report: LifeReport, longest_table: int = 14) -> RenderableType:
    """The whole report. Tables of more than `longest_table` rows are cut; the page has all of them."""
    parts: list[RenderableType] = [_head(report), Padding(Text(report.scope, "italic"), (1, 0, 0, 1))]
    parts += [_headlines(report)]
    if report.chosen:
        parts += [Fitted(chosen_table(report.chosen), longest_table)]
    for section in report.sections:
        parts += _section(report, section, longest_table)
    return Group(*parts)


def _head(report: LifeReport) -> RenderableType:
    run = report.run
    cached = sum(stage.status == "cached" for stage in report.stages)
    ran = sum(stage.status == "ran" for stage in report.stages)
    line = Text.assemble(
        ("Life of ", "bold"),
        (run.name, "bold cyan"),
        f"  profile {run.profile or formatting.MISSING}",
        f" · {formatting.duration(run.seconds)} · {ran} stages ran, {cached} cached",
    )
    failed = [stage.label for stage in report.stages if stage.status == "failed"]
    if failed:
        line.append(f" · failed: {', '.join(failed)}", "bold red")
    return Padding(line, (1, 0, 0, 0))


def _headlines(report: LifeReport) -> RenderableType:
    table = RichTable(box=box.SIMPLE_HEAD, show_header=False, expand=True, padding=(0, 1))
    table.add_column(width=1)
    table.add_column(ratio=1)
    for effect in report.headlines:
        mark, style = LOOK[effect.verdict]
        line = Text(effect.here, "bold")
        line.append(f"  {effect.verdict}", style)
        line.append(f"\n{effect.numbers}", "default not bold" if effect.verdict != "not measured" else "dim not bold")
        if effect.difference:
            line.append(f"\n{_evidence(effect)}", "cyan not bold")
        if before := report.before(effect):
            line.append(f"\n{before}", "dim not bold")
        table.add_row(Text(mark, style), line)
    return table


def _evidence(effect: Effect) -> str:
    return ", ".join(text for text in (effect.difference, effect.size) if text)


def _section(report: LifeReport, section: Section, longest: int) -> Iterator[RenderableType]:
    yield Rule(Text(section.title, "bold"), align="left", style="dim")
    if section.missing:
        yield Padding(Text(section.missing, "yellow"), (0, 0, 1, 1))
        return
    yield Padding(Text(section.meaning), (0, 0, 0, 1))
    for effect in section.effects:
        mark, style = LOOK[effect.verdict]
        detail = _evidence(effect) or effect.numbers
        before = f"; {before}" if (before := report.before(effect)) else ""
        line = Text.assemble((f"{mark} ", style), f"{effect.here}: ", (detail, "cyan"), (before, "dim"))
        yield Padding(line, (0, 0, 0, 1))
    if section.tables:
        yield Fitted(section.tables[0], longest)


@dataclass(frozen=True)
class Fitted:
    """A table that leaves out its last columns where the terminal is too narrow for them, and says which."""

    table: Table
    longest: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table
        widths = column_widths(table, options.max_width - 2)
        drawn = RichTable(
            title=table.title,
            title_justify="left",
            title_style="dim",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            header_style="bold",
            caption_justify="left",
        )
        for name, side, width in zip(table.columns, table.align, widths, strict=False):
            drawn.add_column(name, justify="right" if side == ">" else "left", overflow="fold", width=width)
        for row in table.rows[: self.longest]:
            drawn.add_row(*(Text(cell) for cell in row[: len(widths)]))  # Text: a bracket of an interval is no markup
        left = [f"{len(table.rows) - self.longest} more rows"] if len(table.rows) > self.longest else []
        if names := [name or "–" for name in table.columns[len(widths) :]]:
            left.append(", ".join(names))
        if left:
            drawn.caption = f"in the page: {'; '.join(left)}"
        yield Padding(drawn, (0, 0, 1 if left else 0, 1))


def column_widths(table: Table, room: int) -> list[int]:
    """Widths in cells of the first columns that fit into `room`: numbers stay whole, headings are broken at spaces."""
    columns = list(zip(table.columns, table.align, zip(*table.rows, strict=True), strict=True))
    wanted = [max(cell_len(text) for text in (name, *cells)) for name, _, cells in columns]
    least = []
    for name, side, cells in columns:
        whole = [cell_len(cell) if side == ">" else min(cell_len(cell), LONG_CELL) for cell in cells]
        least.append(max([1, *whole, *map(cell_len, name.split())]))
    while len(least) > 1 and sum(least) + BETWEEN * len(least) > room:
        least.pop()
    spare = room - sum(least) - BETWEEN * len(least)
    for index, width in enumerate(least):
        more = max(0, min(wanted[index] - width, spare))
        least[index] += more
        spare -= more
    return least
