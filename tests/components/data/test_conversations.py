from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.conversations import (
    Conversation,
    Message,
    Tokenised,
    _assign,
    as_conversations,
    pack_conversations,
    read_conversations,
    sft_batch_at,
    summary,
    tokenise,
    write_conversations,
)
from components.data.tokenizer import Tokenizer

PAIRS = [(f"what is {i}+{i}?", f"{i}+{i}={2 * i}; so {2 * i}" + " yes" * (i % 5)) for i in range(30)]
TOKENIZER = Tokenizer.train([" ".join(p) for p in PAIRS], 300)
T = 64


def test_conversations_come_back_from_parquet(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    with_tools = Conversation(
        (Message("user", "é|\n"), Message("assistant", "", (call,)), Message("tool", "wet", name="weather")),
        "odd",
        ({"type": "function", "function": {"name": "weather"}},),
        copies=2,
    )
    conversations = [*as_conversations(PAIRS, "sums"), with_tools]
    assert write_conversations(conversations, tmp_path / "c.parquet") == 31
    assert list(read_conversations(tmp_path / "c.parquet")) == conversations


def test_rows_that_are_no_conversations_are_named(tmp_path: Path) -> None:
    file = tmp_path / "c.parquet"
    columns = {"messages_json": ["[]", '[{"role": "user"}]'], "source": ["a"] * 2, "tools_json": [""] * 2}
    pq.write_table(pa.table(columns | {"copies": [1, 1]}), file)
    with pytest.raises(ValueError, match=r"c\.parquet: row 2"):
        list(read_conversations(file))
    pq.write_table(pa.table({"text": ["x"]}), file)
    with pytest.raises(ValueError, match="no column messages_json, source, tools_json, copies; it has text"):
        list(read_conversations(file))


def test_packed_rows_hold_each_conversation_whole_shifted_and_from_position_zero() -> None:
    tokenised = list(tokenise(as_conversations(PAIRS, "sums"), TOKENIZER))
    packed = pack_conversations(tokenised, T, TOKENIZER.pad_id)
    assert packed.num_packed == 30 and packed.num_rows < 25 and packed.fill > 0.8
    found = []
    for row in range(packed.num_rows):
        for number in range(1, packed.document_ids[row].max() + 1):
            here = np.flatnonzero(packed.document_ids[row] == number)
            assert here.tolist() == list(range(here[0], here[-1] + 1))
            assert packed.positions[row, here].tolist() == list(range(len(here)))
            ids = [*packed.inputs[row, here].tolist(), int(packed.targets[row, here[-1]])]
            assert packed.targets[row, here].tolist() == ids[1:]
            found.append((ids, [0, *packed.loss_mask[row, here].astype(int).tolist()]))
    assert sorted(found) == sorted((list(t.ids), list(t.loss_mask)) for t in tokenised)
    padding = packed.document_ids == 0
    assert (packed.inputs[padding] == TOKENIZER.pad_id).all() and not packed.loss_mask[padding].any()


def test_loss_covers_exactly_what_the_assistant_said() -> None:
    packed = pack_conversations(tokenise(as_conversations(PAIRS, "sums"), TOKENIZER), T, TOKENIZER.pad_id)
    learned = TOKENIZER.decode(packed.targets[packed.loss_mask].tolist(), skip_special=False)
    assert sorted(learned.split("<|end|>")[:-1]) == sorted(response for _, response in PAIRS)


def test_what_does_not_fit_or_teach_is_left_out_and_counted() -> None:
    fits = Tokenised(list(range(9)), [0] * 5 + [1] * 4)
    items = [fits, Tokenised(list(range(10)), [0] * 5 + [1] * 5), Tokenised([1, 2], [0, 0])]
    packed = pack_conversations(items, 8, pad_id=0)
    assert summary(packed) == {
        "num_rows": 1,
        "num_conversations": 1,
        "num_too_long": 1,
        "num_silent": 1,
        "num_loss_tokens": 4,
        "fill": 1.0,
    }
    with pytest.raises(ValueError, match=r"2 are longer than context_length . 1 = 5 tokens, 1 have no assistant text"):
        pack_conversations(items, 4, pad_id=0)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_packing_overfills_no_row_and_nearly_fills_all(lengths: list[int]) -> None:
    rows = _assign(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    # A new row opens only where no other has room, so two rows can't both be at most half full.
    assert sum(sum(lengths[i] for i in row) <= 10 for row in rows) <= 1


def test_sft_batches_resume_and_visit_each_row_once_an_epoch() -> None:
    items = [Tokenised([i] * 9, [0] + [1] * 8) for i in range(23)]
    packed = pack_conversations(items, 8, pad_id=99)
    rows = torch.cat([sft_batch_at(packed, step, 4, seed=1).inputs_BT[:, 0] for step in range(23)]).tolist()
    epochs = [rows[e * 23 : (e + 1) * 23] for e in range(4)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs) and len(set(map(tuple, epochs))) == 4
    again = sft_batch_at(packed, 11, 4, seed=1)
    assert again.inputs_BT[:, 0].tolist() == rows[44:48]
    assert again.inputs_BT.dtype == torch.int64 and again.loss_mask_BT.dtype == torch.bool
    parts = [sft_batch_at(packed, 11, 4, 1, rank, 2).inputs_BT for rank in range(2)]
    assert torch.equal(parts[1], again.inputs_BT[1::2])
