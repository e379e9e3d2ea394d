"""`lifespan annotate` and `lifespan preferences` as commands; the server itself is tested beside its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.rlhf.judgements import Candidate, Item, batch_id, judged, shown_order
from dashboards.annotate.report import people_tables
from dashboards.annotate.table import write_judgements
from dashboards.facts.people import people_facts
from dashboards.run_data import read_run
from flows.commands.cli import app
from storage.home import Home


def told(*command: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == code, result.output + result.stderr
    return result.output


def test_annotators_are_added_listed_and_removed(home: Home) -> None:
    assert "no annotators yet" in told("annotate", "list")
    token = told("annotate", "add", "ann").split()[-1]
    assert home.annotations.who(token) == "ann"
    assert "already exists" in told("annotate", "add", "ann", code=2)
    assert told("annotate", "list").startswith("ann  since 20")
    told("annotate", "remove", "ann")
    assert home.annotations.who(token) is None
    assert "unknown annotator 'ann'" in told("annotate", "remove", "ann", code=2)
    assert "ann  removed 20" in told("annotate", "list")


def test_others_reach_the_page_only_when_there_are_annotators(home: Home) -> None:
    assert "add annotators first" in told("annotate", "--host", "0.0.0.0", "--no-open", code=2)
    assert not (home.annotations.folder / "annotators").exists()
    missing = told("annotate", "--instructions", "none.md", "--no-open", code=2)
    assert "--instructions none.md: No such file" in missing


def test_answers_of_ones_own_are_put_before_the_annotators(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "p", "answers": ["a", "b"]}\n{"prompt": "q"}\n')
    said = told("annotate", "load", str(file), "--overlap", "3")
    assert "1 prompts for 3 annotators each; 1 lines rejected" in said and "mine.jsonl:2: answers is missing" in said
    assert "mine.jsonl: 0 of 3 judgements" in told("annotate", "list")
    file.write_text("\n")
    assert "nothing to judge" in told("annotate", "load", str(file), code=2)


def test_a_file_is_imported_with_its_mistakes_named_in_sql(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "chosen": "a"}\n{nope\n')
    said = told("preferences", "import", str(file))
    assert "1 preferences from 1 lines of trl; 2 lines rejected" in said
    kept = re.search(r"preferences\.path=(\S+)", said)
    assert kept and Path(kept[1]).is_file()
    told("preferences", "import", str(file))  # again: the same rows, not more
    rows = json.loads(told("query", "SELECT file, line, reason FROM quarantine ORDER BY line", "--format", "json"))
    assert [(row["line"], row["reason"].split(":")[0]) for row in rows] == [
        (2, "rejected is missing"),
        (3, "broken JSON"),
    ]
    assert {row["file"] for row in rows} == {str(file)}
    file.write_text('{"prompt": "p"}\n')
    assert "no usable preference: line 1: no preference: the row has prompt" in told(
        "preferences", "import", str(file), code=2
    )
    assert "takes trl, trl-chat" in told("preferences", "export", str(file), "--format", "x", code=2)
    assert "no preferences were collected yet" in told("preferences", "export", str(file), code=2)


@pytest.fixture
def judged_home(home: Home) -> Home:
    """Ten prompts with an answer of each of two models; ann and bob agree on all but two; `good` wins 17 of 20."""
    items = [Item(f"p{i}", (Candidate(f"good {i}", "good"), Candidate(f"bad {i}", "bad"))) for i in range(10)]
    batch = batch_id(items)
    home.annotations.publish(batch, "stories", 2, [item.to_json() for item in items])
    look = home.annotations.instruct("Look.")
    for number, item in enumerate(items):
        for name in ("ann", "bob"):
            best = 1 if number == 0 or (name, number) == ("bob", 1) else 0
            places = [1 if i == best else 2 for i in shown_order(item, name)]
            one = judged(
                item,
                name,
                places,
                seconds=4.0 if name == "ann" else 9.0,
                confidence=2,
                submitted_at=f"2026-01-01T00:00:{number:02}+00:00",
                instructions_version=look.version,
            )
            home.annotations.record(batch, name, {"form": f"{number:016x}", **one.to_json()})
    return home


def test_the_report_counts_agreement_time_position_and_models(judged_home: Home) -> None:
    write_judgements(judged_home)
    facts = people_facts(judged_home.tables.read("judgements").to_pylist())
    assert facts is not None and facts.agreement is not None and facts.agreement.raw is not None
    assert (facts.num_items, facts.num_judgements, facts.instructions) == (10, 20, (1,))
    assert [(a.name, a.judged, a.seconds, a.confidence) for a in facts.annotators] == [
        ("ann", 10, 4.0, 2.0),
        ("bob", 10, 9.0, 2.0),
    ]
    assert facts.agreement.raw.value == pytest.approx(0.9) and facts.pairs[0].raw is not None
    assert facts.ranking is not None
    best = facts.ranking.models[0]
    assert (best.name, best.wins, best.losses) == ("good", 17, 3)
    assert facts.earlier_wins is not None and facts.earlier_wins.n == 20
    printed = told("annotate", "report")
    for words in ("90.0%", "Krippendorff", "Gwet", "ann, bob", "good", "the answer shown earlier wins"):
        assert words in printed
    assert all(len(row) == len(table.columns) for table in people_tables(facts) for row in table.rows)


def test_models_that_cannot_be_ranked_are_said_so(home: Home) -> None:
    item = Item("p", (Candidate("a", "good"), Candidate("b", "bad")))
    home.annotations.publish(batch_id([item]), "one", 1, [item.to_json()])
    said = judged(item, "ann", [1, 2], seconds=1.0, submitted_at="2026-01-01T00:00:00+00:00")
    home.annotations.record(batch_id([item]), "ann", {"form": "a" * 16, **said.to_json()})
    printed = " ".join(told("annotate", "report").split())
    assert "one side won every comparison" in printed and "no item was judged by two people" in printed


def test_a_runs_report_finds_the_judgements_of_its_answers(judged_home: Home) -> None:
    (batch,) = judged_home.annotations.batches()
    write_judgements(judged_home)
    when = judged_home.tables.read("judgements")["submitted_at"][0].as_py()
    run = {"run_id": "r", "event": "started", "status": "running", "time": when}
    judged_home.tables.write("runs", "r-started", [run])
    for number, name in enumerate((batch["batch"], "0" * 32)):
        stage = {"run_id": "r" * (number + 1), "stage": "sample_answers", "label": "sample_answers", "key": name,
                 "status": "ran", "facts_json": {"batch": name}}  # fmt: skip
        judged_home.tables.write("stages", f"s{number}", [stage])
    assert len(read_run(judged_home, "r").judgements) == 20
