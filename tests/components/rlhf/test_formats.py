from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.rlhf.formats import FORMATS, PreferenceFileError, read_answers, read_file, write_file
from components.rlhf.preferences import Preference, Turn


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pairs(path: Path) -> list[tuple[Any, ...]]:
    return [(tuple((t.role, t.content) for t in p.context), p.prompt, p.chosen, p.rejected) for p in
            read_file(path).preferences]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}, ((), "Sky?", "Blue.", "Green.")),
        # An implicit prompt ends where a word ends, not where the letters part ("bl").
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, ((), "The sky is", "blue.", "black.")),
        (
            {"prompt": [user("Sky?")], "chosen": [bot("Blue.")], "rejected": [bot("Green.")]},
            ((), "Sky?", "Blue.", "Green."),
        ),
        (
            {name: [user("a"), bot("b"), user("c"), bot(last)] for name, last in (("chosen", "D"), ("rejected", "E"))},
            ((("user", "a"), ("assistant", "b")), "c", "D", "E"),
        ),
        (  # UltraFeedback's binarised files: the prompt as text, and again as the first turn
            {"prompt": "Sky?", "chosen": [user("Sky?"), bot("Blue.")], "rejected": [user("Sky?"), bot("Green.")]},
            ((), "Sky?", "Blue.", "Green."),
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Sky?\n\nAssistant: Blue.",
             "rejected": "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Sky?\n\nAssistant: Green."},
            ((("user", "Hi"), ("assistant", "Yo")), "Sky?", "Blue.", "Green."),
        ),
    ],
)  # fmt: skip
def test_each_format_is_told_by_itself(tmp_path: Path, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert pairs(written(tmp_path / "f.jsonl", row)) == [expected]


def test_scored_completions_become_pairs_and_ties_are_counted(tmp_path: Path) -> None:
    completions = [{"response": text, "overall_score": score} for text, score in (("a", 7), ("b", "3.5"), ("c", 7.0))]
    found = read_file(written(tmp_path / "f.jsonl", {"instruction": "q", "completions": completions}))
    assert [(p.chosen, p.rejected, p.margin) for p in found.preferences] == [("a", "b", 3.5), ("c", "b", 3.5)]
    assert (found.ties, dict(found.formats)) == (1, {"ultrafeedback": 1})


BAD: list[tuple[Any, str]] = [
    ("{nope", "broken JSON"),
    (["p"], "not an object"),
    ({"prompt": "p", "chosen": "a"}, "rejected is missing"),
    ({"prompt": "p", "chosen": "a", "rejected": "a "}, "chosen and rejected are equal"),
    ({"prompt": "p", "chosen": " ", "rejected": "b"}, "chosen is empty"),
    ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt is empty"),
    ({"chosen": "one", "rejected": "two"}, "prompt is missing"),
    ({"prompt": "p" * 400, "chosen": "a", "rejected": "b"}, "the prompt has 400 characters: at most 300"),
    ({"prompt": "p", "chosen": 3, "rejected": "b"}, "chosen is int where the other is text"),
    ({"prompt": [user("p")], "chosen": [{"role": "wizard", "content": "a"}], "rejected": [bot("b")]},
     "chosen[0]: unknown role 'wizard'; it takes system, user, assistant"),
    ({"prompt": [user("p")], "chosen": [{"role": "assistant"}], "rejected": [bot("b")]}, "content is missing"),
    ({"prompt": [user("p")], "chosen": [user("a")], "rejected": [bot("b")]}, "chosen answers as 'user'"),
    ({"prompt": [bot("p")], "chosen": [bot("a")], "rejected": [bot("b")]}, "does not end with a turn of the user"),
    ({"prompt": [user("p")], "chosen": [bot("a"), user("x"), bot("y")], "rejected": [bot("b")]}, "chosen has 3 turns"),
    ({"chosen": [user("p"), bot("a")], "rejected": [user("p"), bot("a")]}, "chosen and rejected are equal"),
    ({"chosen": [user("p"), bot("a")], "rejected": [user("p")]}, "one dialogue is the beginning of the other"),
    ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p"}, "rejected does not end with a turn"),
    ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "p"}, "rejected does not begin with"),
    ({"instruction": "q", "completions": [{"response": "a", "overall_score": "N/A"}]}, "score is 'N/A'"),
    ({"instruction": "q", "completions": [{"response": "a", "score": 1}]}, "1 completion"),
    ({"completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}, "instruction is missing"),
    ({"instruction": "q", "completions": [{"said": "a"}]}, "completions[0] has no response"),
]  # fmt: skip


def test_bad_lines_are_named_with_file_and_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = written(tmp_path / "f.jsonl", good, "", *(row for row, _ in BAD), good)
    found = read_file(path, max_prompt_chars=300)
    assert len(found.preferences) == 2 and found.lines == (1, 3 + len(BAD))
    assert [bad.line for bad in found.left_out] == list(range(3, 3 + len(BAD)))
    for bad, (_, reason) in zip(found.left_out, BAD, strict=True):
        assert reason in bad.reason and bad.file == str(path) and len(bad.excerpt) <= 200


def test_a_file_without_anything_good_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreferenceFileError, match=r"f\.jsonl: no usable preference: line 1: rejected is missing"):
        read_file(written(tmp_path / "f.jsonl", {"prompt": "p", "chosen": "a"}))
    with pytest.raises(PreferenceFileError, match="empty file"):
        read_file(written(tmp_path / "e.jsonl", ""))
    with pytest.raises(PreferenceFileError, match="no such file"):
        read_file(tmp_path / "none.jsonl")
    with pytest.raises(PreferenceFileError, match="line 2: no preference: the row has a, b; it takes chosen"):
        read_file(written(tmp_path / "f.csv", "a,b", "1,2"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PreferenceFileError, match="damaged"):
        read_file(tmp_path / "x.parquet")


def test_parquet_with_messages(tmp_path: Path) -> None:
    rows = [{"prompt": [user("p")], "chosen": [bot("a")], "rejected": [bot("b")]},
            {"prompt": [user("p")], "chosen": [bot("")], "rejected": [bot("b")]}]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    found = read_file(tmp_path / "f.parquet")
    assert [p.chosen for p in found.preferences] == ["a"]
    assert [(bad.line, bad.reason) for bad in found.left_out] == [(2, "chosen is empty")]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s.strip())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4), st.sampled_from(FORMATS),
       st.sampled_from([".jsonl", ".parquet"]))  # fmt: skip
