"""The RLHF part of the report: what held each policy back, the laws, and what the reward model is worth."""

from __future__ import annotations

import io
import math
import re

import pytest
from markupsafe import Markup
from rich.console import Console
from written_life import accuracy_facts, judged_pairs

from dashboards.blocks import Section, Table
from dashboards.claims import claim_rows
from dashboards.facts.alignment import AlignmentFacts
from dashboards.figures.alignment import alignment_figure
from dashboards.html import render_html
from dashboards.report import collect
from dashboards.report_model import LifeReport
from dashboards.terminal import render_terminal


@pytest.fixture
def rlhf(report: LifeReport) -> Section:
    return next(part for part in report.sections if part.slug == "rlhf")


def table(section: Section, begins: str) -> Table:
    return next(t for t in section.tables if t.title.startswith(begins))


def test_every_policy_stands_beside_the_others_with_both_alarms(rlhf: Section) -> None:
    free, held, _ = table(rlhf, "Policies").rows
    assert free[0] == "KL coefficient 0"
    assert free[-2:] == ("raised", "raised")
    assert held[0] == "KL coefficient 0.1"
    assert held[-2:] == ("none", "none")
    assert table(rlhf, "What the over-optimisation monitor reported").rows == (
        ("KL coefficient 0", "gold", "proxy rose while gold fell since iteration 12"),
        ("KL coefficient 0", "signs", "40% of an answer repeats itself"),
    )
    assert "lifespan run remedies" in rlhf.meaning  # no other remedy was tried here


def test_the_laws_say_where_they_turn_and_over_what(rlhf: Section) -> None:
    rows = table(rlhf, "Laws").rows
    assert [row[:2] for row in rows[-2:]] == [("best of n", "gold"), ("best of n", "proxy")]
    assert rows[-2][2:5] == ("1.00 [0.90, 1.10]", "0.20 [0.10, 0.30]", "6.2")
    assert rows[-1][4] == "never"


def test_the_reward_model_by_group_and_by_length(rlhf: Section) -> None:
    by_group = table(rlhf, "Accuracy of the reward model by group").rows
    assert ("split", "held out", "73.7% [68.4, 78.4]", "300") in by_group
    assert ("confidence", "below 0.6", "55.0% [45.0, 65.0]", "90") in by_group
    listed = dict(table(rlhf, "Reward model").rows)
    assert listed["calibration error"] == "6.0% (3.0% if it were perfect)"
    assert listed["best of four found"] == "44.0% [35.0, 53.0]"
    assert listed["correlation with length"] == "+0.21"


def test_mitigations_and_dpo_are_named_and_only_the_free_run_is_the_positive_control(life) -> None:
    proxy = {"proxy": 2.0, "proxy_low": 1.9, "proxy_high": 2.1, "n": 100, "kl": 9.0}
    hacked = proxy | {"gold": -1.0, "gold_low": -1.2, "gold_high": -0.8}
    kept = hacked | {"gold": 1.0, "gold_low": 0.8, "gold_high": 1.2}
    life.stage("ppo[worst]", 1, kept | {"kl_coef": 0.0, "mitigation": "worst", "alarm": False})
    penalised = {"kl_coef": 0.0, "mitigation": "KL penalty", "stopped": True, "alarm": True}
    life.stage("ppo[kl_coef=0.0]", 1, hacked | penalised)
    life.stage("dpo", 1, kept | {"mitigation": "DPO", "skipped_steps": 2})
    life.stage("train_reward_model", 1, {"accuracy": 0.7, "skipped_steps": 3})
    life.stage("grpo", 1, {"skipped_steps": 4})
    life.end()
    report = collect(life.home)
    section = next(part for part in report.sections if part.slug == "rlhf")
    rows = table(section, "Policies").rows
    assert [row[0] for row in rows] == ["KL coefficient 0", "worst case", "DPO"]
    assert table(section, "Updates skipped").rows == (("DPO", "2"), ("reward model", "3"))
    practised = next(part for part in report.sections if part.slug == "grpo")
    assert dict(table(practised, "In numbers").rows)["updates skipped, not finite"] == "4"
    assert "remedies" not in section.meaning
    remedy = report.effects["remedy_worst"]
    assert remedy.seen and remedy.interval is not None
    assert remedy.interval.value == 2.0
    assert remedy.interval.low == pytest.approx(2.0 - math.hypot(0.2, 0.2))
    hacking = report.effects["reward_hacking"]
    assert hacking.seen
    assert hacking.interval is not None
    assert hacking.interval.value == -1.0


