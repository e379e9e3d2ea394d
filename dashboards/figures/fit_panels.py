"""Every figure of a fitted table of runs, by name, and a page of them that needs no other file."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.scaling.law_forms import FORMULAS, FRONTIER_LAWS, PARAMETERS, cheapest, is_loss_law, losses
from components.scaling.profiles import Profile, profiles
from components.scaling.table_fit import TableFit, best_at_budget, flops_of_life
from dashboards.figures.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, log_axis
from dashboards.figures.table_fit import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
_EXPONENTS = ("E", "alpha", "beta", "gamma", "alpha_N", "alpha_D", "alpha_S", "R_D_star", "R_N_star", "b", "c", "e")


def figures(fit: TableFit, tokens_served: float | None = None) -> Iterator[tuple[str, str, Figure]]:
    """(name, caption, figure) of all that the law has something to show for. `tokens_served`: the demand of the second
    path through the contours; None is ten times the largest D."""
    is_frontier, is_loss = fit.law in FRONTIER_LAWS, is_loss_law(fit.law) and fit.line is None
    if is_frontier or is_loss_law(fit.law):
        told = (
            "N* against compute" if is_frontier else "Loss against compute with the law's frontier and band; residuals"
        )
        yield "frontier", told, draw(fit)
    else:
        yield "residuals", "Measured against fitted losses, and what the law leaves", _measured(fit)
    if is_loss:
        yield "isoflop", "Loss against N at fixed compute: rows near each budget, and the law", _isoflop(fit)
        caption = "Equal loss over N and D, with the best N of each compute, and of each loss when it is served"
        yield "contours", caption, _contours(fit, tokens_served)
    if (found := list(profiles(fit))) and len(fit.points):
        yield (
            "profiles",
            "How much worse the best fit becomes with one parameter held (2 is about 95%)",
            _row(len(found), lambda figure: _profiles(figure, found, fit)),
        )
    names = [n for n in PARAMETERS[fit.law] if n in _EXPONENTS and n not in fit.unidentified]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:3]
    if len(fit.samples) > 10 and pairs and not is_frontier:
        yield (
            "cloud",
            f"Draws of the coefficients ({fit.method})",
            _row(len(pairs), lambda figure: _clouds(figure, fit, pairs)),
        )


def save_folder(fit: TableFit, folder: Path, tokens_served: float | None = None) -> list[Path]:
    """One SVG a figure. Raises OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, _, figure in figures(fit, tokens_served):
        written.append(folder / f"{name}.svg")
        written[-1].write_text(_svg(figure, name), encoding="utf-8")
    return written


def page(fit: TableFit, tokens_served: float | None = None) -> str:
    """All figures, coefficients and warnings as one HTML page."""
    sure = f"{fit.confidence:.0%}"
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{c.value:.4g}</td><td>{_end(c.low)}</td><td>{_end(c.high)}</td>"
        f"<td>{'not identified' if name in fit.unidentified else ''}</td></tr>"
        for name, c in fit.coefficients.items()
    )
    drawn = "".join(
        f"<figure>{_svg(figure, name)}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for name, caption, figure in figures(fit, tokens_served)
    )
    told = "".join(f"<li>{html.escape(words)}</li>" for words in fit.warnings)
    left = f"<p>{len(fit.left_out)} rows left out.</p>" if fit.left_out else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Scaling law of {html.escape(fit.source)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(FORMULAS[fit.law])}</h1>"
        f"<p>{html.escape(fit.source)}: {html.escape('; '.join(fit.shown))}. {fit.num_points} points of {fit.num_runs} "
        f"runs; intervals: {html.escape(fit.method)}; R² {fit.r_squared:.4f}.</p>{left}"
        f"<table><tr><th></th><th>value</th><th>{sure} low</th><th>{sure} high</th><th></th></tr>{rows}</table>"
        f"{f'<ul>{told}</ul>' if told else ''}{drawn}</html>\n"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#101820;"
    "background:#fdfdfe}h1{font-size:1.25rem}table{border-collapse:collapse}td,th{padding:.15rem .8rem;"
    "text-align:right}td:first-child{text-align:left}figure{margin:1.5rem 0}figure svg{max-width:100%;height:auto}"
    "figcaption{color:#5b6673}li{color:#8a4b08}"
)


