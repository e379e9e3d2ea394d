"""Every name that is read is written: by the stages of a real smoke life, or under a condition that is named here."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from smoke_life import SmokeLife
from written_life import Life, RealRows, stages_by_name

from components.stage_results import fact_names, from_facts, to_facts
from dashboards.claims import Training
from dashboards.facts.effects import Missing
from dashboards.facts.texts import LONGEST
from dashboards.facts.training import data_facts
from dashboards.report_model import build
from dashboards.run_data import RunRows, Series, StageRow, parsed, read_run
from storage.home import Home

ROOT = Path(__file__).parents[2]

# Stages that a smoke life does not have, and why they are looked for.
NOT_IN_SMOKE = {
    "import_tokenizer": "base.model is set",
    "import_model": "base.model is set",
    "evaluate_set": "there are evaluation sets of one's own",
    "compare_in_context": "only a profile that names the part has it",
}
# Further ones that it does not have, and that the report does not look for.
NOT_READ = {
    *("prepare_prompts", "prepare_evaluations"),
    "train_in_context",
    *("train_rung", "forecast_rung", "fit_ladder"),  # of `lifespan scale sweep`
}


@dataclass(frozen=True)
class Recorded(RunRows):
    """Notes what the report looks for."""

    stages_read: set[str] = field(default_factory=set)
    metrics_read: set[tuple[str, str]] = field(default_factory=set)

    def find(self, name: str) -> StageRow | None:
        self.stages_read.add(name)
        return super().find(name)

    def all(self, name: str) -> list[StageRow]:
        self.stages_read.add(name)
        return super().all(name)

    def metric(self, stage: StageRow | None, *names: str) -> Series:
        if stage:
            self.metrics_read.update((stage.stage, name) for name in names)
        return super().metric(stage, *names)


@pytest.fixture(scope="module")
def rows(smoke: SmokeLife) -> Recorded:
    read = read_run(smoke.home, smoke.run_id)
    return Recorded(**{one.name: getattr(read, one.name) for one in dataclasses.fields(read)})


def test_every_stage_of_the_life_returns_a_result_and_its_facts_are_read_back_as_they_were_written(
    rows: Recorded,
) -> None:
    stages = stages_by_name()
    for stage in rows.made():
        kind = stages[stage.stage].hints["return"]
        assert dataclasses.is_dataclass(kind), stage.stage
        facts = {name: value for name, value in stage.facts.items() if name != "usage"}
        assert to_facts(from_facts(kind, facts)) == facts, stage.label
    assert {stage.stage for stage in rows.made()} == stages.keys() - NOT_IN_SMOKE.keys() - NOT_READ


def test_every_stage_and_metric_that_the_report_reads_is_written(rows: Recorded, real: RealRows) -> None:
    build(rows, Training(0, "s", "c"), {})
    assert rows.stages_read - {stage.stage for stage in rows.made()} == set(NOT_IN_SMOKE)
    # A policy that was not trained with rewards has no looks; everything else is there.
    unwritten = {name for name in rows.metrics_read - real.metrics if name[0] != "dpo"}
    assert unwritten == set()
    assert len(rows.metrics_read) > 15


def test_no_part_of_a_real_life_is_missing_and_the_data_is_accounted_for(rows: Recorded, smoke: SmokeLife) -> None:
    report = build(rows, Training(0, "s", "c"), {})
    parts = getattr(report, "facts", vars(report)).values()
    assert [part.reason for part in parts if isinstance(part, Missing)] == []
    data = data_facts(rows)
    assert not isinstance(data, Missing)
    assert data.duplicates is not None and data.masked_pii is not None
    page = smoke.home.report(smoke.run_id).read_text(encoding="utf-8")
    assert "duplicates removed" in page and "personal data masked" in page


def test_answers_are_shown_with_the_text_that_led_to_them_right_and_wrong(home: Home) -> None:
    rows = read_run(home)
    report = build(rows, Training(0, "s", "c"), {})
    texts = [text for section in report.sections for text in section.texts]
    for name, strategy in (("chain of thought", "cot"), ("self-consistency, k=4", "self_consistency@4")):
        shown = [text for text in texts if text.stage == f"Fine-tuned model, {name}"]
        asked = [row for row in rows.evals if row["model"] == "sft" and row["strategy"] == strategy]
        said = [parsed(row["details_json"])["text"] or row["answer"] for row in asked]
        written = {f"\n{text.lstrip()}"[:LONGEST] for text in said}
        assert len(shown) == 3 and {text.completion for text in shown} <= written
        assert [text.note.startswith("right") for text in shown] == [True, True, False]


def test_sql_reads_no_fact_and_no_metric_that_nobody_writes(real: RealRows) -> None:
    files = [*(ROOT / "storage/named_queries").glob("*.sql"), ROOT / "storage/views.py"]
    files += [*(ROOT / "flows/commands").glob("*.py"), *(ROOT / "dashboards").rglob("*.py")]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    facts = {name for text in texts.values() for name in re.findall(r"facts\w*\s*->>\s*'(\w+)'", text)}
    assert "prefill_tokens_per_second" in facts
    assert facts <= {name for stage in stages_by_name().values() for name in fact_names(stage.hints["return"])}
    of_name = r"\bname (?:=|IN) (?:\()?('[^)\n]*')"
    listed = [part for text in texts.values() for part in re.findall(of_name, text)]
    metrics = {name for part in listed for name in re.findall(r"'([^']+)'", part)}
    assert "objective/score" in metrics
    assert metrics <= {name for _, name in real.metrics}


@pytest.mark.parametrize(
    ("stage", "written"),
    [
        ("cost_report", {}),
        ("prepare_corpus", {"facts": {"duplicates": 3}}),
        ("pretrain", {"metrics": [{"step": 1, "name": "kl", "value": 1.0}]}),
        ("evaluate_reasoning[sft]", {"evals": [{"suite": "chains", "strategy": "vote@4", "item_id": "1"}]}),
        (
            "evaluate_reasoning[sft]",
            {"evals": [{"suite": "chains", "strategy": "cot", "item_id": "1", "details_json": {"total_tokens": 4}}]},
        ),
    ],
)
def test_a_name_that_no_stage_writes_is_refused(life: Life, stage: str, written: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        life.stage(stage, 1, **written)


def test_the_life_that_is_written_is_a_real_one_with_other_values(life: Life) -> None:
    life.stage("prepare_corpus", 1, {"num_documents": 7})
    life.end()
    (stage,) = read_run(life.home).stages
    (real,) = [row for row in life.real.stages if row["label"] == "prepare_corpus"]
    assert stage.facts == {**json.loads(real["facts_json"]), "num_documents": 7}
