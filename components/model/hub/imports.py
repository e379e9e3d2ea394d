"""One way in for every source: configuration, weights, tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.hub.architectures import architecture_in
from components.model.hub.errors import UnsupportedModel
from components.model.hub.fields import Fields
from components.model.hub.folder import CONFIG, import_folder, read_folder_config, read_json, shortened
from components.model.hub.gguf_file import gguf_architecture, import_gguf, read_gguf_config
from components.model.hub.gguf_format import GGUFFile
from components.model.hub.gguf_tokenizer import read_gguf_tokenizer
from components.model.hub.layout import Names
from components.model.hub.peft_adapter import kept_adapter, merge_adapter, read_adapter
from components.model.hub.source import Source
from components.model.transformer import Transformer


def read_config(source: Source, context_length: int = 0) -> ModelConfig:
    """The configuration alone of what `import_model` gives. Raises UnsupportedModel."""
    raw = read_gguf_config(GGUFFile(source.path)) if source.is_gguf else read_folder_config(source.path)
    return shortened(raw, context_length)


def import_model(
    source: Source, dtype: torch.dtype = torch.float32, context_length: int = 0, adapter: Path | None = None
) -> Transformer:
    """The model of a source, in eval mode, with weights of `dtype`.

    context_length: cut the model's own to this many tokens (0, or more than it has: as it is), so that nothing is
    sized for contexts that nobody asks for. adapter: folder of a LoRA adapter, which is merged into the weights.
    Raises UnsupportedModel.
    """
    if source.is_gguf:
        file = GGUFFile(source.path)
        model = import_gguf(file, shortened(read_gguf_config(file), context_length), dtype)
    else:
        model = import_folder(source.path, dtype, context_length)
    if adapter is not None:
        merge_adapter(read_adapter(adapter), model.cfg, _names(source), model.state_dict())
    return model


def import_adapter(source: Source, adapter: Path, model: Transformer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A LoRA adapter apart from its base, as `components.training.lora.attach_lora` takes it. model: what
    `import_model` gives for the source. Raises UnsupportedModel."""
    return kept_adapter(read_adapter(adapter), model.cfg, _names(source), model.state_dict())


def _names(source: Source) -> Names:
    """Of the weights of a source that adapters of it go by."""
    if source.is_gguf:
        return gguf_architecture(GGUFFile(source.path)).names
    where = source.path / CONFIG
    return architecture_in(Fields(read_json(where), str(where))).names


def import_tokenizer(source: Source, vocab_size: int = 0) -> Tokenizer:
    """The tokenizer of a source with its chat template. vocab_size: of the model, where that is known (0: as its
    configuration says). Raises UnsupportedModel, also where an id has no embedding."""
    try:
        if source.is_gguf:
            file = GGUFFile(source.path)
            size = read_gguf_config(file).vocab_size
            tokenizer = Tokenizer(*read_gguf_tokenizer(file, size))
        else:
            size = vocab_size or read_folder_config(source.path).vocab_size
            tokenizer = _of_folder(source, size)
        if tokenizer.vocab_size > size:
            last = tokenizer.token(tokenizer.vocab_size - 1)
            raise ValueError(
                f"the tokenizer's last id is {tokenizer.vocab_size - 1} ({last!r}), but the model has {size} embeddings"
            )
        _check_template(tokenizer)
        _ = tokenizer.byte_lengths  # a kind whose tokens are no bytes is refused now, not in the middle of a run
    except UnsupportedModel:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UnsupportedModel(f"{source.path}: {error}") from error
    return tokenizer


def _check_template(tokenizer: Tokenizer) -> None:
    """Raises ValueError for a chat template that renders not even one question, with or without a system turn."""
    question = {"role": "user", "content": "?"}
    try:
        tokenizer.render_chat([question], add_generation_prompt=True)
    except ValueError as error:
        try:
            tokenizer.render_chat([{"role": "system", "content": "?"}, question], add_generation_prompt=True)
        except ValueError:
            advice = "mend chat_template, or remove it for a plain one"
            raise ValueError(f"{error}, which was one question of a user: {advice}") from None


def _of_folder(source: Source, vocab_size: int) -> Tokenizer:
    if not (source.path / "tokenizer.json").is_file():
        old = sorted(file.name for file in source.path.glob("tokenizer.model"))
        hint = f" ({old[0]} alone is not read: save the tokenizer with transformers once)" if old else ""
        raise UnsupportedModel(f"{source.path}: no tokenizer.json{hint}")
    tokenizer = Tokenizer.load(source.path)
    if tokenizer.conventions is None:
        return tokenizer
    return Tokenizer(tokenizer.backend, dataclasses.replace(tokenizer.conventions, vocab_size=vocab_size))
