"""Conversations as Parquet rows, packed into rows of fixed length for supervised fine-tuning.

Several conversations share a row; each keeps positions from 0 and a number of its own, from which the model's mask is
made block-diagonal, so that packing changes the speed and not the loss. Inputs and targets are shifted inside each
conversation *before* packing: no conversation's last token is asked to predict the next one's first.

Shapes: R packed rows, B batch, T context length.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.data.batches import permute
from components.data.tokenizer import Tokenizer

SCHEMA = pa.schema(
    [("messages_json", pa.string()), ("source", pa.string()), ("tools_json", pa.string()), ("copies", pa.int32())]
)


@dataclass(frozen=True)
class Message:
    """tool_calls: of an assistant, as an OpenAI request has them but for their arguments, which are an object. name,
    tool_call_id: of a tool's turn, where it has them."""

    role: str  # system, user, assistant or tool
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str = ""
    tool_call_id: str = ""

    @classmethod
    def from_dict(cls, message: Mapping[str, Any]) -> Message:
        further = {name: message[name] for name in ("name", "tool_call_id") if name in message}
        return cls(message["role"], message["content"], tuple(message.get("tool_calls", ())), **further)

    def as_dict(self) -> dict[str, Any]:
        further = {"tool_calls": list(self.tool_calls), "name": self.name, "tool_call_id": self.tool_call_id}
        return {"role": self.role, "content": self.content} | {name: held for name, held in further.items() if held}


@dataclass(frozen=True)
class Conversation:
    """tools: functions that the assistant could call. copies: how often training takes it in a pass over the data."""

    messages: tuple[Message, ...]
    source: str
    tools: tuple[Mapping[str, Any], ...] = ()
    copies: int = 1

    @classmethod
    def turn(cls, prompt: str, response: str, source: str) -> Conversation:
        """One question and its answer."""
        return cls((Message("user", prompt), Message("assistant", response)), source)

    def as_dicts(self) -> list[dict[str, Any]]:
        return [message.as_dict() for message in self.messages]


def write_conversations(conversations: Iterable[Conversation], file: str | Path) -> int:
    """Write as Parquet with columns messages_json (``[{"role", "content"}, …]``), source, tools_json (empty: none) and
    copies; returns how many."""
    rows = [
        {
            "messages_json": json.dumps(c.as_dicts(), ensure_ascii=False),
            "source": c.source,
            "tools_json": json.dumps(c.tools, ensure_ascii=False) if c.tools else "",
            "copies": c.copies,
        }
        for c in conversations
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read_conversations(file: str | Path) -> Iterator[Conversation]:
    """Stream what `write_conversations` wrote. A row that is not a conversation raises naming file and row."""
    number = 0
    with pq.ParquetFile(file) as table:
        missing = [name for name in SCHEMA.names if name not in table.schema_arrow.names]
        if missing:
            raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(columns=SCHEMA.names):
            for row in batch.to_pylist():
                number += 1
                try:
                    messages = tuple(map(Message.from_dict, json.loads(row["messages_json"])))
                    tools = tuple(json.loads(row["tools_json"] or "[]"))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise ValueError(f"{file}: row {number}: messages_json is no list of role and content") from error
                yield Conversation(messages, row["source"], tools, row["copies"])


class Tokenised(NamedTuple):
    ids: list[int]
    loss_mask: list[int]  # 1 where the token is to be learned


def tokenise(conversations: Iterable[Conversation], tokenizer: Tokenizer) -> Iterator[Tokenised]:
    """`Tokenizer.render_chat` of each."""
    for conversation in conversations:
        yield Tokenised(*tokenizer.render_chat(conversation.as_dicts(), tools=conversation.tools))


@dataclass(frozen=True)
class PackedConversations:
    """All arrays [R, T]. Padding has input and target `pad_id`, document 0, position 0 and no loss."""

    inputs: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.int32]
    document_ids: npt.NDArray[np.int32]  # 1, 2, … inside a row
    num_packed: int
    num_too_long: int  # left out: longer than context_length + 1 tokens
    num_silent: int  # left out: without a token to learn

    @property
    def num_rows(self) -> int:
        return len(self.inputs)

    @property
    def fill(self) -> float:
        """Share of positions that are not padding."""
        return float((self.document_ids > 0).mean())


