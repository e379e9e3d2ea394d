"""What MLflow shows of a life beside its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from flows.runs.models import ALIASES
from flows.services.sockets import DASHBOARD_PORT, LOOPBACK
from storage.artifacts import Artifact
from storage.home import Home
from storage.queries import query
from storage.registry import Showcase

if TYPE_CHECKING:
    from dashboards.report_model import LifeReport

DATASETS = ("corpus", "token_shards", "conversations", "preference_set")
REGISTERED = ("base", "sft", "aligned")  # aliases in MLflow's registry, with `champion`: the model that answers best

_STAGES = "SELECT label, stage, kind, key FROM run_stages WHERE run_id = $run AND status IN ('ran', 'cached')"
# Accuracy over the suite at one greedy chain of thought, so that models differ and not how long they think.
_BEST = (
    "SELECT model FROM run_leaderboard WHERE run_id = $run AND strategy = 'cot' ORDER BY accuracy DESC, model LIMIT 1"
)


def showcase(home: Home, run_id: str, report: LifeReport) -> Showcase:
    """The ten lines, the figures, the data, and the models of a run."""
    stages = query(home, _STAGES, {"run": run_id}).to_pylist()
    made = {row["label"]: (row, artifact) for row in stages if (artifact := home.store.find(row["key"]))}
    by_stage: dict[str, Artifact] = {}
    for label, (row, artifact) in sorted(made.items()):
        if label == row["stage"] or row["stage"] == "ppo":  # the plain label is the main one; of PPO the last
            by_stage[row["stage"]] = artifact
    models = {
        alias: by_stage[next(stage for stage in ALIASES[alias] if stage in by_stage)]
        for alias in REGISTERED
        if any(stage in by_stage for stage in ALIASES[alias])
    }
    best = [row["model"] for row in query(home, _BEST, {"run": run_id}).to_pylist()]
    known = {"base": models.get("base"), "sft": models.get("sft"), "grpo": by_stage.get("grpo")}
    if best and (champion := known.get(best[0])):
        models["champion"] = champion
    tokenizer = next((artifact for row, artifact in made.values() if row["kind"] == "tokenizer"), None)
    return Showcase(
        description=description(report, run_id),
        figures={
            f"{slug}-{n}.svg": svg for slug, figure in report.figures.items() for n, svg in enumerate(figure.panels, 1)
        },
        datasets={label: artifact for label, (row, artifact) in made.items() if row["kind"] in DATASETS},
        models=models,
        tokenizer=tokenizer,
    )


def description(report: LifeReport, run_id: str) -> str:
    """The ten lines of a report in Markdown."""
    marks = {"held": "✓", "seen": "✓", "not identified": "?", "measured": "·", "not measured": "–"}
    lines = [
        f"- {marks.get(e.verdict, '✗')} **{e.here}** {e.numbers} {e.difference} {e.size}".rstrip()
        for e in report.headlines
    ]
    page = f"http://{LOOPBACK}:{DASHBOARD_PORT}/run?run={quote(run_id)}"
    whole = (
        f"The whole page is the artifact `report.html`; while `lifespan ui` runs, [the dashboard]({page}) has its run."
    )
    return "\n".join([report.scope, whole, "", *lines])
