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

from components.data.chat_template import PLAIN, ChatTemplate, has_marks
from components.data.vocabulary import Conventions, Vocabulary, read_conventions

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, USER, ASSISTANT, END)
ROLES = ("system", "user", "assistant")
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
LONE_SYMBOLS = "+-*/=();:>|"

# One alternative per line, tried from the top; each match is a piece that BPE never merges across.
_SYMBOLS = LONE_SYMBOLS.replace("-", r"\-")
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
    "<|bos|>{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = ns.system + m['content'] + '\\n\\n' %}"
    "{% elif m['role'] == 'user' %}{{ '<|user|>' + ns.system + m['content'] + '<|end|>' }}{% set ns.system = '' %}"
    "{% elif m['role'] != 'assistant' %}"
    "{{ raise_exception('unknown role ' + m['role'] + '; it takes one of system, user, assistant') }}"
    "{% elif ns.system %}{{ raise_exception('a system turn stands before a user turn') }}"
    "{% else %}{{ '<|assistant|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if ns.system %}{{ raise_exception('a system turn stands before a user turn') }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TokenizerConfig:
    """vocab_size: entries of the byte-level BPE, special tokens included. max_bytes: how much text it is trained on."""

    vocab_size: int = 512
    max_bytes: int = 1_500_000

    def __post_init__(self) -> None:
        _check_size(self.vocab_size)
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it takes a number of at least 1")


def _check_size(vocab_size: int) -> None:
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size is {vocab_size}; it takes at least {MIN_VOCAB_SIZE}: "
            f"256 bytes and {len(SPECIAL_TOKENS)} special tokens"
        )