def _end(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _svg(figure: Figure, name: str) -> str:
    """The figure as SVG without what stands before its element, ids by its name."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _row(count: int, fill: Callable[[Figure], None]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 3.6 * count), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(1, count, squeeze=False)
    fill(figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _measured(fit: TableFit) -> Figure:
    def fill(figure: Figure) -> None:
        left, right = figure.axes
        loss = fit.points[:, 3]
        fitted = loss * np.exp(-fit.residuals)
        ends = [min(loss.min(), fitted.min()), max(loss.max(), fitted.max())]
        left.plot(ends, ends, color=MUTED, linewidth=1)
        left.scatter(fitted, loss, s=12, color=BLUE, zorder=3)
        left.set(title=f"{fit.num_points} points", xlabel="by the law", ylabel=f"loss, {fit.loss_unit}")
        right.axhline(0, color=MUTED, linewidth=1)
        right.scatter(fitted, 100 * np.expm1(fit.residuals), s=12, color=BLUE)
        right.set(title="What the law leaves", xlabel="by the law", ylabel="loss over the law's, %")

    return _row(2, fill)


def _isoflop(fit: TableFit) -> Figure:
    def fill(figure: Figure) -> None:
        (axes,) = figure.axes
        n, d, _, loss = fit.points.T
        flops = fit.flops_per_param_token * n * d
        budgets = np.geomspace(flops.min(), flops.max(), 6)[1:]
        edges = np.sqrt(budgets[1:] * budgets[:-1])
        for i, (budget, color) in enumerate(zip(budgets.tolist(), SERIES, strict=False)):
            near = np.digitize(flops, edges) == i
            # Each row is moved along its own N to the budget by the law, so that its residual stays what it is.
            moved = budget / (fit.flops_per_param_token * n[near])
            shown = _law(fit, n[near], moved) * np.exp(fit.residuals[near])
            axes.scatter(n[near], shown, s=12, color=color)
            grid = np.geomspace(n.min() / 2, n.max() * 2, 200)
            curve = _law(fit, grid, budget / (fit.flops_per_param_token * grid))
            axes.plot(grid, curve, color=color, linewidth=1.2, label=f"{budget:.1e} FLOPs")
            axes.plot(grid[curve.argmin()], curve.min(), "v", color=color, markersize=6)
        low, high = loss.min(), loss.max()
        axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
        log_axis(axes, "x")
        axes.legend(frameon=False, fontsize=8)
        axes.set(title="IsoFLOP", xlabel="N", ylabel=f"loss, {fit.loss_unit}")

    return _row(1, fill)


def _law(fit: TableFit, n: FloatArray, d: FloatArray) -> FloatArray:
    assert is_loss_law(fit.law)
    return losses(fit.law, fit.values, n, d)


def _contours(fit: TableFit, tokens_served: float | None) -> Figure:
    law = fit.law
    assert is_loss_law(law)

    def fill(figure: Figure) -> None:
        (axes,) = figure.axes
        n, d, flops, _ = fit.points.T
        grid_n, grid_d = np.geomspace(n.min() / 3, n.max() * 10, 120), np.geomspace(d.min() / 3, d.max() * 10, 120)
        table = _law(fit, grid_n[:, None], grid_d[None, :])
        lines = axes.contour(grid_n, grid_d, table.T, levels=12, colors=MUTED, linewidths=0.8)
        axes.clabel(lines, fontsize=7)
        axes.scatter(n, d, s=10, color=BLUE, zorder=3, label="runs")
        budgets = np.geomspace(flops.min(), flops.max() * 100, 40)
        best = [best_at_budget(fit, float(budget)) for budget in budgets]
        axes.plot([b["params"].value for b in best], [b["tokens"].value for b in best], color=ORANGE,
                  label="best of each compute")  # fmt: skip
        served = 10 * float(d.max()) if tokens_served is None else tokens_served
        lives = [cheapest(law, fit.values, b["loss"].value, flops_of_life(fit, served)) for b in best]
        axes.plot([x.num_params for x in lives], [x.tokens for x in lives], color=PURPLE, linestyle="--",
                  label=f"with {served:.2g} tokens served")  # fmt: skip
        axes.set_xlim(grid_n[0], grid_n[-1])
        axes.set_ylim(grid_d[0], grid_d[-1])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(frameon=True, framealpha=0.9, fontsize=8)
        axes.set(title="Loss over N and D", xlabel="N", ylabel="D")

    return _row(1, fill)


def _profiles(figure: Figure, found: list[Profile], fit: TableFit) -> None:
    for axes, profile in zip(figure.axes, found, strict=True):
        axes.plot(profile.values, profile.rise, color=BLUE)
        axes.axhline(1.92, color=MUTED, linestyle=":", linewidth=1)
        axes.axvline(fit.coefficients[profile.name].value, color=ORANGE, linewidth=1)
        axes.set_ylim(0, min(10.0, max(4.0, float(profile.rise.max()))))
        axes.set(title=profile.name, xlabel=profile.name, ylabel="n ln(objective/lowest)")


def _clouds(figure: Figure, fit: TableFit, pairs: list[tuple[str, str]]) -> None:
    names = PARAMETERS[fit.law]
    for axes, (a, b) in zip(figure.axes, pairs, strict=True):
        x, y = (fit.samples[:, names.index(name)] for name in (a, b))
        axes.scatter(x, y, s=4, alpha=0.35, color=GREEN, linewidths=0)
        axes.plot(fit.coefficients[a].value, fit.coefficients[b].value, "x", color=INK, markersize=8)
        for set_limits, values in ((axes.set_xlim, x), (axes.set_ylim, y)):
            low, high = np.quantile(values, [0.005, 0.995])
            set_limits(low - 0.1 * (high - low) - 1e-12, high + 0.1 * (high - low) + 1e-12)
        axes.set(title=f"{a} and {b}", xlabel=a, ylabel=b)
