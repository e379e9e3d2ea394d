"""One style for all figures, and matplotlib figures turned into small inline SVG that follows the page's theme.

A figure is drawn with the colours below, which stand for CSS variables: the page gives them their light and dark
values. Text stays text in the page's font. Nothing global in matplotlib is touched but inside `panel`.

Matplotlib takes a second to import, so it is imported when the first panel is drawn: what only names figures (the list
of parts, and through it the report in a terminal) never pays for it.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dashboards import formatting
from dashboards.figures.hover import tell, with_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn -> the CSS variable that it becomes.
INK, MUTED, GRID, PAPER = "#101820", "#5b6673", "#d9dee4", "#fdfdfe"
BLUE, ORANGE, GREEN, PURPLE, RED, GOLD = "#2563a8", "#c8591b", "#1f8a5c", "#7a4fa4", "#c23b4c", "#a8790f"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, GOLD)
RAMP = ("#9fc3e6", "#7cabd9", "#5b92ca", "#3f79b8", "#2a61a1", "#1b4a85", "#0f3566", "#082347")  # small to large
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--page",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    RED: "--red",
    GOLD: "--gold",
    **{color: f"--ramp{i}" for i, color in enumerate(RAMP)},
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: its widths are an upper bound for the page's font
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}
_PAD = 4.0  # pixels around a panel's content
_INCHES = (4.7, 3.25)  # at 72 to the inch: two side by side on a laptop, one fills a phone


@dataclass(frozen=True)
class Figure:
    """What a section shows: panels of SVG side by side, and a caption."""

    slug: str
    caption: str
    panels: tuple[str, ...]


@dataclass
class Panel:
    """An open panel: draw into `axes`; `svg` is filled when its block ends."""

    axes: Axes
    svg: str = field(default="")


@contextmanager
def panel(slug: str, title: str, xlabel: str, ylabel: str, inches: tuple[float, float] = _INCHES) -> Iterator[Panel]:
    """Open a panel with the house style. `slug` must be unique in the page: it prefixes every id of the SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({**_STYLE, "svg.hashsalt": slug}):
        canvas = Canvas(figsize=inches)
        backend = FigureCanvasSVG(canvas)
        axes = canvas.add_subplot()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        opened = Panel(axes)
        yield opened
        if axes.get_legend_handles_labels()[0] and axes.get_legend() is None:
            axes.legend()
        _fill(axes)
        told = tell(axes)
        out = io.StringIO()
        backend.print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        opened.svg = _inline(
            with_titles(out.getvalue(), told), slug, f"{title}: {ylabel} against {xlabel}" if xlabel else title
        )


def _fill(axes: Axes) -> None:
    """Let the axes with their labels and legend fill the canvas. Matplotlib's own layouts measure everything twice."""
    paper = axes.figure.bbox
    axes.set_position((0.14, 0.17, 0.83, 0.73))  # near enough for the ticks to be those of the final place
    box, taken = axes.get_window_extent(), axes.get_tightbbox(for_layout_only=True)
    assert taken is not None
    left, below = box.x0 - taken.x0 + _PAD, box.y0 - taken.y0 + _PAD
    right, above = taken.x1 - box.x1 + _PAD, taken.y1 - box.y1 + _PAD
    width, height = paper.width - left - right, paper.height - below - above
    axes.set_position((left / paper.width, below / paper.height, width / paper.width, height / paper.height))


def _inline(svg: str, slug: str, label: str) -> str:
    """Matplotlib's file as an element of a page: ids of its own, the page's colours and font, no foreign address."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{slug}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{slug}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{slug}-\1"', svg)
    svg = re.sub(r"font: (?:(bold|\d00) )?([\d.]+)px [^;\"]*", _font, svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r">\s+<", "><", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    opening = (
        f'<svg class="panel" viewBox="{box[1] if box else "0 0 338 234"}" role="img" aria-label="{html.escape(label)}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opening, svg, count=1).strip()


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 600; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def log_axis(axes: Axes, which: str, subs: Sequence[float] = (1.0,)) -> None:
    """A logarithmic axis whose ticks read 10k, 1M."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(lambda value, _: formatting.short(value))
    axis.set_minor_formatter(NullFormatter())


def count_axis(axes: Axes, which: str, bins: int = 6) -> None:
    from matplotlib.ticker import MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(bins))
    axis.set_major_formatter(lambda value, _: formatting.short(value))


def percent_axis(axes: Axes, which: str = "y") -> None:
    getattr(axes, f"{which}axis").set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def with_interval(
    axes: Axes,
    x: Sequence[float],
    middle: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    color: str,
    **style: Any,
) -> None:
    """Points with the bars of their intervals."""
    below = [max(m - value, 0.0) for m, value in zip(middle, low, strict=True)]
    above = [max(value - m, 0.0) for m, value in zip(middle, high, strict=True)]
    drawn: dict[str, Any] = {"fmt": "o", "capsize": 2.5, "elinewidth": 1.2, "color": color, **style}
    axes.errorbar(x, middle, yerr=(below, above), **drawn)


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma & Ba 2015)."""
    result, mean = [], 0.0
    for i, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        result.append(mean / (1 - weight**i))
    return result


def thinned(xs: Sequence[float], ys: Sequence[float], at_most: int = 300) -> tuple[list[float], list[float]]:
    """Every k-th point and the last: a curve of a screen's width needs no more."""
    step = max(1, -(-len(xs) // at_most))
    chosen = sorted({*range(0, len(xs), step), len(xs) - 1}) if xs else []
    return [xs[i] for i in chosen], [ys[i] for i in chosen]
