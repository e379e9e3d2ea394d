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
from components.model.hub.architectures import model_type_in, model_type_of, read_config, write_config
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_tokenizer import QWEN_PATTERN
from components.model.hub.layout import names_in, names_of
from components.model.hub.weights import SINGLE, SafetensorsFolder, gathered, scattered
from components.model.skeleton import filled
from components.model.transformer import Transformer

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer

CONFIG = "config.json"
LONGEST = 1 << 24  # tokens of context
# Tables that old files carry along although they are computed.
_COMPUTED = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; UnsupportedModel names the file that is none."""
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
    """The same model with a context of at most so many tokens (0: as it is).

    Raises UnsupportedModel for a context whose table of rotary positions would take gigabytes.
    """
    most = min(cfg.context_length, context_length or cfg.context_length)
    if most > LONGEST:
        raise UnsupportedModel(
            f"the context_length is {most:,} tokens, of which at most {LONGEST:,} are read: give a smaller one "
            "(`--context-length`, or context_length in [base]), or look whether the file is damaged"
        )
    return dataclasses.replace(cfg, context_length=most)


def import_folder(folder: Path, dtype: torch.dtype = torch.float32, context_length: int = 0) -> Transformer:
    """The model of a folder, in eval mode, with weights of `dtype` and a context of at most `context_length` tokens
    (0: its own). Raises UnsupportedModel."""
    raw = read_json(folder / CONFIG)
    cfg = shortened(read_config(raw, str(folder / CONFIG)), context_length)
    with SafetensorsFolder(folder) as files:
        found = {name for name in files.names if not name.endswith(_COMPUTED)}
        if cfg.tie_embeddings and "lm_head.weight" in found:
            found.remove("lm_head.weight")
            if not torch.equal(files.read("lm_head.weight"), files.read("model.embed_tokens.weight")):
                raise UnsupportedModel(
                    f"{folder}: tie_word_embeddings is true, yet lm_head.weight is not model.embed_tokens.weight: "
                    "say false in config.json if both are meant"
                )
        names = names_in(found, model_type_in(raw))
        return filled(cfg, gathered(cfg, names, found, files.read, str(folder), dtype))


def export_folder(
    folder: Path, cfg: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None = None
) -> None:
    """Write a model of ours into an empty folder: `config.json`, `generation_config.json`, `model.safetensors`, and
    the tokenizer with its chat template.

    tensors: its state dict; they are written as they are, without a copy. Raises UnsupportedModel before anything is
    written.
    """
    kind = model_type_of(cfg)
    if kind == "qwen2" and tokenizer is not None and not _cuts_like_qwen(tokenizer):
        # transformers reads the tokenizer of a `qwen2` folder as Qwen's, whatever the folder says (5.23)
        kind = "qwen2_moe"
    raw = write_config(cfg, kind)
    public = scattered(cfg, names_of(raw["model_type"]), tensors)
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


def _cuts_like_qwen(tokenizer: Tokenizer) -> bool:
    cut = json.loads(tokenizer.backend.to_str()).get("pre_tokenizer") or {}
    return any(part.get("pattern", {}).get("Regex") == QWEN_PATTERN for part in cut.get("pretokenizers", [cut]))
