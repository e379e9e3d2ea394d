from __future__ import annotations

import pytest

from components.cost.estimating import FIRST_TIME, Past, estimate_run, estimate_stage, scale

CONFIG = {
    "config": {"num_steps": 100, "batch_size": 8, "learning_rate": 0.1},
    "model": {"d_model": 64, "num_layers": 4},
}
BIGGER = {
    "config": {"num_steps": 200, "batch_size": 8, "learning_rate": 0.9},
    "model": {"d_model": 128, "num_layers": 2},
}
PAST = [
    Past("train", "train[a]", CONFIG, 20.0, 10.0, 5e8, ended=1.0),
    Past("train", "train[b]", CONFIG, 40.0, 30.0, 6e8, ended=2.0),
    Past("other", "train[a]", CONFIG, 1.0, 1.0, None, ended=3.0),
]


def test_work_grows_with_steps_and_with_the_square_of_the_width() -> None:
    assert scale(BIGGER, CONFIG) == pytest.approx(2 * 4 / 2)
    assert scale(CONFIG, BIGGER) == pytest.approx(1 / 4)
    assert scale(CONFIG, CONFIG) == 1.0


def test_the_same_label_is_taken_as_it_was() -> None:
    found = estimate_stage("train", "train[a]", CONFIG, PAST, 99.0, usd_per_hour=3600.0)
    assert (found.seconds, found.device_seconds, found.usd) == pytest.approx((20.0, 10.0, 10.0))
    assert (found.basis, found.memory_bytes) == ("past", 5e8)
    assert found.low_usd < found.usd < found.high_usd


def test_more_work_is_scaled_and_less_certain() -> None:
    found = estimate_stage("train", "train[a]", BIGGER, PAST, 99.0, usd_per_hour=3600.0)
    assert found.device_seconds == pytest.approx(40.0) and found.basis == "alike"
    assert found.factor > estimate_stage("train", "train[a]", CONFIG, PAST, 99.0, 3600.0).factor


def test_a_stage_that_was_never_made_is_as_its_author_states() -> None:
    found = estimate_stage("new", "new", {}, PAST, 99.0, usd_per_hour=3600.0, threads=2)
    assert (found.seconds, found.device_seconds, found.factor, found.basis) == (99.0, 198.0, FIRST_TIME, "stated")


def test_hours_are_those_of_the_longest_chain_or_of_the_work_over_the_workers() -> None:
    stages = [
        estimate_stage(name, name, {}, [], seconds, 3600.0) for name, seconds in (("a", 10.0), ("b", 20.0), ("c", 30.0))
    ]
    chain = {"a": (), "b": ("a",), "c": ("b",)}
    assert estimate_run(stages, chain, 4).hours * 3600 == pytest.approx(60.0)
    apart = {"a": (), "b": (), "c": ()}
    assert estimate_run(stages, apart, 4).hours * 3600 == pytest.approx(30.0)
    assert estimate_run(stages, apart, 1).hours * 3600 == pytest.approx(60.0)
    assert estimate_run(stages, apart, 1).usd == pytest.approx(60.0)
