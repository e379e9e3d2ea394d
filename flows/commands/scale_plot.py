"""`lifespan scale plot`: the figures of a fit, as files or as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.scale_fits import FitFile, read_fit, told, write_whole


def plot(
    file: FitFile,
    output: Annotated[Path, typer.Option(help="A folder for SVG files, or a page: FILE.html.")] = Path("plots"),
    tokens_served: Annotated[
        float | None, typer.Option(help="Of the second path through the contours; by default ten times the largest D.")
    ] = None,
) -> None:
    """Draw a fit: loss against compute with its frontier, IsoFLOP, contours with optimal paths, residuals, profiles,
    clouds of the draws."""
    with told():
        from dashboards.figures.fit_panels import page, save_folder

        fitted = read_fit(file)
        if tokens_served is not None and not tokens_served >= 0:
            raise ValueError(f"--tokens-served must be at least 0, got {tokens_served}")
        if output.suffix.lower() in (".html", ".htm"):
            write_whole(output, page(fitted, tokens_served))
            typer.echo(f"wrote {output}")
        elif output.suffix or output.is_file():
            raise ValueError(f"--output {output}: give a folder, or a page that ends in .html")
        else:
            for path in save_folder(fitted, output, tokens_served):
                typer.echo(f"wrote {path}")
