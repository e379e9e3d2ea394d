"""An architecture that is added: one record in the list of `components/model/hub/architectures.py`, no other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.model.config import ModelConfig, MoEConfig
from components.model.hub import architectures
from components.model.hub.architectures import Architecture, GGUFNames
from components.model.hub.errors import UnsupportedModel
from components.model.hub.folder import export_folder
from components.model.hub.imports import import_model
from components.model.hub.layout import LLAMA_NAMES, Names
from components.model.hub.source import Source
from components.model.transformer import Transformer


def renamed(name: str) -> str:
    return name.replace("model.layers.", "tiny.h.").replace("self_attn", "attn").replace("model.", "tiny.")


TINY = Architecture(
    "tiny",
    "TinyForCausalLM",
    names=Names(
        {part: renamed(name) for part, name in LLAMA_NAMES.layer.items()},
        {part: renamed(name) for part, name in LLAMA_NAMES.top.items()},
        LLAMA_NAMES.router,
        LLAMA_NAMES.experts,
    ),
    rope_theta=500.0,
    neutral={"tiny_gate": (None, False)},
    gguf=GGUFNames("tiny"),
)
CFG = ModelConfig(vocab_size=61, d_model=16, num_layers=2, num_heads=2, qk_norm=False, rope_theta=500.0)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "ARCHITECTURES", (TINY, *architectures.ARCHITECTURES))


def test_it_is_written_under_its_own_names_and_read_again(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = Transformer(CFG, 1).eval()
    export_folder(tmp_path, CFG, model.state_dict())
    raw = json.loads((tmp_path / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("tiny", ["TinyForCausalLM"])
    stored = load_file(tmp_path / "model.safetensors")
    assert "tiny.h.1.attn.q_proj.weight" in stored and not any(name.startswith("model.") for name in stored)
    back = import_model(Source(tmp_path))
    assert torch.equal(back(tokens), model(tokens))


def test_a_folder_of_somebody_else_is_read(tmp_path: Path, tokens: torch.Tensor) -> None:
    """As another program writes it: without our own settings, defaults left out, by its class alone."""
    model = Transformer(CFG, 2).eval()
    export_folder(tmp_path, CFG, model.state_dict())
    raw = json.loads((tmp_path / "config.json").read_text())
    for name in ("lifespan", "model_type", "rope_theta", "rope_parameters", "num_key_value_heads", "head_dim"):
        del raw[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert torch.equal(import_model(Source(tmp_path))(tokens), model(tokens))
    (tmp_path / "config.json").write_text(json.dumps({**raw, "tiny_gate": True}))
    with pytest.raises(UnsupportedModel, match="tiny_gate is True: the tiny layout is read with False alone"):
        import_model(Source(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file(
        {
            name: tensor
            for name, tensor in load_file(tmp_path / "model.safetensors").items()
            if name != "tiny.norm.weight"
        },
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UnsupportedModel, match=r"the tensor tiny\.norm\.weight is missing"):
        import_model(Source(tmp_path))


def test_what_it_does_not_hold_goes_to_another_layout(tmp_path: Path) -> None:
    others = {
        "qwen3": ModelConfig(vocab_size=61, d_model=16, num_layers=1),
        "mistral": ModelConfig(vocab_size=61, d_model=16, num_layers=1, qk_norm=False, sliding_window=4),
        "mixtral": ModelConfig(
            vocab_size=61, d_model=16, num_layers=1, qk_norm=False, moe=MoEConfig(2, 1, 8, normalize_top_k=True)
        ),
    }
    for model_type, cfg in others.items():
        (tmp_path / model_type).mkdir()
        export_folder(tmp_path / model_type, cfg, Transformer(cfg, 0).state_dict())
        assert json.loads((tmp_path / model_type / "config.json").read_text())["model_type"] == model_type


def test_its_gguf_files_are_read(tmp_path: Path, write_gguf: Callable[..., Path], tokens: torch.Tensor) -> None:
    model = Transformer(CFG, 3).eval()
    back = import_model(Source(write_gguf(tmp_path / "tiny.gguf", model, "tiny")))
    assert torch.equal(back(tokens), model(tokens))
