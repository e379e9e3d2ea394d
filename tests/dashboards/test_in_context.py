"""The report's part on context: what the comparison says is what is shown, and a life without one does not name it."""

from __future__ import annotations

from typing import Any

from components.scaling.in_context_verdicts import compared
from components.scaling.results.in_context import ConditionScore, InContextResult, TrainedCourse
from components.stage_results import to_facts
from components.statistics import wilson
from dashboards.facts.effects import Missing
from dashboards.facts.in_context import in_context_facts
from dashboards.figures.in_context import in_context_figure
from dashboards.run_data import RunRows, StageRow
from dashboards.sections.in_context import in_context_section


def trained(task: str, architecture: str, right: int) -> InContextResult:
    scores = tuple(ConditionScore(name, wilson(k, 100)) for name, k in (("first", 6), ("last", right)))
    course = (TrainedCourse(100, (0.06, 0.1)), TrainedCourse(200, (0.06, right / 100)))
    return InContextResult(task, architecture, 9000, 1000, 0.5, scores, course)


def run(*stages: tuple[str, Any]) -> RunRows:
    rows = (
        StageRow(name, f"{name}[{i}]", str(i), "", "architecture", "ran", "", None, None, 1.0, to_facts(made))
        for i, (name, made) in enumerate(stages)
    )
    return RunRows("r", "name", "in_context", "completed", None, None, tuple(rows))


def test_the_study_of_context_is_shown() -> None:
    models = [trained("recall", "transformer", 95), trained("recall", "lstm", 40)]
    facts = in_context_facts(
        run(*(("train_in_context", one) for one in models), ("compare_in_context", compared(models)))
    )
    assert not isinstance(facts, Missing)
    section = in_context_section(facts)
    verdicts, table = section.tables
    assert "1 training of each" in section.meaning
    assert any("transformer 95%" in words and "LSTM of its size 40%" in words for _, words in verdicts.rows)
    assert table.columns == ("condition", "transformer 9,000", "lstm 9,000")
    assert [row[0] for row in table.rows] == ["first", "last"] and table.rows[1][1].startswith("95.0%")
    figure = in_context_figure(facts)
    assert figure is not None and len(figure.panels) == 1 and "recall, last" in figure.panels[0]


def test_a_life_without_the_study_says_so() -> None:
    missing = in_context_facts(run())
    assert isinstance(missing, Missing) and "no stage of this part is in this run" in missing.reason
