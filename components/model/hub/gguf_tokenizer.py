"""The tokenizer inside a GGUF file, as `tokenizers` runs it.

Two kinds are common. `gpt2`: byte-level BPE with its merges; how text is cut before merging is given by a name alone
(`tokenizer.ggml.pre`), whose patterns are those of llama.cpp (src/llama-vocab.cpp). `llama`: SentencePiece BPE with a
score per token, from which the merges follow: the pair whose union scores best is merged first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from components.data.vocabulary import Conventions
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_format import GGUFFile

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
_TAILS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
QWEN_PATTERN = rf"{_WORDS}|\p{{N}}|{_TAILS}"
_PATTERNS = {"llama-bpe": rf"{_WORDS}|\p{{N}}{{1,3}}|{_TAILS}", "qwen2": QWEN_PATTERN}
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")
_PLAIN = ("gpt-2", "gpt2", "default")


def read_gguf_tokenizer(file: GGUFFile, vocab_size: int) -> tuple[Tokenizer, Conventions]:
    """Tokenizer, special tokens and chat template of a GGUF file.

    vocab_size: rows of the embedding. Raises UnsupportedModel for a kind that is not read, naming it.
    """
    tokens: Sequence[str] | None = file.get("tokenizer.ggml.tokens")
    if not tokens:
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.tokens is missing: the file has no tokenizer")
    kind = file.get("tokenizer.ggml.model")
    types: Sequence[int] = file.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if kind == "gpt2":
        backend = _byte_level(file, tokens)
    elif kind == "llama":
        backend = _sentence_piece(file, tokens, types)
    else:
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.model is {kind!r}: takes gpt2 or llama")
    typed = list(zip(tokens, types, strict=True))
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in typed if k == CONTROL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, k in typed if k == USER_DEFINED])
    named = {}
    for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = file.get(f"tokenizer.ggml.{field}_token_id")
        if index is not None and 0 <= int(index) < len(tokens):
            named[f"{name}_token"] = tokens[int(index)]
    if "eos_token" not in named:
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.eos_token_id is missing: nothing ends a text")
    _begin_with_bos(file, backend, named.get("bos_token"), kind == "llama")
    ends = [file.get(f"tokenizer.ggml.{field}_token_id") for field in ("eot", "eom")]
    others = tuple(tokens[int(index)] for index in ends if index is not None and 0 <= int(index) < len(tokens))
    return backend, Conventions(named, file.get("tokenizer.chat_template") or "", vocab_size, others)


def _byte_level(file: GGUFFile, tokens: Sequence[str]) -> Tokenizer:
    pre = file.get("tokenizer.ggml.pre", "gpt-2")
    pre = _ALIASES.get(pre, pre)
    merges = [tuple(merge.split(" ", 1)) for merge in file.get("tokenizer.ggml.merges") or ()]
    try:
        model = models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the Rust side raises bare Exception
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.merges do not fit the tokens: {error}") from error
    backend = Tokenizer(model)
    split = _split(pre)
    if split is None:
        known = ", ".join(sorted({*_PATTERNS, *_ALIASES, *_DIGITS_APART, *_PLAIN}))
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.pre is {pre!r}: takes one of {known}")
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    backend.decoder = decoders.ByteLevel()
    return backend


def _split(pre: str) -> list[Any] | None:
    """How text is cut under this name; None for one that is not known."""
    if pre in _PATTERNS:
        return [
            pre_tokenizers.Split(Regex(_PATTERNS[pre]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    if pre in _DIGITS_APART:
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return [pre_tokenizers.ByteLevel(add_prefix_space=False)] if pre in _PLAIN else None


def pre_of(backend: Tokenizer) -> str | None:
    """The name under which files say how this byte-level tokenizer cuts text; None where none says that."""
    said = json.loads(backend.to_str())
    for pre in (*_PATTERNS, *_DIGITS_APART[:1], *_PLAIN[:1]):
        probe = Tokenizer(models.BPE({}, [], ignore_merges=pre == "llama-bpe"))
        probe.pre_tokenizer = pre_tokenizers.Sequence(_split(pre) or [])
        probe.normalizer = normalizers.NFC() if pre == "qwen2" else None
        theirs = json.loads(probe.to_str())
        same = all(_cut(said, part) == _cut(theirs, part) for part in ("pre_tokenizer", "normalizer"))
        if same and bool(said["model"].get("ignore_merges")) == theirs["model"]["ignore_merges"]:
            return pre
    return None


def _cut(said: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a part, without what makes no difference to the tokens."""
    given = said.get(part) or {}
    steps = given.get("pretokenizers", given.get("normalizers", [given] if given else []))
    return [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]


def _sentence_piece(file: GGUFFile, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores: Sequence[float] | None = file.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise UnsupportedModel(f"{file.path}: tokenizer.ggml.scores is missing, which the kind llama needs")
    vocab = {token: i for i, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    model = models.BPE(
        vocab,
        merges_by_score(tokens, scores, types, vocab),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback="<0x00>" in vocab,
    )
    backend = Tokenizer(model)
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    space: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "▁")])
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def merges_by_score(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], vocab: dict[str, int]
) -> list[tuple[str, str]]:
    """Every way to put a normal token together from two others, the best-scored union first."""
    ranked = []
    for i, token in enumerate(tokens):
        if types[i] == 1:
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in vocab and right in vocab:
                    ranked.append((-scores[i], vocab[left], vocab[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _begin_with_bos(file: GGUFFile, backend: Tokenizer, bos: str | None, default: bool) -> None:
    """For callers that let the tokenizer add special tokens; we never do."""
    if bos is not None and file.get("tokenizer.ggml.add_bos_token", default):
        index = backend.token_to_id(bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, index)]
        )
