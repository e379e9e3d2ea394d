"""Conversations of files, record by record; the bad ones by file, line and reason."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from components.data.conversation_formats import Fields
from components.data.conversation_sources import MAX_QUARANTINED, Reading, read_conversations_of, refusal_of
from components.data.conversations import Conversation
from components.data.decontaminate import EvalIndex
from components.data.files import Quarantined, SourceError
from components.data.instruction import ConversationSource, conversation_digests
from components.data.tokenizer import Tokenizer


def pair(number: int) -> dict[str, str]:
    return {"question": f"What is {number}?", "answer": f"It is {number}."}


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def read(source: ConversationSource, **given: Any) -> tuple[list[Conversation], list[Quarantined], Reading]:
    reading = Reading()
    items = list(read_conversations_of(source, reading, **given))
    good = [item for item in items if isinstance(item, Conversation)]
    return good, [item for item in items if isinstance(item, Quarantined)], reading


def test_a_folder_of_every_layout_and_container(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]})
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"conversations": [{"from": "human", "value": "b"}, {"from": "gpt", "value": "B"}]}))
    (tmp_path / "c.json").write_text(json.dumps([{"instruction": "c", "input": "", "output": "C"}], indent=2))
    (tmp_path / "d.csv").write_text('prompt,completion\n"d",D\n')
    rows = [{"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "E"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    lines(tmp_path / "deep" / "f.ndjson", {"text": "\n\nHuman: f\n\nAssistant: F"})
    good, bad, reading = read(ConversationSource("mine", path=str(tmp_path)))
    said = {(c.messages[0].content, c.messages[1].content, c.source) for c in good}
    assert said == {(name, name.upper(), "mine") for name in "abcdef"} and not bad
    assert (reading.files, reading.records) == (6, 6)
    assert set(reading.layouts) == {
        "messages (messages)", "sharegpt (conversations)", "alpaca (instruction/output)", "prompt/completion",
        "hh (text)",
    }  # fmt: skip


def test_bad_records_are_named_and_never_end_a_file(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        pair(1),
        b'{"question": "cut',
        b'{"question": "caf\xe9", "answer": "x"}',
        b'{"question": "half \\ud83d", "answer": "x"}',
        ["no object"],
        {"question": "q", "answer": ""},
        pair(2),
    )
    good, bad, reading = read(ConversationSource("mine", path=str(path), max_bad_share=0.8))
    assert [c.messages[0].content for c in good] == ["What is 1?", "What is 2?"]
    assert [(q.source, q.file, q.line) for q in bad] == [("mine", str(path), line) for line in range(2, 7)]
    reasons = [q.reason for q in bad]
    assert reasons[0].startswith("broken JSON") and reasons[1].startswith("not UTF-8")
    assert "lone surrogate" in reasons[2] and reasons[4] == "answer is empty"
    assert sum(reading.rejected.values()) == 5
    for row in bad:
        json.dumps(vars(row), ensure_ascii=False).encode()  # the quarantine table can hold them


def test_a_broken_file_counts_and_the_others_are_read(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *map(pair, range(9)))
    whole = gzip.compress(b"\n".join(json.dumps(pair(i)).encode() for i in range(500)))
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    good, bad, _ = read(ConversationSource("mine", path=str(tmp_path)))
    assert len(good) > 9
    assert [(Path(q.file).name, q.line, q.reason[:7]) for q in bad] == [("b.jsonl.gz", 0, "damaged")]


def test_above_a_share_of_bad_records_there_is_one_error_with_the_reasons(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *map(pair, range(7)), {"question": "a"}, {"question": "b"}, {"body": "c"})
    assert len(read(ConversationSource("mine", path=str(path), max_bad_share=0.3))[0]) == 7
    with pytest.raises(SourceError, match=r"'mine': 3 of 10 records \(30.0%\).*max_bad_share = 0.29: 2 × .*a.jsonl:8"):
        read(ConversationSource("mine", path=str(path), max_bad_share=0.29))
    lines(path, {"body": "x"})
    with pytest.raises(SourceError, match=r"no conversation in 1 records: 1 × no conversation: the row has body"):
        read(ConversationSource("mine", path=str(path), max_bad_share=1.0))


WORDS = Tokenizer.train(["What is it? It is so."] * 20, 300)


def test_what_cannot_or_must_not_be_learned_is_rejected_by_line(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    path = lines(
        tmp_path / "a.jsonl",
        *map(pair, range(8)),
        {"messages": [{"role": "user", "content": "Rain?"}, called]},
        {"question": "What is it? " * 30, "answer": "So."},
        {"question": "Now: 2+3*4-1=?", "answer": "13"},
        {"system": "Be brief.", "question": "And 2?", "answer": "So."},
    )
    refusal = partial(refusal_of, tokenizer=WORDS, context_length=128, evaluation=EvalIndex(["2+3*4-1=?"]))
    good, bad, reading = read(ConversationSource("mine", path=str(path), max_bad_share=0.12), refusal=refusal)
    assert len(good) == 9 and good[-1].messages[0].role == "system"
    assert [(q.line, q.reason) for q in bad] == [
        (9, "messages[1]: tool_calls: this model's chat template has no place for them"),
        (10, "longer than the 129 tokens that fine-tuning takes (finetune.context_length + 1)"),
        (11, "holds a prompt or a solution of the evaluation set"),
    ]
    assert reading.bad == 1  # too long, or asked in the evaluation, is nothing to mend
    assert dict(reading.rejected)["messages[…]: tool_calls: this model's chat template has no place for them"] == 1


def test_many_bad_records_end_in_a_row_that_counts_the_rest(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", pair(1), *[{"question": "q"}] * (MAX_QUARANTINED + 5))
    _, bad, _ = read(ConversationSource("mine", path=str(path), max_bad_share=1.0))
    assert len(bad) == MAX_QUARANTINED + 1 and bad[-1].reason == "5 more records, not listed one by one"


def test_a_weight_is_how_often_each_conversation_is_taken(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *map(pair, range(1000)))
    for weight in (0.25, 1.0, 2.5):
        good, _, reading = read(ConversationSource("mine", path=str(path), weight=weight))
        assert sum(c.copies for c in good) / 1000 == pytest.approx(weight, abs=4 * (0.25 / 1000) ** 0.5)
        assert reading.records == 1000
    halves = [{c.messages for c in read(ConversationSource("m", path=str(path), weight=w))[0]} for w in (0.3, 0.6)]
    assert halves[0] < halves[1]  # more weight takes more, and nothing else


def test_fields_of_the_settings_are_used(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"q": "a", "r": "b"})
    [one], _, _ = read(ConversationSource("mine", path=str(path), fields=Fields(prompt="q", response="r")))
    assert [m.content for m in one.messages] == ["a", "b"]


def test_hub_datasets_are_read_from_their_layout(tmp_path: Path) -> None:
    root = tmp_path / "datasets/me/chats@main"
    lines(root / "train.jsonl", pair(1))
    lines(root / "test.jsonl", pair(2))
    fs = DirFileSystem(path=str(tmp_path), fs=LocalFileSystem())
    with pytest.raises(
        SourceError, match=r"instruction source 'h': .*the splits test, train: .*'me/chats/train.jsonl'"
    ):
        read(ConversationSource("h", "hub", "me/chats"), filesystem=fs)
    [one], _, _ = read(ConversationSource("h", "hub", "me/chats/train.jsonl"), filesystem=fs)
    assert one.messages[0].content == "What is 1?"
    assert conversation_digests(ConversationSource("h", "hub", "me/chats")) == {}


def test_an_address_of_fsspec_is_read_as_a_folder_is(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/chats/a.jsonl.gz", gzip.compress(json.dumps(pair(1)).encode()))
    memory.pipe("/chats/b.json", json.dumps([pair(2)]).encode())
    source = ConversationSource("far", path="memory://chats")
    good, _, _ = read(source)
    assert [c.messages[0].content for c in good] == ["What is 1?", "What is 2?"]
    assert conversation_digests(source).keys() == {"a.jsonl.gz", "b.json"}


def test_digests_are_of_the_bytes(tmp_path: Path) -> None:
    source = ConversationSource("mine", path=str(tmp_path / "*.jsonl"))
    lines(tmp_path / "a.jsonl", pair(1))
    before = conversation_digests(source)
    lines(tmp_path / "a.jsonl", pair(2))
    assert before.keys() == conversation_digests(source).keys() == {"a.jsonl"} and before != conversation_digests(
        source
    )
    with pytest.raises(SourceError, match=r"instruction source 'none': .*no such file, folder or match"):
        conversation_digests(ConversationSource("none", path=str(tmp_path / "none.jsonl")))
