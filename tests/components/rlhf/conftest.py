"""The same weights as a model of ours and as one of transformers, for the tests that compare with TRL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.hub.layout import LLAMA_NAMES
from components.model.hub.weights import gathered
from components.model.transformer import Transformer

PAD = 23
PEER = ModelConfig(
    vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=64, qk_norm=False, tie_embeddings=False
)


@pytest.fixture
def peer(tmp_path: Path) -> Callable[[int], tuple[Transformer, Path]]:
    """By seed: a model of ours whose choices differ, and a folder that transformers reads it from."""

    def made(seed: int) -> tuple[Transformer, Path]:
        model, folder = Transformer(PEER, seed=seed), tmp_path / f"peer-{seed}"
        # Embeddings near 1: behind a norm, those near 0 have gradients so large that rounding shows in the comparison.
        model.embedding.weight.data.mul_(40)
        # All hidden states share a direction that speaks against the padding token: it is never sampled.
        assert model.unembedding is not None
        model.embedding.weight.data[:, 0] = 3.0
        model.unembedding.weight.data[PAD] = 0.0
        model.unembedding.weight.data[PAD, 0] = -20.0
        folder.mkdir()
        export_folder(folder, PEER, model.state_dict())
        return model, folder

    return made


@pytest.fixture
def in_our_names() -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Tensors of a causal model of transformers (weights or gradients) under the names of ours."""

    def renamed(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return gathered(PEER, LLAMA_NAMES, set(theirs), lambda name: theirs[name], "transformers", torch.float32)

    return renamed


@pytest.fixture
def words() -> Any:
    """A tokenizer of transformers with a token a number; 0 ends, 23 pads."""
    transformers = pytest.importorskip("transformers", reason="make peers installs what is compared with")
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({str(i): i for i in range(PEER.vocab_size)}, unk_token="1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="0", pad_token=str(PAD), padding_side="left"
    )
