"""A folder in the layout of Hugging Face as a model of ours, and a model of ours as such a folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.model.config import ModelConfig
from components.model.hub.architectures import architecture_in
from components.model.hub.config_file import architecture_for, read_config, write_config
from components.model.hub.errors import UnsupportedModel
from components.model.hub.fields import Fields
from components.model.hub.layout import names_in
from components.model.hub.weights import SINGLE, SafetensorsFolder, gathered, scattered
from components.model.skeleton import filled
from components.model.transformer import Transformer

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer

CONFIG = "config.json"
LONGEST = 1 << 24  # tokens of context
# Tables that old files carry along although they are computed.
COMPUTED = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; UnsupportedModel names a file that holds anything else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnsupportedModel(f"{file}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{file}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{file}: takes a JSON object, found a {type(found).__name__}")
    return found


def read_folder_config(folder: Path) -> ModelConfig:
    """Our configuration of a folder's `config.json`."""
    return read_config(read_json(folder / CONFIG), str(folder / CONFIG))


def shortened(cfg: ModelConfig, context_length: int) -> ModelConfig:
    """The same model with a context of at most `context_length` tokens (0: as it is).

    Raises UnsupportedModel for a context whose table of rotary positions would take gigabytes.
    """
    most = min(cfg.context_length, context_length or cfg.context_length)
    if most > LONGEST:
        raise UnsupportedModel(
            f"the context_length is {most:,} tokens, of which at most {LONGEST:,} are read: give a smaller one "
            "(`--context-length`, or context_length in [base]), or check whether the file is damaged"
        )
    return dataclasses.replace(cfg, context_length=most)


def import_folder(folder: Path, dtype: torch.dtype = torch.float32, context_length: int = 0) -> Transformer:
    """The model of a folder, in eval mode, with weights of `dtype` and a context of at most `context_length` tokens
    (0: its own). Raises UnsupportedModel."""
    raw = read_json(folder / CONFIG)
    cfg = shortened(read_config(raw, str(folder / CONFIG)), context_length)
    with SafetensorsFolder(folder) as files:
        found = {name for name in files.names if not name.endswith(COMPUTED)}
        names = names_in(found, architecture_in(Fields(raw, str(folder / CONFIG))).names)
        embedding, unembedding = names.top["embedding.weight"], names.top["unembedding.weight"]
        if cfg.tie_embeddings and unembedding in found:
            found.remove(unembedding)
            if embedding in found and not torch.equal(files.read(unembedding), files.read(embedding)):
                raise UnsupportedModel(
                    f"{folder}: tie_word_embeddings is true, yet {unembedding} is not {embedding}: "
                    "say false in config.json if both are meant"
                )
        return filled(cfg, gathered(cfg, names, found, files.read, str(folder), dtype))


def export_folder(
    folder: Path, cfg: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None = None
) -> None:
    """Write a model of ours into an empty folder: `config.json`, `generation_config.json`, `model.safetensors`, and
    the tokenizer with its chat template.

    tensors: its state dict; they are written as they are, without a copy. Raises UnsupportedModel before anything is
    written.
    """
    arch = architecture_for(cfg, None if tokenizer is None else _patterns(tokenizer))
    raw = write_config(cfg, arch)
    public = scattered(cfg, arch.names, tensors)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in public.values()}
    raw["dtype"] = kinds.pop() if len(kinds) == 1 else "float32"
    generation: dict[str, Any] = {"_from_model_config": False}
    if tokenizer is not None:
        ends = list(dict.fromkeys((tokenizer.end_id, tokenizer.eos_id, *sorted(tokenizer.stop_ids))))
        generation |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_id}
        raw |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        tokenizer.save(folder)
    save_file(dict(public), folder / SINGLE, metadata={"format": "pt"})
    for name, content in ((CONFIG, raw), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _patterns(tokenizer: Tokenizer) -> frozenset[str]:
    """The regular expressions by which a tokenizer cuts text before it merges."""
    cut = json.loads(tokenizer.backend.to_str()).get("pre_tokenizer") or {}
    found = (part.get("pattern", {}).get("Regex") for part in cut.get("pretokenizers", [cut]))
    return frozenset(pattern for pattern in found if pattern)
