"""What the report claims: verdicts follow the intervals, the right rows are compared, and what is absent is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.statistics import Interval
from dashboards import formatting
from dashboards.facts.alignment import grpo_facts
from dashboards.facts.effects import Missing, average, difference
from dashboards.facts.reasoning import equal_rival
from dashboards.facts.scores import scores_of
from dashboards.facts.training import data_facts
from dashboards.report import collect
from dashboards.report_model import HEADLINES, LifeReport
from dashboards.run_data import UnknownRun, read_run
from storage.home import Home


def test_a_whole_life_shows_its_effects_and_gives_each_an_interval(report: LifeReport) -> None:
    assert [effect.slug for effect in report.headlines] == list(HEADLINES)
    verdicts = {slug: effect.verdict for slug, effect in report.effects.items()}
    assert verdicts.pop("cost") == "measured"
    assert (
        verdicts.pop("adaptive") == "not seen in this run"
    )  # 1.7 points lost, up to 3.8 by the interval; 3 are allowed
    assert set(verdicts.values()) == {"seen"}
    for slug in verdicts:
        x = report.effects[slug].interval
        assert x is not None
        assert x.low <= x.value <= x.high
        assert report.effects[slug].numbers
        assert report.effects[slug].method


def test_what_the_fit_says_against_itself_stands_beside_its_intervals(life) -> None:
    warning = "only 4 runs: a bootstrap over so few is too narrow"
    row = {"sweep": "dense", "law": "chinchilla", "parameter": "E", "value": 0.7, "low": 0.3, "high": 1.0, "n": 20}
    truth = {"sweep": "dense", "law": "truth", "parameter": "E", "value": 0.8}
    facts = {"warnings": [warning]}
    life.stage("fit_scaling_law", 3, facts, scaling_fits=[row, truth])
    life.end()
    report = collect(life.home)
    assert report.effects["irreducible_loss"].seen
    assert warning in report.effects["irreducible_loss"].method
    section = next(part for part in report.sections if part.slug == "scaling")
    assert ("the fit warns", warning) in [row for table in section.tables for row in table.rows]


def test_difference_of_proportions_is_newcombes(report: LifeReport) -> None:
    # Newcombe (1998), table II, method 10, 56/70 against 48/80: 0.0524 to 0.3339.
    from components.statistics import wilson

    x = difference(wilson(56, 70), wilson(48, 80))
    assert (x.value, x.low, x.high, x.n) == (
        pytest.approx(0.2),
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
        70,
    )


def test_average_of_intervals_shrinks_like_independent_estimates() -> None:
    x = average([Interval(1.0, 0.7, 1.4, 10), Interval(3.0, 2.6, 3.3, 20)])
    assert (x.value, x.low, x.high, x.n) == (2.0, pytest.approx(1.75), pytest.approx(2.25), 30)


def test_answers_are_compared_item_by_item(life) -> None:
    """Two strategies right on 60 of 100 items each: which they agree on decides the interval."""

    def rows(strategy: str, right: range) -> list[dict]:
        return [
            {
                "suite": "chains",
                "model": "sft",
                "strategy": strategy,
                "item_id": str(i),
                "correct": i in right,
                "completion_tokens": 5,
            }
            for i in range(100)
        ]

    life.stage("evaluate_reasoning[sft]", evals=[*rows("direct", range(60)), *rows("cot", range(70))])
    life.end()
    effect = collect(life.home).effects["chain_of_thought"]
    assert effect.interval is not None
    assert effect.interval.value == pytest.approx(0.10)
    assert effect.interval.only_a == 10 and effect.interval.only_b == 0  # type: ignore[attr-defined]
    assert effect.seen  # as independent samples, 60 against 70 of 100 would not be


@pytest.mark.parametrize(
    ("proxy", "gold", "low", "high", "verdict"),
    [
        (2.0, -1.0, -1.2, -0.8, "seen"),
        (2.0, -0.1, -0.3, 0.1, "not seen in this run"),
        (-0.5, -1.0, -1.2, -0.8, "not seen in this run"),  # both fell: worse, but not hacked
        (2.0, 1.0, 0.8, 1.2, "not seen in this run"),
    ],
)
def test_hacking_needs_a_proxy_that_rose_and_a_gold_that_fell(life, proxy, gold, low, high, verdict) -> None:
    facts = {"kl_coef": 0.0, "proxy": proxy, "gold": gold, "gold_low": low, "gold_high": high, "n": 100}
    life.stage("ppo[kl_coef=0.0]", 1, facts)
    life.end()
    effects = collect(life.home).effects
    assert effects["reward_hacking"].verdict == verdict
    assert effects["ppo_gain"].verdict == "not measured"  # there is no run with a penalty


def test_a_forecast_counts_only_when_it_was_stored_before_it_was_scored(life) -> None:
    import datetime

    noon = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC)
    row = {
        "sweep": "dense",
        "target": "big",
        "num_params": 10,
        "predicted": 1.0,
        "low": 0.9,
        "high": 1.1,
        "observed": 1.05,
    }
    late = {**row, "made_at": noon, "scored_at": noon - datetime.timedelta(hours=1)}
    life.stage("train_forecast_run", forecasts=[late])
    life.end()
    scaling = collect(life.home).facts["scaling"]
    assert not isinstance(scaling, Missing)
    assert scaling.forecasts[0].inside is True
    assert scaling.effects[1].verdict == "not seen in this run"


def test_two_seeds_without_evaluation_intervals_do_not_pass_for_evidence(life) -> None:
    points = [
        {
            "sweep": "moe",
            "variant": variant,
            "seed": seed,
            "num_params": 9,
            "loss": loss,
            # One held-out window alone: its interval has no ends.
            "details_json": {"loss_low": None, "loss_high": None} | ({"max_share": share} if share else {}),
        }
        for variant, seed, loss, share in (
            ("dense", 0, 1.741, None),
            ("dense", 1, 1.778, None),
            ("moe_balanced", 0, 1.678, 0.15),
            ("moe_balanced", 1, 1.702, 0.17),
            ("moe_unbalanced", 0, 1.713, 0.35),
            ("moe_unbalanced", 1, 1.801, 0.96),
        )
    ]
    life.stage("experts[dense,0]", scaling_points=points)
    life.end()
    effect = collect(life.home).effects["moe_loss"]
    assert effect.interval is not None
    assert effect.interval.value == pytest.approx(0.0695)
    assert effect.interval.low == pytest.approx(0.0695 - 12.706 * 0.0065, abs=1e-4)  # t with one degree of freedom
    assert effect.verdict == "not seen in this run"
    assert "lower in 2 of 2 seeds" in effect.numbers


def test_the_rival_of_a_tree_spends_no_fewer_tokens(home: Home) -> None:
    scores = scores_of(read_run(home), "puzzles")
    tree = next(s for s in scores if s.strategy == "tree_of_thought[depth,judge,4]")
    rival = equal_rival(tree, scores)
    assert rival is not None
    assert rival.strategy == "best_of@2"
    assert rival.tokens is not None
    assert tree.tokens is not None
    assert rival.tokens >= 0.9 * tree.tokens
    assert equal_rival(tree, [s for s in scores if s.k != 2]) is None


def test_cached_stages_bring_their_rows_along_and_cost_this_run_nothing(life) -> None:
    key = life.stage("pretrain", 60, {"num_params": 5}, metrics=life.curve("loss", 10, lambda x: 2 - x))
    life.end()
    second = life.another("run-2")
    second.stage("pretrain", 0.1, {"num_params": 5}, key=key, status="cached")
    second.end()
    report = collect(life.home)
    assert report.run.run_id == "run-2"
    assert not isinstance(report.facts["pretraining"], Missing)
    assert len(report.facts["pretraining"].curve.values) == 10
    assert not isinstance(report.facts["cost"], Missing)
    (line,) = report.facts["cost"].lines
    assert line.cached
    assert line.seconds == 60


def test_a_failed_part_is_named_with_its_reason(life) -> None:
    life.stage("emerge[d8]", status="failed", reason="loss is not finite at step 12\nTraceback …")
    life.end()
    report = collect(life.home)
    assert isinstance(report.facts["emergence"], Missing)
    assert (
        report.facts["emergence"].reason
        == "Emergence is missing: the stage emerge[d8] failed: loss is not finite at step 12"
    )
    assert isinstance(report.facts["moe"], Missing)
    assert "no stage of this part is in this run" in report.facts["moe"].reason
    assert all(effect.verdict == "not measured" for effect in report.headlines)


def test_facts_of_another_version_are_named_and_what_is_not_finite_is_not_measured(life) -> None:
    life.stage("tokenize")
    life.stage("grpo", 1, {"before": None, "after": None})
    del life.stages[0]["facts_json"]["num_tokens"]
    life.end()
    rows = read_run(life.home)
    data = data_facts(rows)
    assert isinstance(data, Missing)
    assert "another version of Lifespan wrote the facts of tokenize (num_tokens is missing)" in data.reason
    trained = grpo_facts(rows)
    assert not isinstance(trained, Missing)
    assert trained.before is None and trained.effects[0].verdict == "not measured"


def test_an_unknown_run_is_refused_with_those_that_exist(home: Home, tmp_path) -> None:
    with pytest.raises(UnknownRun, match=r"no run 'nope' .* run-1"):
        collect(home, "nope")
    with pytest.raises(UnknownRun, match="lifespan run"):
        collect(Home(tmp_path / "empty"))


@given(st.floats(1e-7, 1e14))
def test_amounts_keep_two_digits_and_never_use_an_exponent(value: float) -> None:
    text = formatting.dollars(value)
    assert "e" not in text
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert math.isclose(float(text.strip("$kMBT")) * scale, value, rel_tol=0.05)


def test_counts_below_ten_thousand_stand_in_full() -> None:
    shown = {0: "0", 1024: "1,024", 9999: "9,999", 10_000: "10k", 999_999: "1M", 3_280_000: "3.28M", None: "–"}
    assert {value: formatting.count(value) for value in shown} == shown


def test_durations_read_as_people_say_them() -> None:
    shown = {0.44: "0.4 s", 9.99: "10.0 s", 59.7: "1 min 00 s", 843: "14 min 03 s", 7500: "2 h 05 min"}
    assert {value: formatting.duration(value) for value in shown} == shown


def test_forgetting_reads_bits_as_better_when_they_fall_and_names_the_largest_loss(report: LifeReport) -> None:
    facts = report.facts["forgetting"]
    assert not isinstance(facts, Missing)
    assert facts.checkpoints == ("pretrain", "finetune", "grpo")
    assert list(facts.evaluations) == ["speeches", "worked"]
    lost, regained = facts.cells["finetune", "speeches"], facts.cells["grpo", "speeches"]
    assert lost.worse
    assert lost.gain is not None
    assert (lost.gain.value, lost.gain.low) == (-0.52, -0.59)
    assert not regained.worse  # its interval holds zero
    assert facts.cells["grpo", "worked"].better
    section = next(part for part in report.sections if part.slug == "forgetting")
    assert "speeches costs finetune 2.76 bits per byte, 2.24 before" in section.meaning
    assert section.tables[1].rows[0] == ("finetune", "+0.52 [+0.45, +0.59]", "+60 [+44, +72]")


def test_what_replay_saved_is_the_difference_of_what_fine_tuning_cost(life) -> None:
    changes = {"finetune": (0.5, 0.4, 0.6), "finetune[replay=0]": (9.5, 9.0, 10.0)}
    for label, share in (("finetune", 0.25), ("finetune[replay=0]", 0.0)):
        life.stage(label, 1, {"replay": share})
    rows = [{"checkpoint": "pretrain", "position": 0, "evaluation": "speeches", "unit": "bits_per_byte", "value": 2.0,
             "n": 9}]  # fmt: skip
    for position, (label, change) in enumerate(changes.items(), 1):
        rows.append(
            {"checkpoint": label, "position": position, "evaluation": "speeches", "unit": "bits_per_byte",
             "value": 2.0 + change[0], "n": 9,
             **dict(zip(("change", "change_low", "change_high"), change, strict=True))}
        )  # fmt: skip
    life.stage("measure_forgetting", 8.0, {"first": "pretrain"}, forgetting=rows)
    life.end()
    report = collect(life.home)
    saved = report.effects["replay_speeches"]
    assert saved.seen and saved.interval is not None
    assert (saved.interval.value, saved.interval.low) == (9.0, pytest.approx(9.0 - math.hypot(0.5, 0.1)))
    assert saved.numbers == "11.50 bits per byte with 0% replayed, 2.50 with 25%"
    section = next(part for part in report.sections if part.slug == "forgetting")
    table = next(t for t in section.tables if t.title.startswith("Fine-tuning by the share"))
    assert table.rows == (("0%", "+9.50 [+9.00, +10.00]"), ("25%", "+0.50 [+0.40, +0.60]"))


def test_skipped_steps_and_overfitting_are_told_when_there_were_any(life) -> None:
    stopped = {"best_step": 300, "best_loss": 0.41, "last_step": 800, "last_loss": 0.52, "overfitting": 0.11}
    life.stage("pretrain", 9.0, {"loss": 2.0, "skipped_steps": 13, "rollbacks": 1})
    life.stage("finetune", 9.0, {"loss": 0.4, "skipped_steps": 0, **stopped})
    life.end()
    parts = {part.slug: dict(part.tables[-1].rows) for part in collect(life.home).sections if part.tables}
    assert parts["pretraining"]["steps skipped, loss or gradient not finite"] == "13; rolled back 1 times"
    assert not any("skipped" in name for name in parts["finetuning"])
    assert parts["finetuning"]["lowest loss on validation conversations (kept)"] == "0.410 after 300 steps"
    assert parts["finetuning"]["last loss on validation conversations"] == "0.520 after 800 steps: overfitting by 0.110"


def test_the_sources_of_conversations_are_told_with_what_was_rejected(life) -> None:
    read = {
        "name": "chats",
        "num_files": 1,
        "num_records": 12,
        "num_conversations": 9,
        "layouts": {"sharegpt (conversations)": 9},
        "rejected": {"no turns": 2, "longer than the context": 1},
    }
    counts = {"chats": 9, "stories": 4}
    facts = {"num_conversations": 13, "conversations_by_source": counts, "read": [read]}
    life.stage("prepare_corpus", 1, {"num_documents": 7})
    life.stage("make_conversations", 1.0, facts)
    life.end()
    section = next(part for part in collect(life.home).sections if part.slug == "data")
    said = "Of chats fine-tuning takes 9 conversations, found as sharegpt (conversations), and leaves 3 records out."
    assert section.meaning.endswith(said)
    table = next(table for table in section.tables if table.title == "Conversations of fine-tuning")
    assert table.rows == (
        ("chats", "12", "3", "9", "sharegpt (conversations): 9"),
        ("stories", "–", "–", "4", "generated"),
    )
