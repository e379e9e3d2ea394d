"""Conversations of a user's own: files and hub datasets, record by record, with what is wrong with the others."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fsspec.spec import AbstractFileSystem

from components.data.conversation_formats import Invalid, read_conversation
from components.data.conversations import Conversation, Message
from components.data.decontaminate import EvalIndex
from components.data.files import Quarantined, SourceError, opened
from components.data.instruction import ConversationSource, files_of
from components.data.records import Rejected, excerpt, read_records
from components.data.tokenizer import Tokenizer
from components.data.tolerant_read import TolerantRead

MAX_QUARANTINED = 1000  # of a source; the rest is counted by reason
_PLACES = re.compile(r"(?<=\[)\d+(?=\])")


@dataclass
class Reading:
    """What the reading of one source has come to.

    files: that were opened. records: that they hold. layouts: conversations by how they were written. rejected: records
    by why they were not taken, places inside a record left out; bad: how many of them are invalid, or cannot be
    expressed.
    """

    files: int = 0
    records: int = 0
    layouts: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    first: list[Quarantined] = field(default_factory=list)

    def reject(self, record: Quarantined, is_bad: bool = True) -> Iterator[Quarantined]:
        self.rejected[_PLACES.sub("…", record.reason)] += 1
        self.bad += is_bad
        if len(self.first) < 3:
            self.first.append(record)
        if sum(self.rejected.values()) <= MAX_QUARANTINED:
            yield record


class Refusal(NamedTuple):
    """Why a conversation is not taken. is_bad: it counts for `ConversationSource.max_bad_share`."""

    reason: str
    is_bad: bool = True


def refusal_of(
    conversation: Conversation, tokenizer: Tokenizer, context_length: int, evaluation: EvalIndex
) -> Refusal | None:
    """Why fine-tuning cannot learn from a conversation, or must not: the chat template cannot express it, it is longer
    than the context, it holds what the model is evaluated on."""
    try:
        ids, loss_mask = tokenizer.render_chat(conversation.as_dicts(), tools=conversation.tools)
    except ValueError as error:
        return Refusal(str(error))
    if not any(loss_mask[1:]):
        return Refusal("the chat template leaves nothing of what the assistant says")
    if len(ids) > context_length + 1:
        limit = f"{context_length + 1} tokens that fine-tuning takes (finetune.context_length + 1)"
        return Refusal(f"longer than the {limit}", is_bad=False)
    if evaluation.search(["\n".join(message.content for message in conversation.messages)]):
        return Refusal("holds a prompt or a solution of the evaluation set", is_bad=False)
    return None


def read_conversations_of(
    source: ConversationSource,
    reading: Reading,
    refusal: Callable[[Conversation], Refusal | None] = lambda conversation: None,
    filesystem: AbstractFileSystem | None = None,
) -> Iterator[Conversation | Quarantined]:
    """Stream one source of files.

    Args:
        reading: is filled in on the way.
        refusal: why a conversation that was read is not taken, or nothing.
        filesystem: stands in for the hub or the local disk.

    Raises:
        SourceError: there is no such file, none of the records is a conversation, or the share of those that are none
            is above `max_bad_share`. Names the reasons and where they were first met.
    """
    where = source.where
    fs, files = files_of(source, filesystem)
    kept = 0
    for file in files:
        reading.files += 1
        tolerant = TolerantRead()
        with opened(where, fs, file) as stream:
            for item in tolerant.through(read_records(stream, file)):
                reading.records += bool(item.number)
                if isinstance(item, Rejected):
                    bad = Quarantined(source.name, file, item.number, item.reason, item.excerpt)
                    yield from reading.reject(bad)
                    continue
                try:
                    told = read_conversation(item.value, source.fields)
                    made = Conversation(tuple(map(Message.from_dict, told.messages)), source.name, tuple(told.tools))
                    refused = refusal(made)
                except Invalid as error:
                    refused = Refusal(excerpt(str(error), 300))
                if refused:
                    bad = Quarantined(source.name, file, item.number, refused.reason, excerpt(item.value))
                    yield from reading.reject(bad, refused.is_bad)
                    continue
                kept += 1
                reading.layouts[told.layout] += 1
                if copies := _copies(made, source.weight):
                    yield replace(made, copies=copies)
        if tolerant.reason:
            yield from reading.reject(Quarantined(source.name, file, 0, tolerant.reason, ""))
    listed = sum(reading.rejected.values())
    if listed > MAX_QUARANTINED:
        reason = f"{listed - MAX_QUARANTINED} more records, not listed one by one"
        yield Quarantined(source.name, source.path, 0, reason, "")
    _refuse_bad(source, reading, kept)


def _copies(conversation: Conversation, weight: float) -> int:
    """A weight of 2.3 is two copies of each conversation, and a third of 30% of them, by a hash of what is said."""
    whole, part = divmod(weight, 1)
    said = json.dumps(conversation.as_dicts(), ensure_ascii=False, sort_keys=True)
    drawn = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big") / 2**64
    return int(whole) + (drawn < part)


def _refuse_bad(source: ConversationSource, reading: Reading, kept: int) -> None:
    share = reading.bad / max(1, reading.bad + kept)
    if kept and share <= source.max_bad_share:
        return
    reasons = "; ".join(f"{count} × {reason}" for reason, count in reading.rejected.most_common(3)) or "it is empty"
    places = ", ".join(f"{bad.file}:{bad.line}" if bad.line else bad.file for bad in reading.first)
    more = f" (first at {places})" if places else ""
    if not kept:
        raise SourceError(f"{source.where}: no conversation in {reading.records} records: {reasons}{more}")
    raise SourceError(
        f"{source.where}: {reading.bad} of {reading.bad + kept} records ({share:.1%}) are no conversation that can be "
        f"taken, more than max_bad_share = {source.max_bad_share:g}: {reasons}{more}; mend them, or raise "
        "max_bad_share of this source"
    )