class Tokenizer:
    """Text to ids and back, exactly: ``decode(encode(text)) == text`` for every text that UTF-8 can hold.

    One that we trained has six special tokens and renders a chat with them. One that was imported has `conventions`,
    and renders with the template that came along; everything else is the same for both. bos_id: begins a document;
    eos_id where there is no such token. end_id: closes an assistant's turn. stop_ids: those that end what is generated,
    `end_id` and `eos_id` among them.
    """

    def __init__(self, backend: tokenizers.Tokenizer, conventions: Conventions | None = None) -> None:
        # Text that spells "<|end|>" is text: a document or a user can never close a turn.
        backend.encode_special_tokens = True
        self.backend = backend
        self.conventions = conventions
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocab.values(), default=-1) + 1
        if conventions is not None:
            self._adopt(conventions)
            return
        missing = [token for token in SPECIAL_TOKENS if token not in vocab]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}: train it with Tokenizer.train")
        known = [vocab[token] for token in SPECIAL_TOKENS]
        self.bos_id, self.eos_id, self.pad_id, self.user_id, self.assistant_id, self.end_id = known
        self.special_ids: frozenset[int] = frozenset(known)
        self.stop_ids: frozenset[int] = frozenset((self.end_id, self.eos_id))

    def _adopt(self, conventions: Conventions) -> None:
        """Ids of an imported tokenizer; what closes an assistant's turn is seen from what its template writes there."""
        added = self.backend.get_added_tokens_decoder()
        self.vocab_size = max(self.vocab_size, conventions.vocab_size)

        def id_of(name: str, absent: int) -> int:
            token = conventions.tokens.get(name)
            found = absent if token is None else self.backend.token_to_id(token)
            if found is None:
                raise ValueError(f"the tokenizer's {name} is {token!r}, which is not in its vocabulary")
            return int(found)

        self.eos_id = id_of("eos_token", 0)
        self.bos_id, self.pad_id = id_of("bos_token", self.eos_id), id_of("pad_token", self.eos_id)
        named = {self.eos_id, self.bos_id, self.pad_id}
        self.special_ids = frozenset(named | {i for i, token in added.items() if token.special})
        texts = frozenset(str(self.backend.id_to_token(i)) for i in self.special_ids)
        self._chat = ChatTemplate(conventions.chat_template or PLAIN, conventions.tokens, texts)
        self.end_id = self._end_of_turn()
        self.stop_ids = frozenset((self.end_id, self.eos_id, *map(self._id_of, conventions.ends)))

    def _end_of_turn(self) -> int:
        said = "ANSWER"
        try:
            text = self._chat.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": said}])
        except ValueError:
            return self.eos_id
        behind = text[text.rfind(said) + len(said) :]
        first = next((piece for piece, _, special in self._chat.segments(behind) if special), None)
        return self.eos_id if first is None else self._id_of(first)

    def _id_of(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the vocabulary has no {token!r}")
        return int(found)

    # -- training, saving, loading -------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 512) -> Tokenizer:
        """Learn merges until there are `vocab_size` entries (6 specials, 256 bytes, merges) or no pair is left.

        The vocabulary is smaller than `vocab_size` when the text is too small; read `.vocab_size`, don't assume it.
        """
        _check_size(vocab_size)
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
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "vocab_size": self.vocab_size,
        }
        if self.conventions is None:
            config |= {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
            config |= {"additional_special_tokens": [USER, ASSISTANT, END], "chat_template": _CHAT_TEMPLATE}
        else:
            config |= self.conventions.tokens
            config |= {"chat_template": self._chat.source}
            if self.conventions.begins_with_bos is not None:
                config |= {"add_bos_token": self.conventions.begins_with_bos}
                config |= {"add_eos_token": self.conventions.ends_with_eos}
            ends = {"eos_token_id": [self.eos_id, *sorted(self.stop_ids - {self.eos_id})]}
            (folder / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a folder written by `save`, or a ``tokenizer.json`` itself; one of another model's with what lies beside
        it, see `read_conventions`."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no tokenizer there; expected a folder with tokenizer.json, or that file")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{file}: not a tokenizer in Hugging Face's JSON format ({error})") from error
        ours = all(backend.token_to_id(token) is not None for token in SPECIAL_TOKENS)
        return cls(backend, None if ours else read_conventions(file.parent, backend))

    # -- text and ids ----------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never a special one, whatever the text spells. No bos is added."""
        try:
            # As a batch, which lets go of the interpreter's lock: a text of megabytes holds up no other thread.
            return list(self.backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise _bad_text(text, error) from error

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text as its model expects it at the beginning of a sequence: with what the tokenizer's
        post-processor puts there, such as a bos. Where tokenizer_config.json has `add_bos_token` or `add_eos_token`,
        they say so instead, as in transformers. Ours puts nothing."""
        asked = self.conventions
        if asked is not None and asked.begins_with_bos is not None:
            bos, eos = (asked.tokens.get(name) for name in ("bos_token", "eos_token"))
            before = [self.bos_id] if asked.begins_with_bos and bos else []
            return before + self.encode(text) + ([self.eos_id] if asked.ends_with_eos and eos else [])
        try:
            return list(self.backend.encode_batch_fast([text], add_special_tokens=True)[0].ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise _bad_text(text, error) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on as many threads as the process has."""
        try:
            return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (TypeError, UnicodeEncodeError):
            return [self.encode(text) for text in texts]  # raises for the first bad one, naming what is wrong with it

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`. Bytes that are not UTF-8 (half a character) become U+FFFD; specials vanish unless kept."""
        data = self._bytes(ids, skip_special)
        if self._vocabulary.leading_space and data.startswith(b" "):
            data = data[1:]  # which encoding put before the first word
        return data.decode("utf-8", errors="replace")

    def token(self, token_id: int) -> str:
        """One id as people read it: special tokens by name, bytes that are no character as U+FFFD."""
        return self._bytes([token_id], skip_special=False).decode("utf-8", errors="replace")

    def _bytes(self, ids: Iterable[int], skip_special: bool) -> bytes:
        table = self._bytes_by_id
        try:
            kept = (int(i) for i in ids)
            return b"".join(b"" if skip_special and i in self.special_ids else table[i] for i in kept)
        except KeyError as error:
            raise ValueError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from error

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.backend)

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        unused = dict.fromkeys(range(self.vocab_size), b"")  # rows of an embedding beyond the vocabulary
        return {**unused, **self._vocabulary.bytes_by_id}

    @cached_property
    def text_bytes(self) -> list[bytes]:
        """UTF-8 bytes that each id adds to a text, by id; none for special tokens."""
        return [b"" if i in self.special_ids else self._bytes_by_id[i] for i in range(self.vocab_size)]

    @property
    def leading_space(self) -> bool:
        """Whether encoding puts a space before the first word, which `decode` takes away again."""
        return self._vocabulary.leading_space

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
        """Compression over `texts`, in UTF-8 bytes per token; NaN when there is no token."""
        num_bytes = num_tokens = 0
        for ids in self.encode_batch(list(texts)):
            num_bytes += self.bytes_of(ids)
            num_tokens += len(ids)
        return num_bytes / num_tokens if num_tokens else float("nan")

    # -- conversations ---------------------------------------------------------------------------------------------

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], list[int]]:
        """``<|bos|><|user|>…<|end|><|assistant|>…<|end|>`` as ids, with a mask of the same length.

        The mask is 1 on an assistant's content and on the ``<|end|>`` that closes it, 0 elsewhere: it marks the tokens
        to be predicted, so shift it together with the targets. With `add_generation_prompt` a closing ``<|assistant|>``
        asks for the next answer; of such a prompt nothing is to be predicted, and the mask is 0. A system turn begins
        the user's turn that follows it, with an empty line between the two.

        An imported tokenizer does the same with its own template and end of turn; that also says which roles there are,
        and whether there is a place for the `tool_calls` of an assistant, for turns of a tool and for `tools`, the
        functions that may be called (as in OpenAI's requests). Ours has none.

        Raises ValueError naming the message for an unknown role, content that is not text, or what the template would
        leave out.
        """
        if self.conventions is not None:
            return self._render_imported(messages, add_generation_prompt, tools)
        if tools:
            raise ValueError("tools: this model's chat template has no place for them")
        ids, mask, system = [self.bos_id], [0], ""
        for index, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise ValueError(f"messages[{index}]: unknown role {role!r}; it takes one of {', '.join(ROLES)}")
            if message.get("tool_calls"):
                raise ValueError(f"messages[{index}]: tool_calls: this model's chat template has no place for them")
            if not isinstance(content, str):
                raise ValueError(f"messages[{index}]: content is {type(content).__name__}, not text")
            if role == "system":
                system += f"{content}\n\n"
                continue
            if role == "assistant" and system:
                break
            try:
                body = [*self.encode(system + content), self.end_id]
            except ValueError as error:
                raise ValueError(f"messages[{index}]: {error}") from None
            system = ""
            ids += [self.user_id if role == "user" else self.assistant_id, *body]
            mask += [0, *([int(role == "assistant")] * len(body))]
        if system:
            last = max(i for i, message in enumerate(messages) if message.get("role") == "system")
            raise ValueError(f"messages[{last}]: a system turn has to stand before a turn of the user")
        if add_generation_prompt:
            ids.append(self.assistant_id)
            mask = [0] * len(ids)
        return ids, mask

    @property
    def chat_template(self) -> str:
        """The Jinja text that renders conversations as `render_chat` does."""
        return _CHAT_TEMPLATE if self.conventions is None else self._chat.source

    def knows_role(self, role: str) -> bool:
        """Whether the chat template speaks of this role by its name."""
        return role in ROLES if self.conventions is None else role in self._chat.source

    def _render_imported(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> tuple[list[int], list[int]]:
        for index, message in enumerate(messages):
            for name in ("role", "content"):
                value = message.get(name)
                if name == "content" and value is None and message.get("tool_calls"):
                    continue
                if not isinstance(value, str):
                    raise ValueError(f"messages[{index}]: {name} is {type(value).__name__}, not text")
                try:
                    value.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(f"messages[{index}]: {_bad_text(value, error)}") from None
        text = self._chat.render(messages, add_generation_prompt, tools)
        # A template may render what was said before differently once more is said; for a prompt it does not matter.
        spans = [] if add_generation_prompt else list(self._chat.said(messages, text, self.token(self.end_id), tools))
        ids, starts = self._encode_rendered(text)
        return ids, [int(any(a <= start < b for a, b in spans)) for start in starts]

    def _encode_rendered(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of what a template wrote, and where in it each begins."""
        if not has_marks(text):
            [whole] = self._reading_specials.encode_batch([text], add_special_tokens=False)
            return list(whole.ids), [start for start, _ in whole.offsets]
        ids: list[int] = []
        starts: list[int] = []
        for piece, places, special in self._chat.segments(text):
            if special:
                ids.append(self._id_of(piece))
                starts.append(places[0])
                continue
            [encoded] = self.backend.encode_batch([piece], add_special_tokens=False)
            ids += encoded.ids
            starts += [places[min(start, len(places) - 1)] for start, _ in encoded.offsets]
        return ids, starts

    @cached_property
    def _reading_specials(self) -> tokenizers.Tokenizer:
        """The same tokenizer, for text in which special tokens are what they say. A switch on one would not be safe
        with several threads."""
        return tokenizers.Tokenizer.from_str(self.backend.to_str())


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