def test_the_coefficient_is_not_chosen_by_the_answers_that_the_verdict_rests_on(life) -> None:
    """Of two that earn nothing, the one that looked better while training is on trial, not the luckier in the end."""
    for kl_coef, seen, gold in ((0.1, 0.3, -0.05), (0.4, 0.1, 0.25)):
        judged = {
            "proxy": 1.0,
            "proxy_low": 0.9,
            "proxy_high": 1.1,
            "gold": gold,
            "gold_low": gold - 0.2,
            "gold_high": gold + 0.2,
            "n": 16,
            "kl": 1.0,
        }
        label, curve = f"ppo[kl_coef={kl_coef}]", life.curve("gold", 10, lambda x, top=seen: top * x, every=5)
        life.stage(label, 1, judged | {"kl_coef": kl_coef, "mitigation": "KL penalty"}, metrics=curve)
    life.end()
    effect = collect(life.home).effects["ppo_gain"]
    assert effect.interval is not None and effect.interval.value == -0.05
    assert not effect.seen
    assert "KL coefficient 0.1, which had the highest gold of 2 when training ended" in effect.numbers


def test_the_figure_has_calibration_length_and_what_the_watch_saw(report: LifeReport) -> None:
    assert isinstance(report.facts["rlhf"], AlignmentFacts)
    figure = alignment_figure(report.facts["rlhf"])
    assert figure is not None
    drawn = "".join(figure.panels)
    # The law is drawn from where the gold began, to the largest KL of the run.
    hacked = report.facts["rlhf"].policies[0]
    (gold,) = hacked.laws
    assert gold.gain(0.0) == 0.0
    assert gold.gain(math.e**2) == pytest.approx(math.e * (gold.alpha.value - gold.beta.value))
    for title in ("Reward model: calibration", "Reward model: length", "What else was monitored", "Best of n"):
        assert title in drawn


def by_others(life, source: str) -> LifeReport:
    """A life whose preferences are not gold's: the stages write no gold, and the smoke life's is taken out."""
    gold = {"gold": None, "gold_low": None, "gold_high": None}
    named = {"gold_name": "none"}
    none = {"label_agreement": None, "gold_mean": None, "gold_std": None}
    life.stage("collect_preferences", 1, {"source": source, **none})
    known = {"agreement_with_gold": None, "best_of_four": None}
    life.stage("train_reward_model", 1, {**accuracy_facts("accuracy", 70, 100), "n": 100, **known})
    for kl_coef, proxy in ((0.0, 2.0), (0.1, 1.5)):
        facts = {"kl_coef": kl_coef, "proxy": proxy, "proxy_low": proxy - 0.2, "proxy_high": proxy + 0.2, "n": 16}
        watch = {"suspicion": not kl_coef, "suspicion_reason": "reward hacking suspected: it repeats" * (not kl_coef)}
        curves = [*life.curve("objective/score", 9, lambda x: x), *life.curve("objective/kl", 9, lambda x: x)]
        curves += life.curve("policy/entropy", 9, lambda x: 2 - x)
        law = {"law": {"gold": None, "proxy": None}}
        facts |= {**watch, **gold, **named, **law, "mitigation": "KL penalty"}
        life.stage(f"ppo[kl_coef={kl_coef}]", 1, facts, metrics=curves)
    row = {"n": 4, "items": 16, "kl": 0.6, "proxy": 0.9, "proxy_low": 0.8, "proxy_high": 1.0, **gold}
    life.stage("best_of_n", 1, {"rows": [row], "law": law["law"], **named})
    life.end()
    return collect(life.home)


