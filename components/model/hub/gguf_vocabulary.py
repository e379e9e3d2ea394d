"""A tokenizer as the metadata of a GGUF file; `gguf_tokenizer.py` reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_tokenizer import CONTROL, UNKNOWN, USER_DEFINED, merges_by_score, pre_of

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer

NORMAL, UNUSED, BYTE = 1, 5, 6


def vocabulary_metadata(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """Tokens, their types, merges or scores, special tokens and the chat template. rows: of the model's embedding.

    Raises UnsupportedModel for a tokenizer that a file cannot describe.
    """
    said = json.loads(tokenizer.backend.to_str())
    vocab: Mapping[str, int] = tokenizer.backend.get_vocab(with_added_tokens=True)
    names = {i: token for token, i in vocab.items()}
    added = {token["id"]: bool(token["special"]) for token in said.get("added_tokens", [])}
    tokens = [names.get(i, f"[PAD{i}]") for i in range(rows)]
    unknown = said["model"].get("unk_token")

    def type_of(i: int) -> int:
        if i not in names:
            return UNUSED
        if names[i] == unknown:
            return UNKNOWN
        if i in added or i in tokenizer.special_ids:
            return CONTROL if added.get(i, True) else USER_DEFINED
        is_byte = said["model"].get("byte_fallback") and names[i] in _BYTES
        return BYTE if is_byte else NORMAL

    fields: dict[str, Any] = {
        "tokens": tokens,
        "token_type": [type_of(i) for i in range(rows)],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "padding_token_id": tokenizer.pad_id,
        "add_bos_token": tokenizer.encode_prompt("")[:1] == [tokenizer.bos_id],
    }
    if tokenizer.end_id != tokenizer.eos_id:
        fields["eot_token_id"] = tokenizer.end_id
    if unknown in vocab:
        fields["unknown_token_id"] = vocab[unknown]
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ", 1)) for merge in said["model"]["merges"]
    ]
    fields |= _pieces(tokenizer, said, merges, fields["token_type"], tokens)
    metadata = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    return metadata | {"tokenizer.chat_template": tokenizer.chat_template}


_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def _pieces(
    tokenizer: Tokenizer,
    said: Mapping[str, Any],
    merges: Sequence[tuple[str, ...]],
    types: Sequence[int],
    tokens: Sequence[str],
) -> dict[str, Any]:
    """How text becomes tokens: byte-level BPE by its merges, or SentencePiece's by a score a token."""
    pre = pre_of(tokenizer.backend)
    if pre is not None or tokenizer.conventions is None:
        # Ours cut as GPT-2's do where it matters: what they cut more finely is never merged. The exception is an
        # apostrophe between letters that begins no contraction, as in o'the.
        return {"model": "gpt2", "pre": pre or "gpt-2", "merges": [" ".join(merge) for merge in merges]}
    ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(merges)))}
    scores = [-float(ranks.get(token, 0)) if kind == NORMAL else 0.0 for token, kind in zip(tokens, types, strict=True)]
    vocab = tokenizer.backend.get_vocab(with_added_tokens=True)
    by_score = merges_by_score(tokens, scores, types, vocab)
    if not tokenizer.backend.normalizer or {"▁"}.isdisjoint("".join(tokens)) or set(by_score) != set(merges):
        raise UnsupportedModel("this tokenizer cuts text in a way that GGUF has no name for")
    return {"model": "llama", "scores": scores, "add_space_prefix": tokenizer.leading_space}
