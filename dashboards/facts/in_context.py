"""What models do with their context: shares solved by condition, by size and through training, beside LSTMs."""

from __future__ import annotations

from dataclasses import dataclass

from components.scaling.results.in_context import InContextReport, InContextResult
from dashboards.facts.effects import Missing, readable
from dashboards.run_data import RunRows


@dataclass(frozen=True)
class InContextFacts:
    """`report`: the comparison of all models; `courses`: each model through its training."""

    report: InContextReport
    courses: tuple[InContextResult, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the report."""
        return tuple(dict.fromkeys(point.task for point in self.report.points))


@readable
def in_context_facts(rows: RunRows) -> InContextFacts | Missing:
    report = rows.result_of("compare_in_context", InContextReport)
    if report is None:
        return Missing(rows.why_missing("architecture", "The study of context"))
    return InContextFacts(
        report, tuple(rows.result(stage, InContextResult) for stage in rows.all("train_in_context") if stage.facts)
    )
