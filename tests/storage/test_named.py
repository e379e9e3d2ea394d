"""Every named query answers from a small home with numbers worked out by hand; parameters are what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.home import Home
from storage.named import find, find_run, listing, named_queries, parse, values
from storage.queries import query
from storage.sql_guard import QueryError

START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
KEYS = {name: f"{number:064x}" for number, name in enumerate(["pretrain", "ppo", "evaluate", "serve", "cost", "rest"])}
OLD, NEW = "20261122-140300-aaaa", "20261123-140300-bbbb"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An old run that pretrained, and a new one that took that from it and did the rest."""
    home = Home(tmp_path_factory.mktemp("home"))
    write = home.tables.write
    for run, day, lr in ((OLD, 0, 0.1), (NEW, 1, 0.2)):
        at = START + timedelta(days=day)
        config = {"seed": 1, "optimizer": {"lr": lr}, "layers": [1, 2]}
        event = {"run_id": run, "name": "life", "profile": "laptop"}
        started = {**event, "event": "started", "status": "running", "time": at, "config_json": config}
        ended = {**event, "event": "ended", "status": "completed", "time": at + timedelta(minutes=10)}
        write("runs", f"{run}-events", [started, ended])
    parts = {"pretrain": "pretraining", "ppo": "rlhf", "evaluate": "reasoning", "serve": "cost", "cost": "cost"}
    stages = {"pretrain": "pretrain", "ppo": "ppo", "evaluate": "evaluate", "serve": "measure_serving"}
    facts: Mapping[str, Any] = {
        "serve": {"prefill_tokens_per_second": 5000.0, "decode_tokens_per_second": 250.0},
        "cost": {
            "price_per_million_input_tokens": 1.0, "price_per_million_output_tokens": 20.0,
            "price_per_million_output_tokens_low": 19.0, "price_per_million_output_tokens_high": 21.0,
            "training_usd": 3.0, "break_even_tokens": 150_000.0,
            "break_even_tokens_low": 142_000.0, "break_even_tokens_high": 158_000.0,
        },
    }  # fmt: skip

    def stage(run: str, name: str, status: str, minute: int) -> dict[str, Any]:
        day = 0 if run == OLD else 1
        return {
            "run_id": run, "stage": stages.get(name, "account_costs"), "label": name, "key": KEYS[name],
            "status": status, "group": parts[name], "started_at": START + timedelta(days=day, minutes=minute),
            "ended_at": START + timedelta(days=day, minutes=minute + 1), "facts_json": facts.get(name),
        }  # fmt: skip

    write("stages", "old", [stage(OLD, "pretrain", "ran", 1)])
    new = [stage(NEW, name, "ran", minute) for minute, name in enumerate(parts) if name != "pretrain"]
    write("stages", "new", [stage(NEW, "pretrain", "cached", 0), *new])
    for name, seconds, tokens, usd, run in (("pretrain", 100.0, 5000, 1.0, OLD), ("ppo", 300.0, 600, 3.0, NEW)):
        cost = {"run_id": run, "key": KEYS[name], "stage": name, "group": parts[name], "seconds": seconds, "usd": usd}
        more = {"tokens": tokens, "flops": 2e9 * seconds, "cpu_seconds": seconds / 2, "energy_joules": 3.6e6}
        write("costs", KEYS[name], [{**cost, **more}])
    at = {"run_id": OLD, "key": KEYS["pretrain"], "stage": "pretrain", "time": START}
    losses = [{**at, "step": step, "name": "loss", "value": 5.0 - step} for step in (3, 1, 2)]
    rates = [{**at, "step": step, "name": "tokens_per_second", "value": rate} for step, rate in enumerate([60, 70, 90])]
    write("metrics", KEYS["pretrain"], losses + rates)
    at = {"run_id": NEW, "key": KEYS["ppo"], "stage": "ppo", "time": START}
    looks = [
        (0, "objective/score", 1.0),
        (0, "gold", 2.0),
        (0, "objective/kl", 0.0),
        (5, "objective/score", 4.0),
        (5, "gold", -1.0),
        (5, "objective/kl", 9.0),
    ]
    write("metrics", KEYS["ppo"], [{**at, "step": s, "name": n, "value": v} for s, n, v in [*looks, (1, "loss", 0.5)]])
    item = {"run_id": NEW, "key": KEYS["evaluate"], "stage": "evaluate", "suite": "chains", "model": "sft"}
    votes = [("vote@2", "vote", 6, 40), ("vote@8", "vote", 9, 160), ("vote@4", "vote", 5, 80)]
    strategies = [("direct", None, 4, 10), *votes]  # rows of a version before the column have no family
    answers = [
        {
            **item, "strategy": strategy, "strategy_family": family, "item_id": str(number), "correct": number < right,
            "completion_tokens": tokens, "prompt_tokens": 100, "difficulty": 2 + number % 2,
        }
        for strategy, family, right, tokens in strategies for number in range(10)
    ]  # fmt: skip
    write("evals", KEYS["evaluate"], answers)
    bad = [("empty", "notes", "b", 7), ("empty", "notes", "a", 3), ("too long", None, None, None)]
    write(
        "quarantine",
        KEYS["pretrain"],
        [
            {"run_id": OLD, "key": KEYS["pretrain"], "reason": r, "source": s, "file": f, "line": n, "excerpt": f}
            for r, s, f, n in bad
        ],
    )
    look = {"run_id": NEW, "key": KEYS["ppo"], "unit": "accuracy", "evaluation": "copy", "n": 50}
    ahead = {"checkpoint": "ppo", "position": 1, "before": "pretrain", "value": 0.4, "change": -0.5}
    forgotten = [
        {**look, "checkpoint": "pretrain", "position": 0, "value": 0.9},
        {**look, **ahead, "change_low": -0.6, "change_high": -0.4},
        {**look, **ahead, "evaluation": "sort", "unit": "bits_per_byte", "change_low": -0.6, "change_high": -0.4},
    ]
    write("forgetting", KEYS["ppo"], forgotten)
    fit = {"run_id": NEW, "key": KEYS["cost"], "sweep": "dense", "law": "kaplan", "parameter": "alpha", "value": 0.3}
    write("scaling_fits", KEYS["cost"], [{**fit, "low": 0.2, "high": 0.4, "n": 9}])
    forecast = {"run_id": NEW, "key": KEYS["cost"], "sweep": "dense", "target": "loss", "predicted": 2.0}
    write("forecasts", KEYS["cost"], [{**forecast, "observed": 2.1, "made_at": START, "scored_at": START}])
    return home


