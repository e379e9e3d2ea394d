"""What `lifespan prepare` shows of a corpus, and what the stage writes for SQL."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from components.data.data_config import DataConfig
from components.data.results import CorpusResult
from components.data.source_config import SourceConfig
from components.reasoning.tasks import SuiteConfig
from flows.commands.prepare import tables
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages.data import prepare_corpus
from storage.home import Home
from storage.queries import query

PROSE = (
    "The people of the village number {} walked to the harbour in the morning, and they carried what they had found."
)
KEY = "k" * 64


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, CorpusResult]:
    folder = tmp_path_factory.mktemp("prepare")
    more = " Some had {} fish and others had {} shells in their baskets."
    rows = [PROSE.format(i) + more.format(7 * i, 13 * i) for i in range(40)]
    (folder / "texts").mkdir()
    lines = [json.dumps({"text": text}) for text in [*rows, "Write to ann@example.org.", rows[0]]]
    (folder / "texts" / "a.jsonl").write_text("\n".join([*lines, "{broken"]))
    (folder / "texts" / "b.png").write_bytes(b"\x89PNG")
    (folder / "out").mkdir()
    work = Work(folder / "out", folder / "state", ComputeConfig())
    source = SourceConfig("mail", "jsonl", str(folder / "texts"), licence="CC0")
    config = DataConfig((source,), near_duplicates=None)
    result = prepare_corpus.fn(work, config=config, suite=SuiteConfig(), raw={}, evaluations=[])
    home = Home(folder / "home")
    for table, found in work.table_rows().items():
        home.tables.write(table, KEY, [{"run_id": "r", "key": KEY, **row} for row in found])
    assert isinstance(result, CorpusResult)
    return home, result


def test_the_funnel_and_the_removals_are_in_sql(prepared: tuple[Home, CorpusResult]) -> None:
    home, result = prepared
    left = query(home, "SELECT step, documents FROM funnel WHERE reason IS NULL ORDER BY position").to_pylist()
    assert [(row["step"], row["documents"]) for row in left] == [
        ("read", 42), ("normalise", 42), ("language", 42), ("quality", 41), ("exact duplicates", 40),
        ("near duplicates", 40), ("decontaminate", 40),
    ]  # fmt: skip
    assert result.num_documents == 40 and result.num_quarantined == 1
    gone = query(home, "SELECT step, reason, origin, excerpt FROM removals ORDER BY step").to_pylist()
    assert [(row["step"], row["reason"]) for row in gone] == [
        ("exact duplicates", "duplicate"),
        ("quality", "too few words"),
    ]
    assert gone[1]["excerpt"] == "Write to [EMAIL]." and gone[1]["origin"] == "mail/a.jsonl#41"
    assert query(home, "SELECT count(*) AS n FROM documents WHERE language = 'en'").to_pylist() == [{"n": 40}]


def test_the_card_is_among_the_facts(prepared: tuple[Home, CorpusResult]) -> None:
    (card,) = prepared[1].sources
    assert (card.name, card.kind, card.licence, card.num_whole) == ("mail", "jsonl", "CC0", 40)
    assert card.languages == {"en": 40} and sum(card.lengths) == 40 and 0 < card.num_valid < 40


def test_the_terminal_shows_what_each_step_left_what_was_not_read_and_a_sample(
    prepared: tuple[Home, CorpusResult],
) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    for part in tables(prepared[0], KEY):
        console.print(part)
    shown = console.export_text()
    for words in (
        "exact duplicates",
        "too few words",
        "not read: kind 'jsonl'",
        "broken JSON",
        "random sample",
        "village",
    ):
        assert words in shown, words
