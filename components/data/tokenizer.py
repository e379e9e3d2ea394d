"""Byte-level BPE that leaves arithmetic alone (Sennrich et al. 2016, arXiv 1508.07909; bytes: Radford et al. 2019).

A digit is always one token, and so is each of ``+ - * / = ( ) ; : > |`` and the newline: how a number is cut decides
whether a small model learns to add (Nogueira et al. 2021, arXiv 2102.13019). Everything else is split in the manner of
GPT-2: words with their leading space, runs of punctuation, runs of blanks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, USER, ASSISTANT, END)
ROLE_TOKENS = {"user": USER, "assistant": ASSISTANT}
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
LONE_SYMBOLS = "+-*/=();:>|"

# One alternative a line, tried from the top; each match is a piece that BPE never merges across.
_SYMBOLS = r"+\-*/=();:>|"
_PIECES = "|".join(
    (
        r"'(?:[sdmt]|ll|ve|re)(?!\p{L})",
        r" ?\p{L}+",
        r"\p{N}",
        rf"[{_SYMBOLS}\n]",
        rf" ?[^\s\p{{L}}\p{{N}}{_SYMBOLS}]+",
        r"[^\S\n]+(?!\S)",
        r"[^\S\n]+",
    )
)
# The same template in Jinja, so that the saved folder also works with `transformers`' apply_chat_template.
_CHAT_TEMPLATE = (
    "<|bos|>{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TokenizerConfig:
    """vocab_size: entries of the byte-level BPE, special tokens included. max_bytes: how much text it is trained on."""

    vocab_size: int = 512
    max_bytes: int = 1_500_000


class Tokenizer:
    """Text to ids and back, exactly: ``decode(encode(text)) == text`` for every text that UTF-8 can hold."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        ids = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
        missing = [token for token, i in zip(SPECIAL_TOKENS, ids, strict=True) if i is None]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}: train it with Tokenizer.train")
        # Text that spells "<|end|>" is text: a document or a user can never close a turn.
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        known = [i for i in ids if i is not None]
        self.bos_id, self.eos_id, self.pad_id, self.user_id, self.assistant_id, self.end_id = known
        self.special_ids: frozenset[int] = frozenset(known)

    # -- training, saving, loading -------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 512) -> Tokenizer:
        """Learn merges until there are `vocab_size` entries (6 specials, 256 bytes, merges) or no pair is left.

        The vocabulary is smaller than asked when the text is too small; read `.vocab_size`, don't assume it.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(
                f"vocab_size is {vocab_size}; it takes at least {MIN_VOCAB_SIZE}: "
                f"256 bytes and {len(SPECIAL_TOKENS)} special tokens"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        backend.train_from_iterator(_non_empty(texts), trainer)
        return cls(backend)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` (Hugging Face format) and ``tokenizer_config.json`` (specials, chat template)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "additional_special_tokens": [USER, ASSISTANT, END],
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
            "vocab_size": self.vocab_size,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a folder written by `save`, or a ``tokenizer.json`` itself."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no tokenizer there; expected a folder with tokenizer.json, or that file")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{file}: not a tokenizer in Hugging Face's JSON format ({error})") from error
        return cls(backend)

    # -- text and ids ----------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never a special one, whatever the text spells. No bos is added."""
        try:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise _bad_text(text, error) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on as many threads as the process has."""
        try:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (TypeError, UnicodeEncodeError):
            return [self.encode(text) for text in texts]  # raises for the first bad one, naming what is wrong with it

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`. Bytes that are not UTF-8 (half a character) become U+FFFD; specials vanish unless kept."""
        table = self._bytes_by_id
        try:
            kept = (int(i) for i in ids)
            data = b"".join(b"" if skip_special and i in self.special_ids else table[i] for i in kept)
        except KeyError as error:
            raise ValueError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from error
        return data.decode("utf-8", errors="replace")

    def token(self, token_id: int) -> str:
        """One id as people read it: special tokens by name, bytes that are no character as U+FFFD."""
        return self.decode([token_id], skip_special=False)

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        byte_of = {char: byte for byte, char in _byte_alphabet().items()}
        vocab = self._backend.get_vocab(with_added_tokens=True)
        return {
            i: token.encode() if token in SPECIAL_TOKENS else bytes(byte_of[c] for c in token)
            for token, i in vocab.items()
        }

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """UTF-8 bytes that each id stands for, shape [vocab_size]; 0 for special tokens.

        Bits per byte of a text = sum of -log2 p(token) / byte_lengths[targets].sum(): comparable across tokenizers.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for i, data in self._bytes_by_id.items():
            lengths[i] = 0 if i in self.special_ids else len(data)
        return lengths

    def bytes_of(self, ids: Any) -> int:
        """UTF-8 bytes of text in `ids` (a sequence, array or CPU tensor of any shape); special tokens count 0."""
        return int(self.byte_lengths[np.asarray(ids, dtype=np.int64)].sum())

    def bytes_per_token(self, texts: Iterable[str]) -> float:
        """Compression over `texts`, in UTF-8 bytes a token; NaN when there is no token."""
        num_bytes = num_tokens = 0
        for ids in self.encode_batch(list(texts)):
            num_bytes += self.bytes_of(ids)
            num_tokens += len(ids)
        return num_bytes / num_tokens if num_tokens else float("nan")

    # -- conversations ---------------------------------------------------------------------------------------------

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
    ) -> tuple[list[int], list[int]]:
        """``<|bos|><|user|>…<|end|><|assistant|>…<|end|>`` as ids, with a mask of the same length.

        The mask is 1 on an assistant's content and on the ``<|end|>`` that closes it, 0 elsewhere: it marks the tokens
        to be predicted, so shift it together with the targets. With `add_generation_prompt` a closing ``<|assistant|>``
        asks for the next answer. Raises ValueError naming the message for an unknown role or content that is not text.
        """
        ids, mask = [self.bos_id], [0]
        for index, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLE_TOKENS:
                raise ValueError(f"messages[{index}]: unknown role {role!r}; it takes one of {', '.join(ROLE_TOKENS)}")
            if not isinstance(content, str):
                raise ValueError(f"messages[{index}]: content is {type(content).__name__}, not text")
            body = [*self.encode(content), self.end_id]
            ids += [self.user_id if role == "user" else self.assistant_id, *body]
            mask += [0, *([int(role == "assistant")] * len(body))]
        if add_generation_prompt:
            ids.append(self.assistant_id)
            mask.append(0)
        return ids, mask


def _non_empty(texts: Iterable[str]) -> Iterable[str]:
    empty = True
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} to train the tokenizer on is {type(text).__name__}, not text")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("no text to train a tokenizer on: the corpus is empty after filtering")


def _bad_text(text: object, error: Exception) -> Exception:
    if not isinstance(text, str):
        return TypeError(f"expected text to encode, got {type(text).__name__}")
    lone = next((i for i, char in enumerate(text) if 0xD800 <= ord(char) <= 0xDFFF), None)
    if lone is None:
        return ValueError(f"cannot encode the text: {error}")
    return ValueError(
        f"character {lone} of the text is a lone surrogate (U+{ord(text[lone]):04X}), which UTF-8 cannot hold: "
        "normalise the text first"
    )


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's reversible map from bytes to printable characters (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(256 + n) for n, byte in enumerate(others)}
