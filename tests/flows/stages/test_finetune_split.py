"""The fine-tuning stage trains, stops and reports on conversations whose prompts differ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from toy_training import finetuning, make_world

from components.data import conversations as conversations_module
from components.data.conversations import PackedConversations, Tokenised
from components.data.tokenizer import Tokenizer
from components.training import finetuning as batches_module
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages.training import finetune
from storage.artifacts import Store


def test_training_early_stopping_and_the_reported_loss_share_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_world(tmp_path)
    store = Store(tmp_path / "artifacts")
    words = Tokenizer.load(store.path(made["tokenizer"]))
    asked: dict[int, set[str]] = {}  # by the identity of the packed rows
    uses: dict[str, int] = {}
    pack, rows, build = (
        conversations_module.pack_conversations,
        batches_module.held_out_batches,
        batches_module.FinetuneBatches,
    )

    def packing(tokenised: Iterable[Tokenised], *settings: int) -> PackedConversations:
        given = list(tokenised)
        packed = pack(given, *settings)
        asked[id(packed)] = {words.decode(item.ids[: item.loss_mask.index(1)]) for item in given}
        return packed

    def holding(packed: PackedConversations, *settings: object, **named: object) -> object:
        uses["early stop" if named else "reported"] = id(packed)
        return rows(packed, *settings, **named)  # type: ignore[arg-type]

    def batching(config: object, packed: PackedConversations, *settings: object) -> object:
        uses["training"] = id(packed)
        return build(config, packed, *settings)  # type: ignore[arg-type]

    monkeypatch.setattr(conversations_module, "pack_conversations", packing)
    monkeypatch.setattr(batches_module, "held_out_batches", holding)
    monkeypatch.setattr(batches_module, "FinetuneBatches", batching)
    work = Work(tmp_path / "out", tmp_path / "state", ComputeConfig(), store=store)
    (tmp_path / "out").mkdir()
    _, settings = finetuning()
    inputs = {name: made[name] for name in ("base", "conversations", "tokenizer")} | {"shards": [made["shards"]]}
    result = finetune.fn(work, **settings, weights={"tales": 1.0}, seed=3, **inputs)

    parts = {use: asked[packed] for use, packed in uses.items()}
    assert set(parts) == {"training", "early stop", "reported"} and all(parts.values())
    assert len(set(uses.values())) == 3
    for one, other in (("training", "early stop"), ("training", "reported"), ("early stop", "reported")):
        assert not parts[one] & parts[other], f"{one} and {other} share a prompt"
    assert result.num_test_targets > 0
