"""SQL sees the tables and nothing else; the named views give hand-computed numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.home import Home
from storage.queries import NAMES, VIEWS, QueryError, query, relations
from storage.tables import SCHEMAS, TableError

START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)
PPO, SFT = "a" * 64, "b" * 64


def rows(home: Home, sql: str, params: Any = None) -> list[dict[str, Any]]:
    return query(home, sql, params).to_pylist()


def event(run: str, event: str, status: str, minute: float) -> dict[str, Any]:
    time = START + timedelta(minutes=minute)
    return {"run_id": run, "event": event, "status": status, "name": "life", "profile": "laptop", "time": time}


def stage(run: str, label: str, key: str, status: str, minute: float, group: str = "rlhf") -> dict[str, Any]:
    time = START + timedelta(minutes=minute)
    return {
        "run_id": run, "stage": label.split("[")[0], "label": label, "key": key, "status": status, "group": group,
        "started_at": time, "ended_at": time + timedelta(seconds=30), "seconds": 30.0,
    }  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two runs: r1 made sft and ppo (ppo failed first), r2 found both cached, shares ppo between two labels."""
    home = Home(tmp_path)
    write = home.tables.write
    write("runs", "r1-started", [event("r1", "started", "running", 0)])
    write("runs", "r1-ended", [event("r1", "ended", "completed", 10)])
    write("runs", "r2-started", [event("r2", "started", "running", 20)])
    write("stages", "r1-sft", [stage("r1", "sft", SFT, "ran", 1, "sft")])
    write("stages", "r1-ppo-failed", [stage("r1", "ppo", PPO, "failed", 2)])
    write("stages", "r1-ppo", [stage("r1", "ppo", PPO, "ran", 3)])
    cached = [("sft", SFT, "sft"), ("ppo", PPO, "rlhf"), ("ppo[again]", PPO, "rlhf")]
    write("stages", "r2-cached", [stage("r2", label, key, "cached", 20, group) for label, key, group in cached])
    for key, name, usd in ((SFT, "sft", 0.25), (PPO, "ppo", 0.5)):
        write("costs", key, [{"run_id": "r1", "key": key, "stage": name, "usd": usd, "tokens": 100, "hardware": "cpu"}])
    answers = [(f"i{n}", n < 80, 4 + n % 2) for n in range(100)]
    common = {"run_id": "r1", "key": SFT, "stage": "evaluate", "suite": "chains", "model": "sft"}
    greedy = [
        {**common, "strategy": "greedy", "item_id": i, "correct": c, "score": float(c), "completion_tokens": t}
        for i, c, t in answers
    ]
    vote = [{**common, "strategy": "vote", "item_id": f"i{n}", "correct": True} for n in range(10)]
    write("evals", SFT, greedy + vote)
    write("evals", "c" * 64, [{**greedy[0], "key": "c" * 64}])  # of no stage in any run
    metrics = [(0, "reward", 0.0), (1, "reward", 1.5), (1, "kl", 0.1), (1, "tokens_per_second", 9.0)]
    at = {"run_id": "r1", "key": PPO, "stage": "ppo", "time": START}
    write("metrics", PPO, [{**at, "step": s, "name": n, "value": v} for s, n, v in metrics])
    return home


def test_tables_without_rows_are_there_with_their_columns(tmp_path: Path) -> None:
    home = Home(tmp_path)
    found = relations(home)
    assert {table: found[table] for table in SCHEMAS} == {table: schema.names for table, schema in SCHEMAS.items()}
    for name in NAMES:
        assert rows(home, f"FROM {name}") == []
    assert {row["name"] for row in rows(home, "SHOW TABLES")} == set(NAMES) == {*SCHEMAS, "last_values", *VIEWS}


def test_parameters(home: Home) -> None:
    assert rows(home, "SELECT sum(usd) AS usd FROM costs WHERE stage = ?", ["ppo"]) == [{"usd": 0.5}]
    assert rows(home, "SELECT $a + 1 AS b", {"a": 1}) == [{"b": 2}]


