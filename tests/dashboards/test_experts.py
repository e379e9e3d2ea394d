"""The recurrent net and the specialisation of experts: what decides their verdicts, and what the tables say."""

from __future__ import annotations

from typing import Any

from written_life import compared_run, with_bars

from dashboards.facts.effects import Missing
from dashboards.figures.experts import specialization_panel
from dashboards.report import collect
from dashboards.report_model import LifeReport
from dashboards.sections.experts import moe_section
from dashboards.sections.recurrent import recurrent_section


def layer(number: int, bits: float, half: float = 0.05) -> dict[str, Any]:
    return {
        "layer": number,
        "entropy": 0.6,
        "load": [0.5, 0.5],
        **with_bars("bits", bits, half, 20),
        **with_bars("share", bits, half, 20),
        "chance_bits": 0.01,
        "p_value": 0.1,
        "by_source": [[0.9, 0.1], [0.2, 0.8]],
    }


def test_a_lower_loss_of_the_lstm_is_told_as_it_is(life) -> None:
    facts = {
        "runs": [compared_run(name, loss, 0.1) for name, loss in (("transformer", 1.9), ("lstm", 1.8))],
        **with_bars("loss_gap", -0.1, 0.02, 9),
        "kept_gap_low": None,  # of a single timed step: the interval has no ends
        "bands": [],
    }
    life.stage("compare_recurrent", 1, facts)
    life.end()
    report = collect(life.home)
    assert not isinstance(report.facts["recurrent"], Missing)
    verdicts = {slug: effect.verdict for slug, effect in report.effects.items() if slug.startswith("recurrent")}
    assert verdicts == {
        "recurrent_speed": "not measured",
        "recurrent_loss": "not seen",
        "recurrent_context": "not measured",
    }
    assert "the recurrence predicts better" in recurrent_section(report.facts["recurrent"]).meaning


def test_specialisation_is_seen_only_when_the_weakest_layer_shows_it(life) -> None:
    life.stage("specialize[a]", 1, {"variant": "a", "layers": [layer(0, 0.4), layer(1, 0.03)], "n": 20})
    life.end()
    report = collect(life.home)
    assert not isinstance(report.facts["moe"], Missing)  # without any run on facts
    effect = report.effects["moe_specialization"]
    assert effect.verdict == "not seen"
    assert effect.interval is not None and effect.interval.value == 0.03
    assert report.effects["moe_loss"].verdict == "not measured"


def test_one_source_alone_is_nothing_to_specialise_in(life) -> None:
    bare = {"layer": 0, "load": [0.5, 0.5], "entropy": 0.6}
    life.stage("specialize[a]", 1, {"variant": "a", "layers": [bare], "sources": ["only"]})
    life.end()
    report = collect(life.home)
    assert not isinstance(report.facts["moe"], Missing)
    assert report.effects["moe_specialization"].verdict == "not measured"
    assert specialization_panel(report.facts["moe"].on_text[0]) == ""
    assert moe_section(report.facts["moe"]).tables[0].rows[0][2:5] == ("–", "–", "–")


def test_the_heat_map_shows_every_share_of_half_a_percent_or_more(report: LifeReport) -> None:
    assert not isinstance(report.facts["moe"], Missing)
    drawn = specialization_panel(report.facts["moe"].on_text[0])
    assert drawn.count(">70<") == 2  # one a layer
    assert drawn.count(">60<") == 2
    assert ">0<" not in drawn
    assert "worked problems" in drawn and "layer 2" in drawn
    assert "<image" not in drawn
