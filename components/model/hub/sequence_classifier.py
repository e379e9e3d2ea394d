"""A public sequence-classification model with one label, as reward models are published: a decoder with a row
`score.weight` [1, D] in the place of the unembedding (transformers, `GenericForSequenceClassification`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.model.hub.architectures import architecture_in
from components.model.hub.config_file import OURS, read_config
from components.model.hub.errors import UnsupportedModel
from components.model.hub.fields import Fields
from components.model.hub.folder import COMPUTED, CONFIG, read_json, shortened
from components.model.hub.layout import names_in
from components.model.hub.source import Source
from components.model.hub.weights import SafetensorsFolder, gathered
from components.model.skeleton import filled
from components.model.transformer import Transformer

SCORE = "score.weight"
_KIND, _DECODER = "ForSequenceClassification", "ForCausalLM"


@dataclass(frozen=True)
class SequenceClassifier:
    """score = head [1, D] · the trunk's hidden state of the last token that is not padding. The trunk's unembedding has
    no meaning. pad_id: None where every token counts."""

    trunk: Transformer
    head: Tensor
    pad_id: int | None


def import_classifier(
    source: Source, dtype: torch.dtype = torch.float32, context_length: int = 0
) -> SequenceClassifier:
    """The model of a folder, in eval mode, with weights of `dtype` and a context of at most `context_length` tokens (0:
    its own). Raises UnsupportedModel for what is no such model, naming the field or tensor."""
    if source.is_gguf:
        raise UnsupportedModel(f"{source.path}: takes a folder with config.json and safetensors: GGUF has no such head")
    folder, where = source.path, str(source.path / CONFIG)
    fields = Fields(read_json(folder / CONFIG), where)
    decoder = Fields(_of_decoder(fields), where)
    cfg = shortened(read_config(decoder.raw, where), context_length)
    with SafetensorsFolder(folder) as files:
        found = {name for name in files.names if not name.endswith(COMPUTED)}
        if SCORE not in found:
            raise UnsupportedModel(f"{folder}: the tensor {SCORE} is missing")
        head = files.read(SCORE).to(dtype)
        if head.shape != (1, cfg.d_model):
            raise UnsupportedModel(f"{folder}: {SCORE} has the shape {list(head.shape)}: takes [1, {cfg.d_model}]")
        names = names_in(found, architecture_in(decoder).names)
        # A causal model's own unembedding, which some folders carry along; no score depends on it.
        found -= {SCORE, names.top["unembedding.weight"]}
        trunk = filled(cfg, gathered(cfg, names, found, files.read, str(folder), dtype))
    pad_id = fields.raw.get("pad_token_id")
    return SequenceClassifier(trunk, head.clone(), None if pad_id is None else fields.whole("pad_token_id", least=0))


def _of_decoder(fields: Fields) -> dict[str, Any]:
    """The `config.json` of the same decoder as a causal model, which needs no unembedding of its own."""
    names = fields.listed("architectures", str)
    if not names or not all(name.endswith(_KIND) for name in names):
        raise fields.refuse("architectures", names, f"takes a model such as Llama{_KIND}")
    labels = fields.raw.get("id2label")
    if fields.raw.get("num_labels") not in (None, 1):
        raise fields.refuse("num_labels", fields.raw["num_labels"], "a reward is 1 label")
    if labels is not None and (not isinstance(labels, dict) or len(labels) != 1):
        raise fields.refuse("id2label", labels, "a reward is 1 label")
    raw = {name: value for name, value in fields.raw.items() if name != OURS}
    return raw | {"architectures": [name.replace(_KIND, _DECODER) for name in names], "tie_word_embeddings": True}