def test_variables_of_the_program_are_no_tables(home: Home) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="unknown table 'secret'"):
        query(home, "SELECT * FROM secret")
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP VIEW leaderboard", "only reads: use SELECT; got DROP"),
        ("COPY runs TO '/tmp/x.csv'", "got COPY"),
        ("SET threads = 1", "got SET"),
        ("SELECT 1; DROP VIEW leaderboard", "one SELECT statement; got 2"),
        ("", "got none"),
        ("PIVOT stages ON status USING count(*)", r"ON column IN"),
        ("SELEC 1", "syntax error"),
        ("SELECT group FROM stages", 'column "group" needs its quotes'),
        (
            "SELECT * FROM metric",
            "line 1, column 15: unknown table 'metric'; nearest: metrics, live_metrics\n.*\n {16}\\^",
        ),
        ("SELECT valu FROM metrics", "line 1, column 8: unknown column 'valu'; nearest: metrics.value"),
        ("SELECT 'é',\n  m.vlue FROM metrics m", "line 2, column 3: unknown column 'vlue'; nearest: metrics.value"),
        ("SELECT zzz FROM prices", "unknown column 'zzz'\nprices has hardware, usd_per_hour"),
        ("FROM zzz", "unknown table 'zzz'; there are runs, stages, .*leaderboard"),
        ("SELECT summ(value) FROM metrics", 'summ does not exist!\nDid you mean "sum"'),
        ("SELECT 'x'::INT", "Could not convert string 'x' to INT32"),
        ("EXPLAIN SELEC", "line 1, column 9: syntax error"),
        ("SELECT $a", "Values were not provided for the following parameters: a"),
    ],
)
def test_statements_that_are_no_query_are_explained(home: Home, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        query(home, sql)


def test_a_damaged_part_is_named(home: Home) -> None:
    file = home.tables.path("costs") / f"{PPO}.parquet"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(TableError, match=f"{PPO}.parquet"):
        query(home, "SELECT sum(usd) FROM costs")
    assert rows(home, "SELECT count(*) AS n FROM evals") == [{"n": 111}]


def test_runs(home: Home) -> None:
    newest, oldest = rows(home, "FROM latest_runs")
    assert (newest["run_id"], newest["status"], newest["ended_at"], newest["cached"]) == ("r2", "running", None, 3)
    assert (oldest["run_id"], oldest["status"], oldest["seconds"], oldest["ran"]) == ("r1", "completed", 600, 1 + 1)
    assert [row["run_id"] for row in rows(home, "FROM current_run")] == ["r2"]


def test_the_last_word_on_a_stage_counts(home: Home) -> None:
    found = rows(home, "SELECT label, status FROM run_stages WHERE run_id = 'r1' ORDER BY label")
    assert found == [{"label": "ppo", "status": "ran"}, {"label": "sft", "status": "ran"}]


def test_costs_of_cached_stages_are_those_of_the_run_that_paid_and_count_once(home: Home) -> None:
    found = rows(home, "SELECT label, status, paid_by_run, usd, tokens FROM stage_costs ORDER BY label")
    assert found == [
        {"label": "ppo", "status": "cached", "paid_by_run": "r1", "usd": 0.5, "tokens": 100},
        {"label": "sft", "status": "cached", "paid_by_run": "r1", "usd": 0.25, "tokens": 100},
    ]
    assert rows(home, "SELECT run_id, sum(usd) AS usd FROM run_costs GROUP BY ALL ORDER BY ALL") == [
        {"run_id": "r1", "usd": 0.75},
        {"run_id": "r2", "usd": 0.75},
    ]


def test_leaderboard_has_wilsons_interval(home: Home) -> None:
    vote, greedy = rows(home, "FROM leaderboard")
    # Wilson (1927) for 80 of 100 at 95%: [0.7112, 0.8666]; for 10 of 10: [0.7225, 1].
    assert (greedy["n"], greedy["accuracy"], greedy["tokens_per_item"]) == (100, 0.8, 4.5)
    assert (greedy["low"], greedy["high"]) == pytest.approx((0.711170, 0.866633), abs=2e-6)
    assert (vote["n"], vote["accuracy"], vote["high"], vote["run_id"]) == (10, 1.0, 1.0, "r2")
    assert vote["low"] == pytest.approx(0.722467, abs=2e-6)


def test_leaderboard_has_no_interval_for_items_that_share_a_prompt(home: Home) -> None:
    """Preference pairs of one request hang together: as independent items they would look surer than they are."""
    common = {"run_id": "r1", "key": PPO, "stage": "e", "model": "reward model", "strategy": "gold", "correct": True}
    for suite, prompts in (("preference pairs", "aabb"), ("items", "abcd")):
        items = [{**common, "suite": suite, "item_id": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
        home.tables.write("evals", f"{PPO[:-1]}{len(suite) % 10}", items)
    shared, apart = (rows(home, f"FROM leaderboard WHERE suite = '{suite}'") for suite in ("preference pairs", "items"))
    assert (shared[0]["n"], shared[0]["accuracy"], shared[0]["low"], shared[0]["high"]) == (4, 1.0, None, None)
    assert apart[0]["low"] == pytest.approx(0.5101, abs=1e-4)  # Wilson (1927) for 4 of 4


def test_leaderboard_of_ungraded_items_has_no_accuracy(home: Home) -> None:
    common = {"run_id": "r1", "key": PPO, "stage": "e", "suite": "open", "model": "m", "strategy": "s"}
    home.tables.write("evals", PPO, [{**common, "item_id": "1", "score": 0.5}])
    (row,) = rows(home, "FROM leaderboard WHERE suite = 'open'")
    assert (row["n"], row["accuracy"], row["low"], row["high"], row["score"]) == (0, None, None, None, 0.5)


def test_reward_curves(home: Home) -> None:
    found = rows(home, "SELECT label, name, step, value FROM reward_curves WHERE label = 'ppo'")
    assert [tuple(row.values()) for row in found] == [
        ("ppo", "kl", 1, 0.1),
        ("ppo", "reward", 0, 0.0),
        ("ppo", "reward", 1, 1.5),
    ]


def test_views_read_compacted_tables(home: Home) -> None:
    before = {view: rows(home, f"FROM {view}") for view in VIEWS}
    assert home.tables.compact()["stages"] == 4
    assert {view: rows(home, f"FROM {view}") for view in VIEWS} == before


@pytest.fixture
def two_lives(home: Home) -> Home:
    """r1 of `home` with a loss, two policies, a forecast and claims; 'vote' is right where greedy is wrong."""
    write = home.tables.write

    def facts(label: str, key: str, **found: Any) -> dict[str, Any]:
        return {**stage("r1", label, key, "ran", 4), "facts_json": found}

    write(
        "stages",
        "r1-facts",
        [
            facts("pretrain", "d" * 64, loss=2.5),
            facts("ppo[kl_coef=0.0]", "e" * 64, gold=-0.5, gold_low=-0.7, gold_high=-0.3, alarm=True),
            facts("ppo[kl_coef=0.1]", "f" * 64, gold=0.4, gold_low=0.2, gold_high=0.6, alarm=False),
        ],
    )
    common = {"run_id": "r1", "key": "d" * 64, "stage": "evaluate", "suite": "chains", "model": "sft"}
    answers = [
        {
            **common,
            "strategy": strategy,
            "strategy_family": "cot",
            "item_id": f"i{n}",
            "correct": n in right,
            "needs_verifier": verifier,
            "completion_tokens": 5,
        }
        for strategy, right, verifier in (
            ("cot", {0, 1, 2}, False),
            ("vote", {2, 3}, False),
            ("told", {0, 1, 2, 3, 4}, True),
        )
        for n in range(5)
    ]
    write("evals", "d" * 64, answers)
    forecast = {"run_id": "r1", "key": "d" * 64, "sweep": "dense", "target": "loss", "method": "law", "predicted": 2.0}
    write(
        "forecasts",
        "d" * 64,
        [
            {**forecast, "num_params": 10, "observed": 9.0},
            {**forecast, "num_params": 20, "observed": 1.75},
            {**forecast, "num_params": 30},
        ],
    )
    claim = {"run_id": "r1", "title": "t", "seed": 0, "settings": "s", "code": "c", "time": START}
    verdicts = ("seen", "held", "not seen", "not seen in this run", "not identified", "not measured")
    write("claims", "r1", [{**claim, "claim": f"c{i}", "verdict": verdict} for i, verdict in enumerate(verdicts)])
    return home


def test_a_run_in_one_row(two_lives: Home) -> None:
    newest, found = rows(two_lives, "FROM run_summary")
    assert newest["run_id"] == "r2" and newest["held_out_loss"] is None and newest["seen"] == 0
    assert (found["usd"], found["held_out_loss"], found["alarms"]) == (0.75, 2.5, 1)
    assert (found["gold"], found["gold_policy"]) == (0.4, "ppo[kl_coef=0.1]")
    assert found["forecast_error"] == 0.25  # of the largest run that was scored
    assert (found["seen"], found["not_seen"]) == (2, 3)
    # 'told' asks a verifier; of the rest 3 of 5 is the best, Wilson's interval by statsmodels' proportion_confint
    assert (found["strategy"], found["accuracy"], found["accuracy_n"]) == ("cot", 0.6, 5)
    assert found["accuracy_low"] == pytest.approx(0.230724, abs=1e-5)
    assert found["accuracy_high"] == pytest.approx(0.882379, abs=1e-5)


def test_items_that_two_strategies_answered(two_lives: Home) -> None:
    sql = """SELECT outcome, list(item_id ORDER BY item_id) AS items FROM paired_items
             WHERE run_a = 'r1' AND strategy_a = 'cot' AND run_b = 'r1' AND strategy_b = 'vote'
             AND key_b = repeat('d', 64) GROUP BY outcome ORDER BY outcome"""
    assert {row["outcome"]: row["items"] for row in rows(two_lives, sql)} == {
        "both": ["i2"],
        "only a": ["i0", "i1"],
        "only b": ["i3"],
        "neither": ["i4"],
    }
