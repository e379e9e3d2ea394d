"""Every layout in which preferences are published, with the prompt from where it stands and never from a guess."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.conversation_formats import Invalid
from components.rlhf.formats import read_file
from components.rlhf.layouts import pairs_of

BRIEF = ("system", "Be brief.")
HELLO = {"chosen": "hello", "rejected": "go away"}


def told(row: Any) -> list[tuple[tuple[tuple[str, str], ...], str, str, str]]:
    return [
        (tuple((turn.role, turn.content) for turn in p.context), p.prompt, p.chosen, p.rejected)
        for p in pairs_of(row).pairs
    ]


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("name", ["prompt", "question", "query", "problem", "instruction", "input", "history"])
def test_the_prompt_is_read_under_its_usual_names(name: str) -> None:
    # Both answers begin with "Sure, the": no prompt is to be made of that.
    sides = {"chosen": "Sure, the Loire.", "rejected": "Sure, the Danube flows there."}
    assert told({name: "Name a river.", **sides}) == [((), "Name a river.", *sides.values())]
    assert told({name: "Name a river.", "system": "Be brief.", **sides}) == [
        ((BRIEF,), "Name a river.", *sides.values())
    ]
    assert told({name: "Name a river.", "system": "", **sides}) == [((), "Name a river.", *sides.values())]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Translate.", "input": "good night", **HELLO}, ((), "Translate.\n\ngood night")),
        ({"question": "Who?", "context": "A tale.", **HELLO}, ((), "Who?\n\nA tale.")),
        ({"prompt": "Who?", "context": "A tale.", **HELLO}, ((), "Who?\n\nA tale.")),
        ({"conversations": [human("Hi")], "chosen": gpt("hello"), "rejected": gpt("go away")}, ((), "Hi")),
        ({"conversations": [{"from": "system", "value": "Be brief."}, human("a"), gpt("b"), human("Hi")],
          "chosen": gpt("hello"), "rejected": gpt("go away")}, ((BRIEF, ("user", "a"), ("assistant", "b")), "Hi")),
        ({"conversations": [human("Hi")], **HELLO}, ((), "Hi")),
        ({"prompt": [user("Hi")], **HELLO}, ((), "Hi")),
        ({"prompt": "Hi", "chosen": ["hello"], "rejected": ["go away"]}, ((), "Hi")),
        ({"prompt": json.dumps([user("Hi")]), "chosen": json.dumps([bot("hello")]),
          "rejected": json.dumps([bot("go away")])}, ((), "Hi")),
        ({"prompt": [user("Hi")], "chosen": bot("hello"), "rejected": bot("go away")}, ((), "Hi")),
        ({"prompt": [user("Hi")], "chosen": [user("Hi"), bot("hello")], "rejected": [user("Hi"), bot("go away")]},
         ((), "Hi")),
        ({"prompt": "Hi", "system": "Be brief.", "chosen": [{"role": "system", "content": "Be brief."}, user("Hi"),
          bot("hello")], "rejected": [{"role": "system", "content": "Be brief."}, user("Hi"), bot("go away")]},
         ((BRIEF,), "Hi")),
        ({"chosen": {"messages": [user("Hi"), bot("hello")]}, "rejected": {"messages": [user("Hi"), bot("go away")]}},
         ((), "Hi")),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: Hi\n\nAssistant:", **HELLO},
         ((("user", "a"), ("assistant", "b")), "Hi")),
        ({"input": {"messages": [user("Hi")]}, "preferred_output": [bot("hello")],
          "non_preferred_output": [bot("go away")]}, ((), "Hi")),
        ({"question": "Hi", "response_j": "hello", "response_k": "go away"}, ((), "Hi")),
        ({"prompt": "Hi", "chosen_response": "hello", "rejected_response": "go away"}, ((), "Hi")),
        ({"prompt": "Hi", "response_0": "go away", "response_1": "hello", "better_response_id": 1}, ((), "Hi")),
        ({"prompt": "Hi", "response_1": "go away", "response_2": "hello", "preference": "response_2"}, ((), "Hi")),
        ({"prompt": "Hi", "response_1": "go away", "response_2": "hello", "preference_strength": 2}, ((), "Hi")),
        ({"prompt": "Hi", "response_a": "hello", "response_b": "go away", "winner": "model_a"}, ((), "Hi")),
        ({"history": "Hi", "human_ref_A": "hello", "human_ref_B": "go away", "labels": 1}, ((), "Hi")),
        ({"question": {"full_text": "Hi"}, "answer_0": "go away", "answer_1": "hello", "score_0": -0.5,
          "score_1": 0.5}, ((), "Hi")),
        ({"prompt": "Hi", "responses": ["go away", "hello"], "scores": [1, 2]}, ((), "Hi")),
        ({"prompt": "Hi", "answers": [{"answer": "go away", "rank": 2}, {"answer": "hello", "rank": 1}]}, ((), "Hi")),
        ({"prompt": "Hi", "system": "Be brief.", "completions": [{"response": "hello", "overall_score": 7},
          {"response": "go away", "overall_score": 1}]}, ((BRIEF,), "Hi")),
    ],
)  # fmt: skip
def test_each_layout_gives_its_pair(row: Any, expected: tuple[Any, str]) -> None:
    assert told(row) == [(*expected, "hello", "go away")]


def task(selected: str, **further: Any) -> dict[str, Any]:
    result = {"from_name": "cmp", "to_name": "p", "type": "pairwise", "value": {"selected": selected}}
    return {
        "id": 7,
        "data": {"prompt": "Hi", "answer1": "hello", "answer2": "go away"},
        "annotations": [{"completed_by": 3, "result": [result], **further}],
    }


def test_tasks_of_label_studio_and_records_of_argilla() -> None:
    assert told(task("left")) == [((), "Hi", "hello", "go away")]
    assert told(task("right")) == [((), "Hi", "go away", "hello")]
    assert pairs_of(task("left")).pairs[0].annotator == "3"
    smallest = {"prompt": "Hi", "answer1": "hello", "answer2": "go away", "comparison": "left", "annotator": 3, "id": 1}
    assert told(smallest | {"annotator": "ann"}) == [((), "Hi", "hello", "go away")]
    two = task("left")
    two["annotations"] += task("right")["annotations"]
    assert [pair[2] for pair in told(two)] == ["hello", "go away"]  # people may disagree
    with pytest.raises(Invalid, match="nobody has judged this task"):
        pairs_of(task("left", was_cancelled=True))
    comment = {"type": "textarea", "value": {"text": ["fine"]}}
    with_comment, only_comment = task("left"), task("left")
    with_comment["annotations"][0]["result"].append(comment)
    only_comment["annotations"][0]["result"] = [comment]
    assert told(with_comment) == [((), "Hi", "hello", "go away")]
    with pytest.raises(Invalid, match="results of type textarea are not read"):
        pairs_of(only_comment)
    rated = task("left")
    rated["annotations"][0]["result"] = [
        {"type": "rating", "to_name": name, "value": {"rating": stars}}
        for name, stars in (("answer1", 2), ("answer2", 5))
    ]
    assert told(rated) == [((), "Hi", "go away", "hello")]
    fields = {"prompt": "Hi", "response-1": "go away", "response-2": "hello"}
    for value in ("response-2", [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]):
        record = {"id": "x", "fields": fields, "responses": {"preference": [{"value": value, "user_id": "u"}]}}
        assert told(record) == [((), "Hi", "hello", "go away")]
    flat = {**fields, "preference.responses": ["response-2"], "preference.responses.users": ["u"]}
    older = {**fields, "preference": [{"user_id": "u", "value": "response-2", "status": "submitted"}]}
    assert told(flat) == told(older) == [((), "Hi", "hello", "go away")]


def test_ties_are_counted_and_make_no_pair() -> None:
    for row in (
        {"prompt": "Hi", "response_a": "x", "response_b": "y", "winner": "tie"},
        {"prompt": "Hi", "response_1": "x", "response_2": "y", "preference_strength": 0},
        {"prompt": "Hi", "responses": ["x", "y"], "scores": [1, 1.0]},
    ):
        found = pairs_of(row)
        assert (found.pairs, found.ties) == ((), 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"ask": "Name a river in France.", "chosen": "Sure, the Loire.", "rejected": "Sure, the Danube."},
         "prompt is missing, and ask is not read"),
        ({"question": "a", "problem": "b", **HELLO}, "the prompt may be question or problem"),
        ({"title": "x"}, "no preference: the row has title; it takes chosen and rejected"),
        ({"prompt": "p", "chosen": str([bot("a")]), "rejected": str([bot("b")])}, "chosen holds turns as Python"),
        ({"prompt": "p", "answers": ["a", "b"]}, "answers without a list of as many scores .*annotate load"),
        ({"prompt": "p", "response_a": "a", "response_b": "b"}, "response_a and response_b without a verdict"),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "winner": "c"},
         "winner is 'c': neither of response_a and response_b, nor a tie"),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference": 0}, "preference is 0: neither"),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference": True}, "preference is True: neither"),
        ({"prompt": "p", "chosen": "a \ud83d", "rejected": "b"}, "chosen holds a lone surrogate"),
        ({"prompt": "p \ud83d", "chosen": "a", "rejected": "b"}, "prompt holds a lone surrogate"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "\ud83d"}, "annotator holds a lone surrogate"),
        ({"prompt": [{"role": "system", "content": "\ud83d"}, user("p")], **HELLO}, "context.* holds a lone surrogate"),
        ({"prompt": "p", "completions": [{"response": "a\ud83d", "score": 1}, {"response": "b", "score": 2}]},
         "holds a lone surrogate"),
        ({"prompt": [user("p"), {"role": "tool", "content": "x"}], **HELLO}, r"prompt\[1\]: turns and calls of tools"),
    ],
)  # fmt: skip
def test_what_is_no_preference_says_why(row: Any, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        pairs_of(row)


def test_a_surrogate_in_a_field_that_is_not_read_costs_nothing() -> None:
    assert told({"prompt": "p", **HELLO, "note": "\ud83d", "\ud83d": 1}) == [((), "p", "hello", "go away")]


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz", "f.jsonl.zst", "f.json", "f.csv", "f.parquet"])
def test_every_container_is_read_and_bad_records_end_none(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b" if i != 1 else "a"} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / name
    match name.removeprefix("f."):
        case "json":
            path.write_text(json.dumps(rows))
        case "csv":
            path.write_text("prompt,chosen,rejected\n" + "".join(",".join(row.values()) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines))
        case "jsonl.zst":
            with pa.CompressedOutputStream(str(path), "zstd") as stream:
                stream.write(lines)
        case _:
            path.write_bytes(lines)
    found = read_file(path)
    assert [p.prompt for p in found.preferences] == ["p0", "p2"]
    assert [bad.reason for bad in found.left_out] == ["chosen and rejected are equal"]


def test_half_a_character_and_bytes_that_are_no_text_cost_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    good = b'{"prompt": "p", "chosen": "a", "rejected": "b"}'
    bad = [good.replace(b'"a"', b'"a \\ud83d"'), good.replace(b'"a"', b'"caf\xe9"'), b'{"\\ud83d": 1}']
    path.write_bytes(b"\n".join([good, *bad, good]))
    found = read_file(path)
    assert found.lines == (1, 5) and [one.line for one in found.left_out] == [2, 3, 4]
    for one in found.left_out:
        json.dumps(vars(one), ensure_ascii=False).encode()  # the quarantine table can hold it
