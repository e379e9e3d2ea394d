from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from components.data.shards import TokenShards, write_shards
from components.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Doc:
    text: str
    source: str
    split: str = "train"


DOCS = [
    Doc(f"number {i} of the list, " * (1 + i % 3), "a" if i % 2 else "b/c", "valid" if i % 5 == 0 else "train")
    for i in range(40)
]
TOKENIZER = Tokenizer.train([d.text for d in DOCS], 300)


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    """safetensors orders fields of metadata anew each time, so sixteen repeats would differ if there were any."""
    seen: set[tuple[bytes, ...]] = set()
    for number in range(16):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_shards(DOCS, TOKENIZER, folder)
        seen.add(tuple(file.read_bytes() for file in sorted(folder.iterdir())))
    assert len(seen) == 1


@pytest.mark.parametrize("max_tokens", [10_000, 60])
def test_every_document_comes_back_in_order_whatever_the_file_size(tmp_path: Path, max_tokens: int) -> None:
    index = write_shards(DOCS, TOKENIZER, tmp_path, max_tokens_per_file=max_tokens, batch_documents=7)
    shards = TokenShards.open(tmp_path)
    assert shards.index == index and shards.sources == ("b/c", "a")
    for source in shards.sources:
        for split in ("train", "valid"):
            texts = [d.text for d in DOCS if (d.source, d.split) == (source, split)]
            documents = [ids.tolist() for ids in shards.documents(source, split)]
            assert [d[0] for d in documents] == [TOKENIZER.bos_id] * len(texts)
            assert [TOKENIZER.decode(d[1:]) for d in documents] == texts
            assert index.count("num_bytes", source, split) == sum(len(t.encode()) for t in texts)
            assert sum(map(len, documents)) == shards.num_tokens(source, split) == len(shards.stream(source, split))


def test_a_range_across_files_reads_as_one_stream(tmp_path: Path) -> None:
    write_shards(DOCS, TOKENIZER, tmp_path, max_tokens_per_file=60)
    shards = TokenShards.open(tmp_path)
    stream = shards.stream("a")
    assert len(stream.files) > 2
    whole = np.concatenate([f["tokens"] for f in stream.files])
    for start, stop in [(0, len(whole)), (50, 130), (0, 0), (len(whole), len(whole)), (len(whole) - 1, len(whole))]:
        assert stream.read(start, stop).tolist() == whole[start:stop].tolist()
    with pytest.raises(IndexError):
        stream.read(0, len(whole) + 1)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    index = write_shards(DOCS, TOKENIZER, tmp_path)
    name = index.files[0].file
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-20])
    with pytest.raises(ValueError, match=f"{name}: damaged token shard"):
        TokenShards.open(tmp_path).stream(index.files[0].source, index.files[0].split)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        TokenShards.open(tmp_path).stream(index.files[0].source, index.files[0].split)
    (tmp_path / "index.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="format is 'other'"):
        TokenShards.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no token shards"):
        TokenShards.open(tmp_path / "nowhere")


def test_nothing_to_pack_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no documents to pack"):
        write_shards([], TOKENIZER, tmp_path)
    with pytest.raises(ValueError, match="split 'test'"):
        write_shards([Doc("x", "a", "test")], TOKENIZER, tmp_path)
    write_shards(DOCS, TOKENIZER, tmp_path)
    with pytest.raises(ValueError, match="no source 'z'"):
        TokenShards.open(tmp_path).stream("z")


def test_tokens_are_mapped_not_copied(tmp_path: Path) -> None:
    write_shards(DOCS, TOKENIZER, tmp_path)
    tokens = TokenShards.open(tmp_path).stream("a").files[0]["tokens"]
    assert tokens.dtype == np.uint16 and not tokens.flags.owndata and not tokens.flags.writeable