@pytest.mark.parametrize("source", ["people", "model", "file"])
def test_where_preferences_are_not_golds_nothing_speaks_of_gold_or_of_a_true_preference(life, source: str) -> None:
    report = by_others(life, source)
    section = next(part for part in report.sections if part.slug == "rlhf")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_terminal(report))
    page = Markup(re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", render_html(report), flags=re.DOTALL)).striptags()
    claims = " ".join(f"{row['claim']} {row['title']} {row['numbers']}" for row in claim_rows(report))
    drawn = " ".join(report.figures["rlhf"].panels) + report.figures["rlhf"].caption
    for said in (console.export_text(), page, claims, re.sub(r'id="[^"]*"|var\(--gold\)', "", drawn)):
        assert not re.search(r"\bgold\b|true preference|really prefer", said, re.IGNORECASE)
    # What can be told is told: the proxy with its interval, the agreement on held-out pairs, signs of hacking.
    gain, signs = report.effects["proxy_gain"], report.effects["hacking_signs"]
    assert gain.seen and gain.difference == "+1.50 SFT sd [+1.30, +1.70]"
    assert "entropy" in gain.numbers and "repeated" in gain.numbers and "KL" in gain.numbers
    assert signs.seen and "it repeats" in signs.numbers
    assert [effect.slug for effect in report.headlines][3:5] == ["proxy_gain", "hacking_signs"]
    assert "accuracy 70.0%" in report.effects["reward_model"].numbers
    assert ("KL coefficient 0", "signs", "reward hacking suspected: it repeats") in table(section, "What the over").rows
    assert table(section, "Best of n").rows == (("4", "0.60", "+0.90 [+0.80, +1.00]"),)


def test_gold_of_the_users_own_is_called_by_its_name_and_is_no_true_preference(life) -> None:
    life = life.another("run-2", rewards=[{"kind": "number"}])
    gain = {"before": 0.2, "after": 0.6, "gain": {"value": 0.4, "low": 0.3, "high": 0.5, "n": 16}}
    for kl_coef, gold in ((0.0, -0.3), (0.1, 0.2)):
        ends = {"gold_name": "score", "gold": gold, "gold_low": gold - 0.1, "gold_high": gold + 0.1, "n": 16}
        paid = {"proxy": 0.4, "proxy_low": 0.3, "proxy_high": 0.5, "rewards": {"number": gain}}
        life.stage(f"ppo[kl_coef={kl_coef}]", 1, ends | paid | {"kl_coef": kl_coef, "mitigation": "KL penalty"})
    row = {"n": 4, "items": 16, "kl": 0.6, "proxy": 0.9, "proxy_low": 0.8, "proxy_high": 1.0}
    row |= {"gold": 0.1, "gold_low": 0.05, "gold_high": 0.15}
    life.stage("best_of_n", 1, {"rows": [row], "law": {"gold": None, "proxy": None}, "gold_name": "score"})
    life.end()
    report = collect(life.home, "run-2")
    titles = {slug: effect.title for slug, effect in report.effects.items()}
    assert titles["ppo_gain"] == "PPO with a KL penalty raises your gold `score`"
    assert titles["best_of_n"] == "Best-of-n by your rewards raises your gold `score`"
    assert report.effects["ppo_gain"].difference == "+0.200 reward [+0.100, +0.300]"
    assert report.effects["reward_hacking"].seen
    section = next(part for part in report.sections if part.slug == "rlhf")
    assert "lost your gold `score`: reward hacking" in section.meaning
    assert table(section, "Policies").columns[2] == "gold `score` [95%]"
    assert "the rewards' own units" in table(section, "Policies").title
    (first, *_) = table(section, "Rewards on held-out prompts").rows
    assert first == ("KL coefficient 0", "number", "0.200", "0.600", "+0.400 [+0.300, +0.500]", "16")
    said = section.meaning + report.figures["rlhf"].caption + " ".join(str(effect) for effect in section.effects)
    assert not re.search("true preference|SFT sd|fine-tuned", said)


def test_without_gold_policies_of_the_users_rewards_are_told_by_what_they_earned(life) -> None:
    life = life.another("run-2", rewards=[{"kind": "number"}])
    facts = {"proxy": 0.4, "proxy_low": 0.3, "proxy_high": 0.5, "n": 16, "mitigation": "KL penalty"}
    facts |= {"gold": None, "gold_low": None, "gold_high": None, "gold_name": "none"}
    for kl_coef in (0.0, 0.1):
        life.stage(f"ppo[kl_coef={kl_coef}]", 1, facts | {"kl_coef": kl_coef})
    life.end()
    report = collect(life.home, "run-2")
    assert report.effects["proxy_gain"].difference == "+0.400 reward [+0.300, +0.500]"
    assert "your rewards" in report.effects["proxy_gain"].method
    section = next(part for part in report.sections if part.slug == "rlhf")
    assert section.meaning.startswith("The policies were paid by your rewards and watched by nothing else")


def test_a_flat_calibration_has_a_line_and_no_tick(life) -> None:
    """The model is right in 54% whatever it predicts."""
    facts = {**accuracy_facts("accuracy", 54, 100), "n": 100}
    life.stage("train_reward_model", 1, facts, evals=judged_pairs(lambda odds: 0.16))
    life.end()
    report = collect(life.home)
    effect = report.effects["reward_model_calibration"]
    assert effect.verdict == "not seen"
    assert effect.interval is not None and effect.interval.high < 0.4
    assert "where it is surest it predicted" in effect.numbers and "slope 0." in effect.numbers
    section = next(part for part in report.sections if part.slug == "rlhf")
    assert dict(table(section, "Reward model").rows)["calibration slope (1: calibrated, 0: flat)"].startswith("0.")


@pytest.mark.parametrize(
    ("gold_high", "alarm", "words"),
    [
        (-0.2, True, "alarm raised at iteration 9"),
        (
            0.4,
            True,
            "alarm raised at iteration 9: gold fell from its height on the way, not below the start for certain",
        ),
        (-0.2, False, "no alarm raised"),
    ],
)
def test_the_words_on_the_alarm_agree_with_the_verdict(life, gold_high: float, alarm: bool, words: str) -> None:
    """The alarm compares with the best on the way, the verdict with the start: both may be right and differ."""
    found = {"proxy": 2.0, "gold": -0.5, "gold_low": -1.2, "gold_high": gold_high, "n": 32, "kl": 9.0}
    life.stage(
        "ppo[kl_coef=0.0]", 1, found | {"kl_coef": 0.0, "mitigation": "KL penalty", "alarm": alarm, "alarm_step": 9}
    )
    life.end()
    effect = collect(life.home).effects["reward_hacking"]
    assert effect.seen == (gold_high < 0)
    assert effect.numbers.endswith(words)