def ask(home: Home, name: str, **given: str) -> list[dict[str, Any]]:
    named = find(name)
    rows: list[dict[str, Any]] = query(home, named.sql, values(home, named, given) or None).to_pylist()
    return rows


def table(home: Home, name: str, columns: str, **given: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns.split()) for row in ask(home, name, **given)]


def test_every_query_says_what_it_answers_and_names_each_parameter_that_it_uses() -> None:
    assert len(named_queries()) >= 15
    for named in named_queries().values():
        assert named.answers.endswith(("?", ".")), named.name
        assert set(re.findall(r"\$(\w+)", named.sql)) == {one.name for one in named.parameters}, named.name
        assert all(one.about for one in named.parameters), named.name
        assert f"{named.name}\n    {named.answers}\n" in listing([named])


def test_every_query_runs_on_a_home_with_one_empty_run(tmp_path: Path) -> None:
    home = Home(tmp_path)
    event = {"run_id": "r", "event": "started", "status": "running", "time": START}
    home.tables.write("runs", "r", [event])
    for name in named_queries():
        given = {"before": "r"} if name == "what_changed" else {}
        assert len(ask(home, name, **given)) == (name in ("runs", "cost_by_run")), name


def test_runs(home: Home) -> None:
    assert table(home, "runs", "run_id ran cached seconds") == [(NEW, 4, 1, 600), (OLD, 1, 0, 600)]
    assert len(ask(home, "runs", limit="1")) == 1


