"""`lifespan scale sweep`: a sweep from a compute budget, as a run of its own that fans out, resumes and is cached."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from components.scaling.sweep_plan import FIRST, SweepPlan
from flows.config import RunConfig
from flows.engine.graph import Graph, assemble
from flows.runs.run import RunResult, run_graph
from flows.runs.start import Start, starting
from flows.services import hermetic
from flows.stages.ladder import fit_ladder, forecast_rung, train_rung
from storage.artifacts import Artifact
from storage.home import Home
from storage.redaction import masked

if TYPE_CHECKING:
    from rich.console import Console


def ladder_graph(cfg: RunConfig, run: Graph, plan: SweepPlan) -> None:
    """Rungs by rising size: the first three at once; of each further one the forecast comes before the training."""
    facts, steps = cfg.scaling.facts, cfg.scaling.steps
    trained: list[Artifact] = []
    for place, rung in enumerate(plan.rungs):
        width = rung.config.d_model
        forecast = [
            forecast_rung.submit(
                run,
                label=f"forecast[d{width}]",
                config=rung.config,
                facts=facts,
                steps=steps,
                seed=cfg.seed,
                runs=list(trained),
            )
            for _ in range(place >= FIRST)
        ]
        trained += [
            train_rung.submit(
                run, label=f"rung[d{width},{seed}]", config=rung.config, facts=facts, seed=seed, forecast=forecast
            )
            for seed in plan.seeds
        ]
    fit_ladder.submit(run, steps=steps, seed=cfg.seed, runs=trained)


def run_sweep(
    cfg: RunConfig,
    plan: SweepPlan,
    *,
    profile: str = "",
    home: Home | None = None,
    console: Console | None = None,
    start: Start | None = None,
    prefect: bool = True,
    mlflow: bool = True,
) -> RunResult:
    """Train the plan, forecast it rung by rung, and fit it. Arguments as of `flows.lifecycle.run_lifecycle`."""
    with contextlib.ExitStack() as stack:
        start = start or stack.enter_context(starting(masked(cfg.name), console, home=home, prefect=prefect))
        hermetic.apply(start.home.local, hub=False)
        graph = assemble(partial(ladder_graph, plan=plan), cfg)
        return run_graph(graph, cfg, start, profile=profile, prefect=prefect, mlflow=mlflow)
