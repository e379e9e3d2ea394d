"""The journals of the annotators as rows of the table `judgements`, so that SQL and the report see them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from components.rlhf.judgements import Item, Judgement, newest
from storage.home import Home


def write_judgements(home: Home) -> int:
    """Bring the table up to date: a part a batch and annotator, written again as a whole. Returns how many rows."""
    written = 0
    for batch in home.annotations.batches():
        items = {item.item_id: item for item in map(Item.from_json, batch["items"])}
        said = [Judgement.from_json(line) for line in home.annotations.judgements(batch["batch"])]
        last = {id(one) for one in newest(said)}
        parts: dict[str, list[dict[str, Any]]] = {}
        for one in said:
            if one.item_id in items:
                row = _row(batch["batch"], items[one.item_id], one, id(one) not in last)
                parts.setdefault(one.annotator, []).append(row)
        for annotator, rows in parts.items():
            part = f"{batch['batch']}-{hashlib.sha256(annotator.encode()).hexdigest()[:16]}"
            written += home.tables.write("judgements", part, rows)
    return written


def _row(batch: str, item: Item, one: Judgement, superseded: bool) -> dict[str, Any]:
    return {
        "batch": batch,
        "item_id": one.item_id,
        "annotator": one.annotator,
        "submitted_at": datetime.fromisoformat(one.submitted_at),
        "prompt": item.prompt,
        "answers_json": [{"text": a.text, "model": a.model, "temperature": a.temperature} for a in item.answers],
        "order_json": list(one.order),
        "ranks_json": None if one.ranks is None else list(one.ranks),
        "skipped": one.ranks is None,
        "superseded": superseded,
        "confidence": one.confidence,
        "comment": one.comment,
        "seconds": one.seconds,
        "instructions_version": one.instructions_version,
        "instructions_sha256": one.instructions_sha256,
    }
