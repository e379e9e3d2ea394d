"""What a mark of a figure says when the pointer rests on it: a `<title>` in the SVG, without a script."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D

TARGETS = 24  # places of a line without marks that say their value

Told = dict[str, list[str]]  # by the id of a group in the SVG: a sentence for each of its shapes, in their order


def tell(axes: Axes) -> Told:
    """Give ids to what was drawn, and say what each mark and each bar stands for. A line without marks gets invisible
    ones; a line across the whole panel is no data."""
    told: Told = {}
    names, ends = _names(axes), _ends(axes)
    for line in list(axes.lines):
        if line.get_transform() != axes.transData or line.get_marker() in ("_", "|"):
            continue
        points = [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # type: ignore[arg-type]
        name, spans = names.get(line, ""), ends.get(line, [""] * len(points))
        if line.get_marker() in (None, "None", "", " "):
            if len(points) < 3 or not (name or len(axes.lines) < 3):
                continue
            points = points[:: -(-len(points) // TARGETS)]
            unseen = {"color": line.get_color(), "alpha": 0, "markersize": 9, "scalex": False, "scaley": False}
            (line,) = axes.plot(*zip(*points, strict=True), "o", **unseen)  # type: ignore[arg-type]
            spans = [""] * len(points)
        _give(told, line, [_point(axes, name, x, y) + span for (x, y), span in zip(points, spans, strict=True)])
    for bars in axes.containers:
        flat = getattr(bars, "orientation", "") == "horizontal"
        for patch in getattr(bars, "patches", ()):
            length = _value(axes.xaxis if flat else axes.yaxis, patch.get_width() if flat else patch.get_height())
            _give(told, patch, [": ".join(one for one in (_label(bars), length) if one)])
    return told


def _give(told: Told, artist: Any, sentences: list[str]) -> None:
    name = f"told{len(told)}"
    artist.set_gid(name)
    told[name] = sentences


def _label(artist: Any) -> str:
    """As the legend calls it; matplotlib's own names begin with _."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _names(axes: Axes) -> dict[Line2D, str]:
    of_bars = {container[0]: _label(container) for container in axes.containers if hasattr(container, "has_yerr")}
    return {line: _label(line) for line in axes.lines} | {line: name for line, name in of_bars.items() if line}


def _ends(axes: Axes) -> dict[Line2D, list[str]]:
    """By the line of the middles: the ends of its intervals."""
    found = {}
    for container in axes.containers:
        if getattr(container, "has_yerr", False) or getattr(container, "has_xerr", False):
            place, axis = (1, axes.yaxis) if container.has_yerr else (0, axes.xaxis)  # type: ignore[attr-defined]
            (segments,) = container[2][-1:]
            found[container[0]] = [
                f" [{_value(axis, low[place])}, {_value(axis, high[place])}]" for low, high in segments.get_segments()
            ]
    return found


def _point(axes: Axes, name: str, x: float, y: float) -> str:
    told = f"{_value(axes.xaxis, x)}, {_value(axes.yaxis, y)}"
    return f"{name}: {told}" if name else told


def _value(axis: Axis, value: float) -> str:
    """In the words of the axis: of a category its name, of a number as its ticks read."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    formatter = axis.get_major_formatter()
    if isinstance(formatter, FixedFormatter):
        named = dict(zip(axis.get_ticklocs(), formatter.seq, strict=False))
        if found := named.get(round(value)):
            return str(found).replace("\n", " ")
    if isinstance(formatter, FuncFormatter):
        return formatter(value, 0)
    return f"{value:.4g}".replace("-", "−")


def with_titles(svg: str, told: Mapping[str, Sequence[str]]) -> str:
    """Put a `<title>` into every shape. A group some of whose shapes lie outside of the picture keeps none: which is
    which is not known."""
    for name, sentences in told.items():
        start = svg.find(f'<g id="{name}">')
        end = start + _length(svg[start:])
        group = svg[start:end]
        shape = re.compile(r"<(use) ([^>]*)/>" if "<use " in group else r"<(path) ([^>]*)/>")
        if start >= 0 and len(shape.findall(group)) == len(sentences):
            svg = svg[:start] + shape.sub(_titled(iter(sentences)), group) + svg[end:]
    return svg


def _titled(sentences: Iterator[str]) -> Any:
    return lambda m: f"<{m[1]} {m[2]}><title>{html.escape(next(sentences))}</title></{m[1]}>"


def _length(svg: str) -> int:
    """Of the group that opens here, its end included."""
    depth = 0
    for tag in re.finditer(r"<g[ >]|</g>", svg):
        depth += 1 if tag[0] != "</g>" else -1
        if not depth:
            return tag.end()
    return len(svg)
