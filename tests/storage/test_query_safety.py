"""Whatever is typed as SQL, a query reads the tables and nothing else, writes nothing, and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import queries
from storage.home import Home
from storage.queries import NAMES, Limits, QueryError, QueryTimeout, query
from storage.tables import SCHEMAS, TableError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SECRET = "planted-secret-31415"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret beside a home."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.csv").write_text(f"a,b\n{SECRET},2\n")
    (folder / "secret.json").write_text(f'[{{"a": "{SECRET}"}}]')
    duckdb.sql(f"COPY (SELECT '{SECRET}' AS a) TO '{folder}/secret.parquet' (FORMAT parquet)")
    home = Home(folder / "home")
    home.tables.write("prices", "p", [{"hardware": "cpu", "usd_per_hour": 0.5}])
    home.tables.write("runs", "r", [{"run_id": "r", "event": "started", "status": "running", "time": NOW}])
    home.tables.compact(["prices"])
    home.tables.write("prices", "q", [{"hardware": "gpu", "usd_per_hour": 2.5}])
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


ATTEMPTS = """
SELECT * FROM read_csv('{p}/secret.csv')
SELECT * FROM read_csv_auto('{p}/secret.csv')
SELECT * FROM read_text('{p}/secret.csv')
SELECT * FROM read_blob('{p}/secret.csv')
SELECT * FROM read_json('{p}/secret.json')
SELECT * FROM read_ndjson_objects('{p}/secret.json')
SELECT * FROM read_parquet('{p}/secret.parquet')
SELECT * FROM parquet_scan('{p}/secret.parquet')
SELECT * FROM parquet_metadata('{p}/secret.parquet')
SELECT * FROM parquet_schema('{p}/secret.parquet')
SELECT * FROM parquet_kv_metadata('{p}/home/tables/prices/q.parquet')
SELECT * FROM read_parquet('{p}/home/tables/prices/q.parquet')
SELECT * FROM read_parquet('https://example.com/x.parquet')
SELECT * FROM read_csv('s3://bucket/x.csv')
SELECT * FROM '{p}/secret.csv'
SELECT * FROM "{p}/secret.parquet"
SELECT * FROM '{p}/home/tables/prices/q.parquet'
SELECT * FROM sniff_csv('{p}/secret.csv')
SELECT * FROM glob('{p}/*')
FROM query('SELECT 1')
FROM query('COPY (SELECT 1) TO ''{p}/evil.csv''')
FROM query_table('prices')
FROM json_execute_serialized_sql('{{}}')
SELECT 1 UNION ALL SELECT a FROM read_csv('{p}/secret.csv')
SELECT (SELECT content FROM read_text('{p}/secret.csv'))
SELECT 1 WHERE EXISTS (FROM read_text('{p}/secret.csv'))
SELECT 1 IN (SELECT a FROM read_csv('{p}/secret.csv'))
WITH x AS (SELECT * FROM read_csv('{p}/secret.csv')) SELECT * FROM x
WITH "{p}/secret.csv" AS (SELECT 1) SELECT 1 FROM prices, (SELECT * FROM read_csv('{p}/secret.csv'))
SELECT * FROM (WITH "{p}/secret.csv" AS (SELECT 1) FROM "{p}/secret.csv"), '{p}/secret.csv'
WITH RECURSIVE x AS (SELECT 1 UNION ALL SELECT b FROM read_csv('{p}/secret.csv')) FROM x
WITH x AS (INSERT INTO prices VALUES (1)) FROM x
WITH x AS (DELETE FROM prices RETURNING *) FROM x
WITH x AS (UPDATE prices SET hardware = 'x' RETURNING *) FROM x
SELECT * FROM prices ORDER BY (SELECT count(*) FROM read_csv('{p}/secret.csv'))
PIVOT (SELECT * FROM read_csv('{p}/secret.csv')) ON a IN ('x') USING count(*)
UNPIVOT (SELECT * FROM read_csv('{p}/secret.csv')) ON a
DESCRIBE SELECT * FROM read_csv('{p}/secret.csv')
DESCRIBE '{p}/secret.csv'
SUMMARIZE '{p}/secret.csv'
SUMMARIZE (FROM read_csv('{p}/secret.csv'))
SHOW '{p}/secret.csv'
EXPLAIN SELECT * FROM read_csv('{p}/secret.csv')
EXPLAIN ANALYZE COPY (SELECT 1) TO '{p}/evil.csv'
EXPLAIN ANALYZE COPY (SELECT 1) TO '{p}/home/tables/prices/q.parquet'
EXPLAIN /* x */ ANALYZE COPY (SELECT 1) TO '{p}/evil.csv'
COPY prices TO '{p}/evil.csv'
COPY (SELECT 1) TO '{p}/home/tables/prices/q.parquet'
COPY prices FROM '{p}/secret.csv'
EXPORT DATABASE '{p}/evil'
IMPORT DATABASE '{p}/evil'
ATTACH '{p}/evil.db'
ATTACH '{p}/home/tables/prices/q.parquet' AS x
USE memory
INSTALL httpfs
LOAD httpfs
UPDATE EXTENSIONS
LOAD '{p}/secret.csv'
SET enable_external_access = true
SET allowed_directories = ['/']
SET memory_limit = '100GB'
RESET memory_limit
PRAGMA database_list
PRAGMA enable_profiling
CALL pragma_version()
CALL enable_logging()
FROM enable_logging()
FROM enable_logging(storage = 'file')
FROM duckdb_settings()
FROM duckdb_secrets()
FROM duckdb_views()
FROM duckdb_logs
FROM pg_catalog.pg_views
FROM information_schema.views
FROM sqlite_master
FROM pragma_database_list
FROM register_external_resource('x')
FROM arrow_scan(1, 2, 3)
FROM pandas_scan(1)
FROM seq_scan('prices')
SELECT current_setting('allowed_paths')
SELECT getenv('HOME')
SELECT getvariable('x')
SELECT write_log('x')
SELECT pg_get_viewdef(1)
CREATE TABLE x (a INT)
CREATE VIEW x AS SELECT 1
CREATE MACRO x() AS 1
CREATE SECRET x (TYPE s3)
CREATE OR REPLACE VIEW prices AS SELECT 1
DROP VIEW prices
ALTER VIEW prices RENAME TO x
INSERT INTO prices VALUES ('x', 1)
DELETE FROM prices
TRUNCATE prices
UPDATE prices SET hardware = 'x'
BEGIN TRANSACTION
CHECKPOINT
VACUUM
PREPARE x AS SELECT 1
EXECUTE x
SELECT 1; COPY prices TO '{p}/evil.csv'
SELECT 1; SELECT 2
FROM home
FROM SCHEMAS
SELECT * FROM prices AT (VERSION => 1), '{p}/secret.csv'
SELECT * FROM prices POSITIONAL JOIN '{p}/secret.csv'
SELECT COLUMNS(lambda x: x IN (SELECT a FROM read_csv('{p}/secret.csv'))) FROM prices
SELECT list_transform([1], lambda x: (SELECT b FROM read_csv('{p}/secret.csv')))
FROM read_duckdb('{p}/evil.db')
""".strip().splitlines()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_but_the_tables_is_reached_and_nothing_is_written(place: Path, attempt: str) -> None:
    before = files(place)
    with pytest.raises(QueryError) as caught:
        query(Home(place / "home"), attempt.format(p=place))
    assert SECRET not in str(caught.value)
    assert files(place) == before


def test_even_past_the_first_lock_the_connection_opens_nothing_else(place: Path) -> None:
    home = Home(place / "home")
    query(home, "SELECT 1")
    connection = queries._session(home, Limits(), home.tables.stamp()).connection.cursor()
    for sql in (
        f"FROM read_csv('{place}/secret.csv')",
        f"FROM read_parquet('{place}/secret.parquet')",
        f"FROM glob('{place}/*')",
        f"COPY (SELECT 1) TO '{place}/evil.csv'",
        f"ATTACH '{place}/evil.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)
    assert not (place / "evil.csv").exists()


_KEYWORDS = """
SELECT FROM WITH AS UNION ALL EXPLAIN ANALYZE COPY TO ATTACH SET INSERT INTO VALUES DELETE UPDATE DROP ( ) , ;
* 1 'x' " ' -- /* */ $a $$ ? . :: [ ] { } = JOIN ON WHERE GROUP BY ORDER LIMIT PIVOT DESCRIBE SHOW
prices runs group hardware read_csv read_text glob query current_setting \0 é
'/etc/passwd' '{p}/secret.csv' '{p}/evil.csv' read_text('{p}/secret.csv')
"""
_words = st.sampled_from([*_KEYWORDS.split(), "\n", "FROM '{p}/secret.csv'"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_words, max_size=14) | st.text(max_size=40).map(lambda text: [text]), st.booleans())
def test_any_text_is_answered_or_refused_with_one_message(place: Path, words: list[str], select: bool) -> None:
    before = files(place)
    sql = ("SELECT " if select else "") + " ".join(words).replace("{p}", str(place))
    try:
        answer: Any = str(query(Home(place / "home"), sql, limits=Limits(seconds=5)).to_pydict())
    except QueryError as error:
        answer = str(error)
        assert answer.strip()
    assert SECRET not in answer
    assert files(place) == before


_expressions = st.recursive(
    st.sampled_from(
        ["1", "hardware", "usd_per_hour", "'x'", "NULL", "$a", "[1, 2]", "(SELECT max(usd_per_hour) FROM prices)"]
    ),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "=", "||", "IN", "AND", "->"]), inner).map(" ".join)
        | inner.map(lambda text: f"coalesce({text}, NULL)")
        | inner.map(lambda text: f"CASE WHEN {text} IS NULL THEN 1 ELSE ({text}) END")
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_expressions, st.sampled_from(["prices", "leaderboard", "(FROM prices LIMIT 1)"]))
def test_any_expression_is_judged_as_duckdb_judges_it(place: Path, expression: str, source: str) -> None:
    """The syntax tree is walked whole, and nothing that DuckDB can answer from the tables is refused."""
    sql = f"SELECT {expression} AS x FROM {source} t"
    home = Home(place / "home")
    params = {"a": 1} if "$a" in expression else None
    query(home, "FROM leaderboard"), query(home, "FROM prices")  # the views are there
    cursor = queries._session(home, Limits(), home.tables.stamp()).connection.cursor()
    try:
        expected = cursor.sql(sql, params=params).to_arrow_table()
    except duckdb.Error:
        with pytest.raises(QueryError):
            query(home, sql, params)
        return
    assert query(home, sql, params).to_pylist() == expected.to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t.hardware FROM prices AS t JOIN (VALUES ('cpu')) v(h) ON v.h = t.hardware",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
        "FROM prices SELECT hardware",
        "TABLE prices",
        "SELECT unnest([1, 2]), * FROM range(2)",
        "SELECT * FROM prices, json_each('[1]')",
        "PIVOT prices ON hardware IN ('cpu') USING sum(usd_per_hour)",
        "SUMMARIZE prices",
        "DESCRIBE SELECT 1",
        "SHOW TABLES",
        "EXPLAIN ANALYZE SELECT * FROM prices",
        "-- a comment\n/* another */ EXPLAIN SELECT 1",
        "SELECT count(*) FROM information_schema.columns",
        "SELECT * FROM main.prices",
        "SELECT list_transform([1], lambda x: x + 1), {'a': 1}, MAP {'k': 2}",
        "SELECT sum(usd_per_hour) OVER (ORDER BY hardware) FROM prices WINDOW w AS (ORDER BY hardware);",
    ],
)
def test_what_only_reads_is_answered(place: Path, sql: str) -> None:
    assert query(Home(place / "home"), sql).num_rows > 0


def test_depth_is_no_way_round(place: Path) -> None:
    home = Home(place / "home")
    for opened, closed in (("(", ")"), ("[", "]"), ("coalesce(1, ", ")")):
        with pytest.raises(QueryError):
            query(home, f"SELECT {opened * 3000}1{closed * 3000}")
    with pytest.raises(QueryError, match="read_text"):
        query(home, f"{'SELECT * FROM (' * 40}SELECT * FROM read_text('/etc/passwd'){')' * 40}")


# Limits

ENDLESS = "SELECT count(*) FROM range(1000000000000000) t WHERE t.range % 10007 = 3"  # and next to no memory


def test_a_query_that_would_never_end_is_stopped(place: Path) -> None:
    with pytest.raises(QueryTimeout, match=r"stopped after 0\.3 s"):
        query(Home(place / "home"), ENDLESS, limits=Limits(seconds=0.3))
    assert query(Home(place / "home"), "SELECT 1 AS a").to_pylist() == [{"a": 1}]


@pytest.mark.parametrize("after", [0.001, 0.01, 0.02, 0.04, 0.3])  # while it connects, checks, and runs
def test_ctrl_c_stops_a_query(place: Path, after: float) -> None:
    home = Home(place / "home")
    query(home, "SELECT 1")
    queries._sessions.clear()

    def interrupted() -> None:
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
        query(home, ENDLESS, limits=Limits(seconds=30))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    # The work has ended, too. A thread that was interrupted while it started may need a moment to see that it has
    # nothing to do; one that had begun has been waited for.
    deadline = time.monotonic() + 10
    while any(thread.name == "lifespan query" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_memory_and_results_have_their_bounds(place: Path) -> None:
    home = Home(place / "home")
    small = Limits(memory_bytes=60_000_000, result_bytes=10_000_000)
    large = "SELECT range::TEXT || repeat('x', 100) AS k FROM range(3000000) ORDER BY k DESC"
    with pytest.raises(QueryTimeout, match=r"needs more than 0\.0559 GiB: narrow it"):
        query(home, f"SELECT count(*) FROM ({large}) WHERE k <> ''", limits=small)
    with pytest.raises(QueryTimeout, match=r"result is larger than 0\.00931 GiB: add a LIMIT"):
        query(home, "FROM range(1000000000)", limits=small)


# One process, many questions


def test_a_session_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def count() -> int:
        return int(query(home, "SELECT count(*) FROM prices").column(0)[0].as_py())

    price = {"hardware": "cpu", "usd_per_hour": 0.5}
    assert count() == 0
    home.tables.write("prices", "a", [price])
    assert count() == 1
    first = queries._session(home, Limits(), home.tables.stamp())
    assert queries._session(home, Limits(), home.tables.stamp()) is first
    home.tables.write("prices", "a", [price, price])  # the same file, replaced within the same second
    assert count() == 2
    home.tables.compact(["prices"])
    home.tables.write("prices", "b", [price])
    home.tables.compact(["prices"])
    assert count() == 3
    next(home.tables.path("prices").glob("compacted-*.parquet")).unlink()
    assert count() == 0


def test_many_threads_ask_at_once(place: Path) -> None:
    home = Home(place / "home")
    found: list[int] = []

    def ask() -> None:
        for name in ("prices", "runs", "leaderboard", "run_costs"):
            found.append(query(home, f"SELECT count(*) FROM {name}").num_rows)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 24


def test_odd_names_of_homes(tmp_path: Path) -> None:
    for name in ("it's", "runs[1]*?", "a=b", "ünï code"):
        home = Home(tmp_path / name)
        home.tables.write("prices", "a", [{"hardware": name, "usd_per_hour": 1.0}])
        for _ in range(2):
            assert query(home, "SELECT hardware FROM prices").to_pydict() == {"hardware": [name]}
            home.tables.write("prices", "b", [])
            home.tables.compact(["prices"])


def test_answers_as_dataframes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(place / "home")
    sql = "SELECT hardware, usd_per_hour FROM prices ORDER BY hardware"
    assert query(home, sql, as_="pandas")["usd_per_hour"].tolist() == [0.5, 2.5]
    with pytest.raises(ValueError, match="takes arrow, pandas, polars"):
        query(home, sql, as_="numpy")  # type: ignore[call-overload]
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(ModuleNotFoundError, match="pip install polars"):
        query(home, sql, as_="polars")


def test_answers_as_polars(place: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is no dependency; `pip install '.[peers]'` brings it")
    found = query(Home(place / "home"), "SELECT hardware, time FROM prices, runs ORDER BY hardware", as_="polars")
    assert found.schema == {"hardware": polars.String, "time": polars.Datetime("us", "UTC")}
    assert found["hardware"].to_list() == ["cpu", "gpu"]


def test_names_cover_tables_and_views() -> None:
    assert set(SCHEMAS) < set(NAMES) and issubclass(QueryError, TableError)
