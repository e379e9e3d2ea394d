"""Whatever comes in: settings, files of text and SQL end in an answer or in one of our own errors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.data.conversation_formats import Invalid, read_conversation
from components.data.sources import Document, Quarantined, SourceConfig, SourceError, read_source
from components.rlhf.layouts import pairs_of
from flows.config import RunConfig, load_config
from flows.settings import ConfigError
from storage.home import Home
from storage.queries import Limits, query
from storage.sql_guard import QueryError

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

# --- settings ------------------------------------------------------------------------------------------------------

known = st.sampled_from([*RunConfig.model_fields, "sources", "own", "kind", "kl_coef", "steps"])
plain = st.one_of(
    st.none().map(lambda _: "nan"),
    st.booleans().map(lambda b: str(b).lower()),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.text("ab\"'\\[]{}=,. ", max_size=8).map(json.dumps),
    st.just("1979-05-27T07:32:00Z"),
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(known, inner, max_size=3).map(
            lambda d: f"{{{', '.join(f'{name} = {value}' for name, value in d.items())}}}"
        ),
    ),
    max_leaves=5,
)
lines = st.one_of(
    st.tuples(known, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    known.map(lambda name: f"[{name}]"),
    known.map(lambda name: f"[[{name}]]"),
    st.tuples(known, known).map(lambda pair: f"[{pair[0]}.{pair[1]}]"),
    st.text(max_size=12),
)


@given(st.lists(lines, max_size=6).map("\n".join), st.sampled_from(['extends = "smoke"\n', ""]))
@quick
@example("seed = 99999999999999999999999", 'extends = "smoke"\n')
@example("data = {own = [{}]}", 'extends = "smoke"\n')
def test_a_profile_is_valid_or_a_config_error(tmp_path: Path, text: str, head: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes((head + text).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(file, []), RunConfig)


@given(
    st.lists(st.one_of(st.tuples(known, known, values).map(lambda p: f"{p[0]}.{p[1]}={p[2]}"), st.text(max_size=15)))
)
@quick
@example(["data.sources=[{}]"])
@example(["="])
def test_an_override_is_valid_or_a_config_error(overrides: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config("smoke", overrides), RunConfig)


# --- data ----------------------------------------------------------------------------------------------------------


def read(kind: str, file: Path) -> tuple[int, int]:
    """How many documents and how many rejected rows; a SourceError counts as none."""
    items = []
    with contextlib.suppress(SourceError):
        for item in read_source(SourceConfig("s", kind, str(file), passage_chars=0)):
            assert isinstance(item, (Document, Quarantined))
            items.append(item)
    documents = sum(isinstance(item, Document) for item in items)
    return documents, len(items) - documents


@pytest.mark.parametrize("ending", ["txt", "jsonl", "jsonl.gz", "parquet", "bin"])
@given(content=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda tail: b"PAR1" + tail + b"PAR1")))
@quick
@example(content=b"PAR1\xff\xff\xff\x7fPAR1")
@example(content=b"\x1f\x8b\x08\x00")
def test_bytes_of_any_kind(tmp_path: Path, ending: str, content: bytes) -> None:
    file = tmp_path / f"x.{ending}"
    file.write_bytes(content)
    for kind in ("files", "text", "jsonl", "parquet"):
        read(kind, file)


rows = st.one_of(
    st.text(max_size=10).map(lambda text: json.dumps({"text": text})),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner),
        max_leaves=5,
    ).map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10),
    st.just("[" * 100_000),
    st.just("9" * 5000),
)


@given(st.lists(rows, max_size=8))
@quick
def test_every_line_of_json_is_a_document_or_quarantined(tmp_path: Path, rows: list[str]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\n".join(row.encode() for row in rows))
    num_lines = sum(bool(line.strip()) for line in file.read_bytes().split(b"\n"))
    documents, rejected = read("jsonl", file)
    if documents:
        assert documents + rejected == num_lines


columns = st.one_of(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=6),
    st.lists(st.none() | st.integers(-5, 5), max_size=6),
    st.lists(st.none() | st.binary(max_size=6), max_size=6),
    st.lists(st.none() | st.lists(st.text("ab", max_size=2), max_size=2), max_size=6),
)


@given(columns, st.integers(0, 400), st.integers(0, 255))
@quick
def test_every_row_of_parquet_is_a_document_or_quarantined(
    tmp_path: Path, column: list[Any], place: int, value: int
) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array(column)}), file)
    documents, rejected = read("parquet", file)
    if documents:
        assert documents + rejected == len(column)
    content = bytearray(file.read_bytes())
    content[place % len(content)] = value  # one byte is damaged
    file.write_bytes(content)
    read("parquet", file)


# --- SQL -----------------------------------------------------------------------------------------------------------

WORDS = """SELECT FROM WHERE * metrics runs , ( ) 1 'a' count(*) WITH x AS UNION JOIN USING key ORDER BY LIMIT ; $a ? --
    /* INSERT INTO COPY
    ATTACH PRAGMA SET INSTALL LOAD read_text read_csv glob getenv('HOME') '/etc/passwd' VALUES '../*'
    EXPLAIN DESCRIBE SHOW SUMMARIZE { } [ ] :: BLOB " \\ 9e999 NULL CALL EXPORT DATABASE \0"""
words = st.sampled_from(WORDS.split())


@given(st.one_of(st.lists(words, max_size=12).map(" ".join), st.text(max_size=20)))
@quick
@example("SELECT * FROM '/etc/passwd'")
@example("SELECT * FROM read_text('/etc/hostname')")
@example("COPY runs TO '/tmp/x'")
def test_any_sql_is_answered_or_a_query_error(tmp_path: Path, sql: str) -> None:
    home = Home(tmp_path)
    with contextlib.suppress(QueryError):
        assert isinstance(query(home, sql, limits=Limits(seconds=20.0)), pa.Table)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}', columns = {{'a': 'VARCHAR'}})",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_blob(['{file}'])",
        "SELECT * FROM parquet_metadata('{file}')",
        "WITH x AS (SELECT * FROM read_json('{file}')) SELECT * FROM x",
        "SELECT getenv('PLANTED_SECRET')",
        "SELECT (SELECT content FROM read_text('{file}')) FROM runs",
        "ATTACH '{file}' AS a",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
    ],
)
def test_no_sql_reads_or_writes_a_file(tmp_path: Path, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_SECRET", "planted")
    file = tmp_path / "secret.csv"
    file.write_text("planted\n")
    with pytest.raises(QueryError) as error:
        query(Home(tmp_path / "home"), sql.format(file=file, folder=tmp_path))
    assert "planted" not in str(error.value).lower().replace("planted_secret", "")
    assert not (tmp_path / "out.csv").exists()


# --- conversations and preferences ---------------------------------------------------------------------------------

NAMES = (
    "messages", "conversations", "role", "content", "from", "value", "instruction", "input", "output", "history",
    "prompt", "completion", "question", "answer", "text", "system", "tools", "tool_calls", "function", "name",
    "arguments", "chosen", "rejected", "completions", "responses", "scores", "score", "rank", "response_1",
    "response_2", "preference", "preference_strength", "labels", "human_ref_A", "human_ref_B", "data", "annotations",
    "result", "selected", "fields", "preferred_output", "non_preferred_output", "context", "margin", "weight",
)  # fmt: skip
ROLES = ["user", "assistant", "human", "gpt", "function_call", "tool"]
DIALOGUES = ["\n\nHuman: a\n\nAssistant: b", "\n\nHuman:", "[]", '[{"role": 1}]', "{}"]
SAID = st.sampled_from([*ROLES, *DIALOGUES, "x", "", "\ud83d", "left", "tie"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(NAMES), anything, max_size=6) | anything)
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_record_is_taken_or_says_why_not(row: object) -> None:
    """An error of any other kind would end the file that it stands in."""
    with contextlib.suppress(Invalid):
        told = read_conversation(row)
        json.dumps([told.messages, told.tools], ensure_ascii=False).encode()
        assert any(message["role"] == "assistant" for message in told.messages)
    with contextlib.suppress(Invalid):
        for pair in pairs_of(row).pairs:
            json.dumps(dataclasses.asdict(pair), ensure_ascii=False).encode()
            assert pair.prompt.strip() and pair.chosen.strip() != pair.rejected.strip()
