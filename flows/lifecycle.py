"""The whole life as an assembly, and its run."""

from __future__ import annotations

from typing import Any

from flows.config import RunConfig
from flows.graph import Graph
from flows.run import RunResult, run_graph


def lifecycle_graph(cfg: RunConfig, run: Graph) -> None:
    """Every stage from raw text to the report; see `flows/stage.py` for how to write one."""


def run_lifecycle(cfg: RunConfig, **options: Any) -> RunResult:
    """Run the whole life; options as in `flows.run.run_graph`."""
    return run_graph(lifecycle_graph, cfg, **options)
