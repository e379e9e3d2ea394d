"""A run of any assembly, for the tests of the platform."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from flows.engine.graph import assemble
from flows.runs.run import RunResult, run_graph
from flows.runs.start import starting
from flows.settings import Settings
from storage.home import Home
from storage.redaction import masked


def run_assembly(
    assembly: Any,
    cfg: Settings,
    *,
    home: Home | None = None,
    console: Console | None = None,
    prefect: bool = True,
    **options: Any,
) -> RunResult:
    with starting(masked(cfg.name), console, home=home, prefect=prefect) as start:
        return run_graph(assemble(assembly, cfg), cfg, start, prefect=prefect, **options)