def test_what_is_written_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str, str]], format: Any, suffix: str
) -> None:
    if format == "hh":  # a dialogue as one text has no room for white space at the ends of a turn
        rows = [tuple(" ".join(text.split()) for text in row) for row in rows]  # type: ignore[misc]
    made = [Preference(p, a, b) for p, a, b in rows if a.strip() != b.strip()]
    path = tmp_path / f"f{suffix}"
    if not made:
        return
    write_file(path, made, format)
    found = read_file(path)
    expected = sorted({(p.prompt, p.chosen, p.rejected) for p in made})
    assert found.left_out == ()
    assert sorted({(p.prompt, p.chosen, p.rejected) for p in found.preferences}) == expected


@pytest.mark.parametrize("format", ["trl-chat", "hh"])
def test_earlier_turns_survive(tmp_path: Path, format: Any) -> None:
    made = Preference("c", "D", "E", context=(Turn("user", "a"), Turn("assistant", "b")))
    write_file(tmp_path / "f.jsonl", [made], format)
    assert pairs(tmp_path / "f.jsonl") == [((("user", "a"), ("assistant", "b")), "c", "D", "E")]
    with pytest.raises(ValueError, match="use trl-chat or hh"):
        write_file(tmp_path / "g.jsonl", [made], "ultrafeedback")
    assert not (tmp_path / "g.jsonl").exists()


def test_scores_claim_no_comparison_that_nobody_made(tmp_path: Path) -> None:
    """One order makes one line; two unrelated pairs of one prompt make two."""
    order = [Preference("q", *pair, annotator="ann") for pair in (("a", "b"), ("b", "c"), ("a", "c"))]
    apart = [Preference("r", "a", "b"), Preference("r", "c", "d")]
    assert write_file(tmp_path / "f.jsonl", [*order, *apart], "ultrafeedback") == 3
    back = {(p.prompt, p.chosen, p.rejected) for p in read_file(tmp_path / "f.jsonl").preferences}
    assert back == {(p.prompt, p.chosen, p.rejected) for p in [*order, *apart]}


def test_answers_to_judge_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        {"prompt": "p", "answers": ["a", {"text": "b", "model": "m"}, "a "]},
        {"prompt": "p", "answers": ["a"]},
        {"prompt": "p", "answers": [3, "b"]},
        {"answers": ["a", "b"]},
    )
    items, bad = read_answers(path)
    assert [[(a.text, a.model) for a in item.answers] for item in items] == [[("a", ""), ("b", "m")]]
    assert [b.line for b in bad] == [2, 3, 4]
    assert "a comparison needs two" in bad[0].reason and "answers[0] is neither" in bad[1].reason


@pytest.mark.slow
def test_trl_reads_what_we_write_and_extracts_the_same_prompt(tmp_path: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils", reason="peer not installed: pip install '.[peers]'")
    made = Preference("c", "D", "E", context=(Turn("user", "a"), Turn("assistant", "b")))
    write_file(tmp_path / "f.jsonl", [made], "trl-chat")
    row = json.loads((tmp_path / "f.jsonl").read_text())
    assert data_utils.is_conversational(row)
    whole = {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
    assert data_utils.extract_prompt(whole) == row
    assert pairs(written(tmp_path / "g.jsonl", whole)) == pairs(tmp_path / "f.jsonl")
