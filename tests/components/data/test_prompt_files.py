"""Prompts of a user's own: what is read, what is rejected and why, and how they are split."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.files import Quarantined, SourceError
from components.data.prompt_files import (
    Prompt,
    PromptsConfig,
    held_out_of,
    read_prompt_files,
    read_prompts,
    user_says,
    write_prompts,
)

ROWS: list[dict[str, Any]] = [
    {"prompt": "What is 1+1?", "answer": 2, "level": 1},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "answer": None},
]


def read(config: PromptsConfig) -> tuple[list[Prompt], list[Quarantined]]:
    found = list(read_prompt_files(config))
    return [x for x in found if isinstance(x, Prompt)], [x for x in found if isinstance(x, Quarantined)]


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "parquet", "csv"])
def test_every_kind_of_file_gives_the_same_prompts(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[:1])
    match kind:
        case "jsonl":
            file.write_text(lines)
        case "json":
            file.write_text(json.dumps(ROWS[:1]))
        case "jsonl.gz":
            file.write_bytes(gzip.compress(lines.encode()))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS[:1]), file)
        case "csv":
            file.write_text("prompt,answer,level\nWhat is 1+1?,2,1\n")
    (prompt,), bad = read(PromptsConfig(str(file)))
    assert not bad
    assert (prompt.text, prompt.answer, str(prompt.metadata["level"])) == ("What is 1+1?", "2", "1")
    assert (prompt.source, prompt.file) == ("mine", str(file))


def test_messages_templates_and_system_turns(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    one, two = read(PromptsConfig(str(file)))[0]
    assert [m["role"] for m in two.messages] == ["system", "user"]
    assert two.answer == ""
    (shaped,), (bad,) = read(PromptsConfig(str(file), template="{prompt} Level {level}.", system="Think."))
    assert [dict(m) for m in shaped.messages] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "What is 1+1? Level 1."},
    ]
    assert shaped.metadata["level"] == 1
    assert (bad.line, bad.reason[:20]) == (2, "no column 'level', w")
    assert one.id != two.id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "x"}, "no column 'prompt'; the record has question"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": 3}, "prompt: neither text nor a list of messages, but int"),
        ({"prompt": []}, "prompt: neither text nor a list of messages, but list"),
        ({"prompt": [{"role": "wizard", "content": "x"}]}, "prompt: messages[0]: role 'wizard', which is none of"),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt: messages[0]: its content is NoneType, not text"),
        (
            {"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "prompt: the last turn is the assistant's: a prompt ends with the user",
        ),
        ({"prompt": "a \ud800 b"}, "prompt holds half a character"),
        ([1], "expected an object with a column 'prompt', found list"),
    ],
)
def test_what_is_no_prompt_says_why_and_the_file_goes_on(row: object, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(row) + "\nnot json\n" + json.dumps(ROWS[0]) + "\n")
    good, bad = read(PromptsConfig(str(file)))
    assert len(good) == 1 and good[0].line == 3
    assert [one.line for one in bad] == [1, 2]
    assert bad[0].reason.startswith(reason)
    assert "broken JSON" in bad[1].reason


def test_a_source_without_a_prompt_is_an_error_that_names_the_first_reasons(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "x"}\n')
    with pytest.raises(
        SourceError, match=r"no usable prompt: .*mine.jsonl:1: no column 'prompt'; the record has question"
    ):
        read(PromptsConfig(str(file)))
    with pytest.raises(SourceError, match="no such file, folder or match"):
        read(PromptsConfig(str(tmp_path / "none.jsonl")))
    for wrong in ({"held_out": 0.0}, {"held_out": 1.0}, {"max_prompts": -1}):
        with pytest.raises(ValueError, match=r"prompts\."):
            PromptsConfig("x", **wrong)  # type: ignore[arg-type]


def test_a_split_is_by_prompt_alone_and_leaves_neither_part_empty() -> None:
    config = PromptsConfig("x", held_out=0.3)
    prompts = [user_says(f"question {i}") for i in range(400)]
    held = held_out_of(prompts, config, seed=1)
    assert 80 < len(held) < 160
    assert held == held_out_of(prompts[::-1], config, seed=1)
    grown = held_out_of([*prompts, *(user_says(f"more {i}") for i in range(100))], config, seed=1)
    assert held <= grown
    assert held != held_out_of(prompts, config, seed=2)
    for count in (2, 3):
        assert 1 <= len(held_out_of(prompts[:count], PromptsConfig("x", held_out=0.001), seed=0)) < count
        assert 1 <= len(held_out_of(prompts[:count], PromptsConfig("x", held_out=0.999), seed=0)) < count
    assert held_out_of(prompts, PromptsConfig("x", split="train"), 0) == set()
    assert len(held_out_of(prompts, PromptsConfig("x", split="held_out"), 0)) == 400


def test_prompts_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    train = [Prompt(({"role": "user", "content": "é"},), "2", {"tests": ["a", "b"], "level": 1}, "mine", "f.jsonl", 7)]
    held_out = [user_says("x")]
    write_prompts(tmp_path / "prompts.parquet", train, held_out)
    assert read_prompts(tmp_path / "prompts.parquet") == (train, held_out)