def pack_conversations(tokenised: Iterable[Tokenised], context_length: int, pad_id: int) -> PackedConversations:
    """Pack by best-fit decreasing (Johnson 1974): longest first, each into the fullest row that still holds it.

    A conversation of n tokens takes n - 1 places. One with n - 1 > T is left out and counted, since cutting it would
    teach answers without an end; ValueError when none is left.
    """
    fitting: list[Tokenised] = []
    num_too_long = num_silent = 0
    for item in tokenised:
        if len(item.ids) - 1 > context_length:
            num_too_long += 1
        elif not any(item.loss_mask[1:]):
            num_silent += 1
        else:
            fitting.append(item)
    if not fitting:
        raise ValueError(
            f"no conversation to pack: {num_too_long} are longer than context_length + 1 = {context_length + 1} "
            f"tokens, {num_silent} have no assistant text; raise context_length or look at the conversations"
        )
    rows = _assign([len(item.ids) - 1 for item in fitting], context_length)
    shape = (len(rows), context_length)
    inputs, targets = np.full(shape, pad_id, np.int32), np.full(shape, pad_id, np.int32)
    positions, documents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    loss_mask = np.zeros(shape, np.bool_)
    for row, members in enumerate(rows):
        start = 0
        for number, member in enumerate(members, start=1):
            ids, mask = fitting[member]
            here = (row, slice(start, start + len(ids) - 1))
            inputs[here], targets[here], loss_mask[here] = ids[:-1], ids[1:], np.array(mask[1:], np.bool_)
            positions[here], documents[here] = np.arange(len(ids) - 1), number
            start += len(ids) - 1
    return PackedConversations(inputs, targets, loss_mask, positions, documents, len(fitting), num_too_long, num_silent)


def _assign(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Members of each row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free places, row), sorted
    for member in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(room, (lengths[member], -1))
        free, row = room.pop(at) if at < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(member)
        insort(room, (free - lengths[member], row))
    return rows


class SftBatch(NamedTuple):
    inputs_BT: Tensor  # int64
    targets_BT: Tensor  # int64
    loss_mask_BT: Tensor  # bool, True where the target counts
    positions_BT: Tensor  # int64, from 0 in each conversation
    document_ids_BT: Tensor  # int64, equal inside a conversation; 0: padding


def sft_batch_at(
    packed: PackedConversations, step: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> SftBatch:
    """The batch of one step, a pure function of (seed, step): each epoch visits each packed row once in a new order."""
    if step < 0 or batch_size < 1 or not 0 <= rank < world_size or batch_size % world_size:
        raise ValueError(
            f"step {step}, batch_size {batch_size}, rank {rank} of {world_size}: "
            "expected step >= 0, rank < world_size, and a batch_size that world_size divides"
        )
    slots = np.arange(step * batch_size + rank, (step + 1) * batch_size, world_size)
    epochs, places = np.divmod(slots, packed.num_rows)
    keys = np.array([_epoch_key(seed, int(epoch)) for epoch in epochs], dtype=np.uint64)
    rows = permute(places, np.full(len(slots), packed.num_rows), keys)

    def take(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array[rows].astype(np.bool_ if array.dtype == np.bool_ else np.int64))

    return SftBatch(
        *map(take, (packed.inputs, packed.targets, packed.loss_mask, packed.positions, packed.document_ids))
    )


def _epoch_key(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"sft-{seed}-{epoch}".encode(), digest_size=8).digest(), "little")


def as_conversations(pairs: Iterable[tuple[str, str]], source: str) -> Iterator[Conversation]:
    """(prompt, response) pairs as conversations of one source."""
    for prompt, response in pairs:
        yield Conversation.turn(prompt, response, source)


def summary(packed: PackedConversations) -> Mapping[str, int | float]:
    """Facts for a record: rows, conversations, what was left out, and how full the rows are."""
    return {
        "num_rows": packed.num_rows,
        "num_conversations": packed.num_packed,
        "num_too_long": packed.num_too_long,
        "num_silent": packed.num_silent,
        "num_loss_tokens": int(packed.loss_mask.sum()),
        "fill": packed.fill,
    }
