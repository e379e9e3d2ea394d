"""What a reader of the report is shown: bounds, choices, what was removed, policies on one scale."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from written_life import stages_by_name

from dashboards.facts.chosen import STAGES_OF, chosen_settings
from dashboards.facts.effects import Missing
from dashboards.report import collect
from dashboards.report_model import LifeReport


def test_a_parameter_at_its_bound_is_marked(life) -> None:
    row = {"sweep": "dense", "law": "chinchilla", "parameter": "E", "value": 0.8, "low": 0.74, "high": 0.9, "n": 20}
    warning = "E lies at its bound: the irreducible loss is not identified"
    life.stage("fit_scaling_law", 3, {"warnings": [warning]}, scaling_fits=[row, {**row, "parameter": "beta"}])
    life.end()
    report = collect(life.home)
    section = next(part for part in report.sections if part.slug == "scaling")
    fits = next(table for table in section.tables if table.title == "Fitted laws")
    assert [row[2] for row in fits.rows] == ["0.800 [0.740, 0.900] at its bound", "0.800 [0.740, 0.900]"]


def test_what_was_chosen_for_parts_that_are_not_lived_is_not_listed() -> None:
    config = {
        "chosen": {"ppo.num_iterations": "why", "scaling.widths": "why", "model.d_model": "why"},
        "ppo": {"num_iterations": 3},
        "scaling": {"widths": [8]},
        "model": {"d_model": 4},
    }
    found = chosen_settings(config, {"pretrain", "train_on_facts"})
    assert [(one.setting, one.value) for one in found] == [("scaling.widths", "[8]"), ("model.d_model", "4")]


def test_every_stage_that_a_chosen_setting_is_for_exists_and_no_profile_chooses_for_an_unknown_section() -> None:
    assert {stage for stages in STAGES_OF.values() for stage in stages} <= stages_by_name().keys()
    for profile in Path("flows/profiles").glob("*.toml"):
        for path in tomllib.loads(profile.read_text(encoding="utf-8")).get("chosen", {}):
            assert path.partition(".")[0] in STAGES_OF


def test_what_each_step_removed_is_its_own_and_bars_are_told_in_words(report: LifeReport) -> None:
    data = report.facts["data"]
    assert not isinstance(data, Missing)
    assert data.removed["speeches", "quality"] == 4100 - int(4100 * 0.94)
    assert data.removed["speeches", "near duplicates"] == int(4100 * 0.94) - int(4100 * 0.88)
    assert ("speeches", "read") not in data.removed
    assert "<title>speeches: 246</title>" in report.figures["data"].panels[0]


def test_panels_of_policies_have_one_scale(report: LifeReport) -> None:
    panels = [svg for svg in report.figures["rlhf"].panels if "KL from where it began" in svg]
    ticks = [re.findall(r">([−\d.]+)</text>", svg) for svg in panels]
    assert len(panels) > 1 and all(one == ticks[0] for one in ticks)
