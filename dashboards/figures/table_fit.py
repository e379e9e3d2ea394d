"""A fitted table of runs as one figure in a file: loss against compute with the law's frontier, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.scaling.law_forms import FRONTIER_LAWS
from components.scaling.table_fit import TableFit, best_at_budget
from dashboards.figures.canvas import BLUE, INK, MUTED, ORANGE, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")


def save_figure(fit: TableFit, path: Path) -> None:
    """Draw the fit and write it, by the ending of `path`.

    Raises ValueError for another ending than .svg, .png or .pdf; OSError where the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--plot {path}: a figure's file ends in {', '.join(FORMATS)}")
    draw(fit).savefig(path, dpi=160)


def draw(fit: TableFit) -> Figure:
    """Two panels: of a law of loss, loss against compute and residuals; of a law of N*, the profiles and N*(C)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if fit.law in FRONTIER_LAWS:
        _profiles(left, fit)
        _sizes(right, fit)
    else:
        _losses(left, fit)
        _residuals(right, fit)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _losses(axes: Axes, fit: TableFit) -> None:
    sizes, _, flops, loss = fit.points.T
    dots = axes.scatter(flops, loss, c=np.log10(sizes), s=14, cmap="Blues", vmin=np.log10(sizes).min() - 1, zorder=3)
    axes.figure.colorbar(dots, ax=axes, label="log10 N")
    if fit.line is None:
        budgets = np.geomspace(flops.min(), 10 * flops.max(), 40)
        best = [best_at_budget(fit, float(budget))["loss"] for budget in budgets]
        axes.plot(budgets, [b.value for b in best], color=ORANGE, label="best loss of a budget, by the law")
        if len(fit.samples):
            lows, highs = [b.low for b in best], [b.high for b in best]
            axes.fill_between(budgets, lows, highs, color=ORANGE, alpha=0.2, linewidth=0, label=f"{fit.confidence:.0%}")
        axes.axvline(flops.max(), color=MUTED, linestyle=":", linewidth=1)
        axes.legend(frameon=False)
    axes.set_xscale("log")
    axes.set(title=f"Loss of {fit.num_points} points", xlabel="C, FLOPs", ylabel="loss, nats per token")


def _residuals(axes: Axes, fit: TableFit) -> None:
    sizes, tokens, _, _ = fit.points.T
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.scatter(tokens / sizes, 100 * np.expm1(fit.residuals), s=14, color=BLUE)
    log_axis(axes, "x")
    axes.set(title="What the law leaves", xlabel="tokens per parameter, D/N", ylabel="loss over the law's, %")


def _profiles(axes: Axes, fit: TableFit) -> None:
    sizes, _, _, loss = fit.points.T
    axes.scatter(sizes, loss, s=12, color=BLUE, label="runs")
    axes.scatter(
        [o.num_params for o in fit.optima],
        [o.loss for o in fit.optima],
        marker="x",
        color=ORANGE,
        zorder=3,
        label="best of each budget",
    )
    log_axis(axes, "x")
    axes.legend(frameon=False)
    axes.set(title=f"{len(fit.optima)} optima", xlabel="N", ylabel="loss, nats per token")


def _sizes(axes: Axes, fit: TableFit) -> None:
    flops, best = np.array([o.flops for o in fit.optima]), np.array([o.num_params for o in fit.optima])
    low, high = (np.array([getattr(o, name) for o in fit.optima]) for name in ("low", "high"))
    bars = np.nan_to_num(np.stack([best - low, high - best]), nan=0.0).clip(min=0.0)
    axes.errorbar(flops, best, yerr=bars, fmt="o", color=BLUE, markersize=4, linewidth=1)
    budgets = np.geomspace(flops.min(), 10 * flops.max(), 40)
    line = [best_at_budget(fit, float(budget))["params"] for budget in budgets]
    axes.plot(budgets, [p.value for p in line], color=ORANGE, label=f"N* ∝ C^{fit.coefficients['a'].value:.3f}")
    axes.fill_between(budgets, [p.low for p in line], [p.high for p in line], color=ORANGE, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    log_axis(axes, "y", subs=(1.0, 2.0, 5.0))
    axes.legend(frameon=False, labelcolor=INK)
    axes.set(title="Best size of a budget", xlabel="C, FLOPs", ylabel="N*")
