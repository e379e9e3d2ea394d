"""What the ids of a tokenizer stand for, and what an imported one brings along beside its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers


@dataclass(frozen=True)
class Conventions:
    """What an imported tokenizer brings along beside its vocabulary.

    tokens: `bos_token`, `eos_token`, `pad_token`, `unk_token` as text, absent where there is none; there is an
    `eos_token`. chat_template: Jinja text; empty: none. vocab_size: rows of the model's embedding where that has more
    than the vocabulary (0: it has not). ends: tokens that end a generation beside the `eos_token`. begins_with_bos,
    ends_with_eos: what a text gets as a prompt (None: what the vocabulary's own file says).
    """

    tokens: Mapping[str, str]
    chat_template: str = ""
    vocab_size: int = 0
    ends: tuple[str, ...] = ()
    begins_with_bos: bool | None = None
    ends_with_eos: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """What each id stands for. leading_space: encoding puts a space before a text, which decoding takes away."""

    bytes_by_id: Mapping[int, bytes]
    leading_space: bool

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Vocabulary:
        """Byte-level vocabularies, and those that write a space as ▁ and rare bytes as <0xNN>.

        Raises ValueError for another kind, whose tokens do not say which bytes they are.
        """
        said = json.loads(backend.to_str())
        kinds = {part["type"]: part for part in _parts(said.get("decoder"))}
        added = {token["id"] for token in said.get("added_tokens", [])}
        vocab = backend.get_vocab(with_added_tokens=True)
        if "ByteLevel" in kinds:
            byte_of = {char: byte for byte, char in byte_alphabet().items()}
            table = {}
            for token, i in vocab.items():
                strange = None if i in added else next((char for char in token if char not in byte_of), None)
                if strange is not None:
                    raise ValueError(f"token {i} is {token!r}: in a byte-level vocabulary {strange!r} is no byte")
                table[i] = token.encode() if i in added else bytes(byte_of[char] for char in token)
            return cls(table, leading_space=False)
        if kinds.keys() & {"Metaspace", "ByteFallback"}:
            byte_tokens = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
            table = {i: byte_tokens.get(token, token.replace("▁", " ").encode()) for token, i in vocab.items()}
            table |= {i: token.encode() for token, i in vocab.items() if i in added}
            metaspace = kinds.get("Metaspace", {"prepend_scheme": "never"})
            return cls(table, "Strip" in kinds or metaspace.get("prepend_scheme", "always") != "never")
        kind = (said.get("model") or {}).get("type")
        raise ValueError(f"a tokenizer of the kind {kind!r} with a decoder {sorted(kinds)}: takes byte-level BPE or ▁")


def _parts(component: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A decoder and what it is a sequence of."""
    if component is None:
        return []
    inner = component.get("decoders", [])
    return [component, *(part for one in inner for part in _parts(one))]


def read_conventions(folder: Path, backend: tokenizers.Tokenizer) -> Conventions:
    """Special tokens and chat template of a folder in Hugging Face's layout.

    Read are tokenizer_config.json, special_tokens_map.json, chat_template.jinja and chat_template.json, and what ends
    a generation from generation_config.json, else config.json; where no file names the end of a text, it is the first
    of those. Raises ValueError without one.
    """
    config, names = _json_beside(folder, "tokenizer_config.json"), _json_beside(folder, "special_tokens_map.json")
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name) or names.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str) and text:
            tokens[name] = text
    ends = _ends(folder, backend)
    if "eos_token" not in tokens and ends:
        tokens["eos_token"] = ends[0]
    if "eos_token" not in tokens:
        raise ValueError(f"{folder}: no file there names an eos_token, which ends a text")
    template = folder / "chat_template.jinja"
    chat: Any = config.get("chat_template") or _json_beside(folder, "chat_template.json").get("chat_template") or ""
    if template.is_file():
        chat = template.read_text(encoding="utf-8")
    if isinstance(chat, list):  # several by name
        chat = next((one["template"] for one in chat if one.get("name") == "default"), "")
    size = config.get("vocab_size")
    others = tuple(end for end in ends if end != tokens["eos_token"])
    bos, eos = config.get("add_bos_token"), config.get("add_eos_token")
    begins = None if bos is None and eos is None else bool(bos)
    return Conventions(tokens, chat, size if isinstance(size, int) else 0, others, begins, bool(eos))


def _ends(folder: Path, backend: tokenizers.Tokenizer) -> list[str]:
    for name in ("generation_config.json", "config.json"):
        found = _json_beside(folder, name).get("eos_token_id")
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(type(one) is int and one >= 0 for one in ids):
            raise ValueError(f"{folder / name}: eos_token_id is {found!r}: takes a token id or a list of them")
        return [text for one in ids if (text := backend.id_to_token(one)) is not None]
    return []


def _json_beside(folder: Path, name: str) -> Mapping[str, Any]:
    file = folder / name
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{file}: takes a JSON object, found a {type(found).__name__}")
    return found


def byte_alphabet() -> dict[int, str]:
    """GPT-2's reversible map from bytes to printable characters (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(256 + n) for n, byte in enumerate(others)}