def test_leaderboard_has_the_last_value_of_each_run_that_has_the_artifact(home: Home) -> None:
    expected = [(NEW, "ppo", 0.5, 1), (OLD, "pretrain", 2.0, 3), (NEW, "pretrain", 2.0, 3)]
    assert table(home, "leaderboard", "run_id label value points") == expected
    assert table(home, "leaderboard", "run_id value", best="high", stage="pretrain", limit="1") == [(OLD, 2.0)]


def test_curve_of_a_cached_stage_is_the_one_of_the_run_that_made_it(home: Home) -> None:
    expected = [("pretrain", 1, 4.0), ("pretrain", 2, 3.0), ("pretrain", 3, 2.0)]
    for run in (OLD, NEW, "20261122"):
        assert table(home, "curve", "label step value", run=run, stage="pretrain") == expected
    assert ask(home, "curve", metric="none") == []


def test_metric_names(home: Home) -> None:
    expected = [("pretrain", "tokens_per_second", 3, 2, 90.0)]
    assert table(home, "metric_names", "label name points last_step last_value", like="tokens%") == expected


def test_cost_by_part(home: Home) -> None:
    expected = [("rlhf", 1, 300.0, 600, 1.0, 3.0, 0.75), ("pretraining", 1, 100.0, 5000, 1.0, 1.0, 0.25)]
    assert table(home, "cost_by_part", "part stages seconds tokens energy_kwh usd share") == expected


def test_slowest_stages(home: Home) -> None:
    expected = [("ppo", "ran", 300.0, 0.5, 2.0), ("pretrain", "cached", 100.0, 0.5, 2.0)]
    assert table(home, "slowest_stages", "label status seconds cores_busy gflops_per_second") == expected


def test_tokens_per_second(home: Home) -> None:
    expected = [("pretrain", 50.0, 70.0), ("ppo", 2.0, None)]
    assert table(home, "tokens_per_second", "label tokens_per_second tokens_per_second_in_the_loop") == expected


def test_accuracy_and_difficulty(home: Home) -> None:
    (best, *_) = ask(home, "accuracy", suite="chains")
    # Wilson (1927) for 9 of 10 at 95%: [0.5958, 0.9821].
    assert (best["strategy"], best["accuracy"]) == ("vote@8", 0.9)
    assert (best["low"], best["high"]) == pytest.approx((0.595850, 0.982124), abs=1e-6)
    found = table(home, "accuracy_by_difficulty", "strategy difficulty n accuracy")[:2]
    assert found == [("direct", 2, 5, 0.4), ("direct", 3, 5, 0.4)]


def test_cost_against_accuracy(home: Home) -> None:
    # 100 tokens in at 1 $/M and 10 out at 20 $/M: 0.0003 $ a question.
    found = table(home, "cost_accuracy", "strategy accuracy usd_per_thousand on_frontier")
    assert [row[0] for row in found] == ["direct", "vote@2", "vote@4", "vote@8"]
    assert [row[2] for row in found] == pytest.approx([0.3, 0.9, 1.7, 3.3])
    assert [row[3] for row in found] == [True, True, False, True]


def test_equal_dollars_takes_the_dearest_of_each_family_that_fits_and_prices_prompts_in(home: Home) -> None:
    # 100 tokens in at 1 $/M and 80 out at 20 $/M: vote@4 costs $1,700 per million; without its prompts $1,600.
    found = table(home, "equal_dollars", "family strategy usd_per_million", usd="1700.5")
    assert found == [("vote", "vote@4", pytest.approx(1700)), ("direct", "direct", pytest.approx(300))]
    assert table(home, "equal_dollars", "strategy", usd="1650")[0] == ("vote@2",)
    assert table(home, "equal_dollars", "strategy", usd="299") == []


def test_reward_hacking_shows_gains_against_the_first_look(home: Home) -> None:
    found = table(home, "reward_hacking", "label step proxy gold kl proxy_gain gold_gain")
    assert found == [("ppo", 0, 1.0, 2.0, 0.0, 0.0, 0.0), ("ppo", 5, 4.0, -1.0, 9.0, 3.0, -3.0)]


def test_quarantine_counts_by_reason_with_an_example(home: Home) -> None:
    found = table(home, "quarantine", "reason source records files for_example line")
    assert found == [("empty", "notes", 2, 2, "a", 3), ("too long", None, 1, 0, None, None)]


def test_what_changed(home: Home) -> None:
    found = table(home, "what_changed", "what name before after", before=OLD)
    assert found[0] == ("setting", "optimizer.lr", "0.1", "0.2")
    assert [row[1] for row in found if row[0] == "setting"] == ["optimizer.lr"]
    assert ("accuracy", "chains sft direct", None, "0.4") in found
    assert ("seconds", "ppo", None, "300.0") in found and not any(row[1] == "pretrain" for row in found)
    assert ask(home, "what_changed", before=NEW, after=NEW) == []


def test_forgetting_knows_which_way_is_worse(home: Home) -> None:
    found = table(home, "forgetting", "evaluation checkpoint value verdict")
    assert found == [("copy", "pretrain", 0.9, None), ("copy", "ppo", 0.4, "worse"), ("sort", "ppo", 0.4, "better")]


def test_serving_price(home: Home) -> None:
    (row,) = ask(home, "serving_price")
    assert list(row.values()) == [1.0, 20.0, 19.0, 21.0, 5000.0, 250.0, 3.0, 150_000.0, 142_000.0, 158_000.0]


def test_scaling_laws_and_forecasts(home: Home) -> None:
    expected = [("forecast", "loss", 2.0, 2.1), ("kaplan", "alpha", 0.3, None)]
    assert table(home, "scaling_laws", "law parameter value observed") == expected


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("leaderbord", {}, "no query named 'leaderbord'; nearest: leaderboard"),
        ("leaderboard", {"metrc": "x"}, "no parameter 'metrc', nearest: metric; it takes metric, best, stage, limit"),
        ("leaderboard", {"best": "up"}, "parameter best: got 'up', takes low, high"),
        ("leaderboard", {"limit": "2.5"}, "parameter limit: got '2.5', takes a whole number"),
        ("leaderboard", {"limit": str(2**63)}, "takes a whole number"),
        ("equal_dollars", {"usd": "many"}, "takes a number"),
        ("what_changed", {}, r"what_changed needs -p before=… \(run: the earlier run"),
        ("curve", {"run": "2026112"}, f"more than one run begins with '2026112': {NEW}, {OLD}"),
        ("curve", {"run": "x"}, f"no run begins with 'x'; the newest are {NEW}, {OLD}"),
    ],
)
def test_wrong_parameters_are_explained(home: Home, name: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        ask(home, name, **given)


def test_a_home_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="no runs yet"):
        find_run(Home(tmp_path), "newest")


def test_a_parameter_is_data_and_never_sql(home: Home) -> None:
    assert ask(home, "leaderboard", metric="x' OR 1=1 --") == []


def test_parameters_declared_in_a_file_are_typed(home: Home) -> None:
    text = (
        "-- A question.\n-- @a int = 2: a number\n-- @b bool = true\n-- @t time = null: when\n"
        "SELECT $a + 1 AS a, NOT $b AS b, $t AS t"
    )
    named = parse(text, "q.sql")
    assert named.answers == "A question." and [one.about for one in named.parameters] == ["a number", "", "when"]
    (row,) = query(home, named.sql, values(home, named, {})).to_pylist()
    assert row == {"a": 3, "b": False, "t": None}
    given = values(home, named, {"b": "False", "t": "2026-11-22T14:03"})
    assert given == {"a": 2, "b": False, "t": START}
    with pytest.raises(QueryError, match=r"line 1: .* is not a valid parameter"):
        parse("-- @a whole: x\nSELECT 1", "q.sql")
    with pytest.raises(QueryError, match="line 2: the parameter a is declared twice"):
        parse("-- @a int\n-- @a int\nSELECT $a", "q.sql")
    for name, value, takes in (("b", "1", "true or false"), ("t", "noon", "a time such as")):
        with pytest.raises(QueryError, match=takes):
            values(home, named, {name: value})
