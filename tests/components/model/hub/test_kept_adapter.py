"""An adapter that is kept apart from its base: merged for whoever reads the model, and the start of a training."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.model.config import ModelConfig, MoEConfig
from components.model.hub.config_file import architecture_for
from components.model.hub.errors import UnsupportedModel
from components.model.hub.folder import export_folder
from components.model.hub.imports import import_adapter, import_model
from components.model.hub.peft_adapter import export_adapter, kept_adapter, read_adapter
from components.model.hub.source import BaseConfig, Source
from components.model.transformer import Transformer
from components.rlhf.dpo import DPOState, dpo
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.pairs import TokenPair
from components.training.checkpoints import (
    BASE,
    WEIGHTS,
    load_adapted,
    load_model,
    load_tensors,
    save_model,
    save_trained,
)
from components.training.config import LoRAConfig, OptimizerConfig
from components.training.lora import ADAPTERS, adapters, attach_lora, load_lora

CFG = ModelConfig(
    vocab_size=61, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, context_length=64, qk_norm=False,
    tie_embeddings=False,
)  # fmt: skip
X = torch.arange(40)[None] % 61
LORA = LoRAConfig(rank=7, targets=("mlp.down",))


def peft(folder: Path, like_ours: bool, seed: int = 2) -> Path:
    """An adapter of rank 4 on every map, as PEFT writes one: with an A of its own for each map, or as ours have it."""
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for name, weight in Transformer(CFG, 1).state_dict().items():
        if ".attention." in name or ".mlp." in name:
            stem = name.removesuffix(".weight")
            tensors[f"{stem}.lora_a"] = torch.randn(4, weight.shape[1], generator=draw) / 6
            tensors[f"{stem}.lora_b"] = torch.randn(weight.shape[0], 4, generator=draw) / 6
            alphas[stem] = 6.0
    folder.mkdir()
    export_adapter(folder, CFG, architecture_for(CFG).names, tensors, alphas)
    if not like_ours:
        file = folder / "adapter_model.safetensors"
        theirs = {
            name: torch.randn(x.shape, generator=draw) / 6 if "lora_A" in name else x
            for name, x in load_file(file).items()
        }
        save_file(theirs, file)
    return folder


def imported(tmp_path: Path, like_ours: bool) -> tuple[Path, Transformer]:
    """The folder of a model with a kept adapter, and the same model merged."""
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    export_folder(base, CFG, Transformer(CFG, 1).state_dict())
    adapter = peft(tmp_path / "adapter", like_ours)
    model = import_model(Source(base))
    attach_lora(model, *import_adapter(Source(base), adapter, model))
    save_model(out, model)
    return out, import_model(Source(base), adapter=adapter)


@pytest.mark.parametrize("like_ours", [True, False])
def test_it_reads_as_the_merged_model_and_goes_out_as_the_adapter_that_came_in(like_ours: bool, tmp_path: Path) -> None:
    folder, merged = imported(tmp_path, like_ours)
    assert (folder / BASE).exists() and not (folder / WEIGHTS).exists()
    with torch.no_grad():
        for model in (load_model(folder), load_adapted(folder)):
            torch.testing.assert_close(model(X), merged(X), rtol=1e-5, atol=1e-5)
        assert (load_model(folder)(X) - Transformer(CFG, 1)(X)).abs().max() > 0.05
    assert not adapters(load_model(folder)) and load_tensors(folder).keys() == merged.state_dict().keys()
    ranks = {name.rpartition(".")[2]: len(module.lora_a) for name, module in adapters(load_adapted(folder)).items()}
    assert ranks == {"qkv": 4, "out": 4, "gate_up": 4, "down": 4} | ({} if like_ours else {"qkv": 12, "gate_up": 8})

    again = tmp_path / "again"
    again.mkdir()
    export_adapter(again, CFG, architecture_for(CFG).names, *load_lora(folder / ADAPTERS))
    first, second = read_adapter(tmp_path / "adapter"), read_adapter(again)
    assert first.maps.keys() == second.maps.keys()
    for name, (a, b, scale) in first.maps.items():
        found_a, found_b, found_scale = second.maps[name]
        torch.testing.assert_close(found_scale * found_b @ found_a, scale * b @ a, rtol=1e-5, atol=1e-6)
        if like_ours:
            assert torch.equal(a, found_a) and torch.equal(b, found_b) and scale == found_scale


def test_training_goes_on_from_it_and_leaves_an_adapter_of_the_same_base(tmp_path: Path) -> None:
    folder, merged = imported(tmp_path, like_ours=False)
    reference = load_adapted(folder)
    frozen = copy.deepcopy(reference)
    config = DPOConfig(epochs=3, batch_pairs=2, lora=LORA, optimizer=OptimizerConfig(muon_lr=0.0, adamw_lr=1e-2))
    state = DPOState.start(reference, config, 3)
    # The adapters that are there go on, whatever new ones would have been like; the reference has copies of its own.
    assert {name: len(m.lora_a) for name, m in adapters(state.policy).items()} == {
        name: len(m.lora_a) for name, m in adapters(frozen).items()
    }
    pairs = [TokenPair((1, 2, 7, 0), (1, 2, 9, 0), num_prompt=2), TokenPair((5, 7, 0), (5, 9, 0), num_prompt=1)]
    records = list(dpo(state, reference, pairs, config, 3))
    assert records[0]["rewards/margin"] == 0.0 and records[-1]["rewards/margin"] > 0.0
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), frozen.parameters(), strict=True))

    out, public = tmp_path / "trained", tmp_path / "public"
    out.mkdir()
    public.mkdir()
    save_trained(out, state.policy, reference)
    assert torch.equal(load_file(out / BASE)["blocks.0.mlp.down.weight"], Transformer(CFG, 1).blocks[0].mlp.down.weight)
    export_adapter(public, CFG, architecture_for(CFG).names, *load_lora(out / ADAPTERS))
    with torch.no_grad():
        back = import_model(Source(tmp_path / "base"), adapter=public)
        torch.testing.assert_close(back(X), state.policy(X), rtol=1e-4, atol=1e-4)
        assert (back(X) - merged(X)).abs().max() > 1e-3


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    cfg = dataclasses.replace(CFG, qk_norm=True, moe=MoEConfig(num_experts=2, top_k_experts=1, d_ff=16))
    a, b = torch.zeros(4, 32), torch.zeros(16, 4)
    stem = "base_model.model.model.layers.0.mlp.experts.1.up_proj"
    adapter = peft(tmp_path / "adapter", like_ours=True)
    save_file({f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"experts\.1\.up_proj is an expert's, whose adapter cannot be kept"):
        kept_adapter(read_adapter(adapter), cfg, architecture_for(cfg).names, Transformer(cfg, 1).state_dict())
    with pytest.raises(ValueError, match="keep_adapter is true, and there is no adapter"):
        BaseConfig("x", keep_adapter=True)
    folder, _ = (
        imported(tmp_path / "whole", like_ours=True) if (tmp_path / "whole").mkdir() is None else (tmp_path, None)
    )
    (folder / ADAPTERS).unlink()
    with pytest.raises(ValueError, match=r"base.safetensors does not fit"):
        load_model(folder)


@pytest.mark.slow
def test_peft_reads_maps_of_several_ranks_as_they_are(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    library = pytest.importorskip("peft", reason="the extra `peers` brings peft")
    folder, merged = imported(tmp_path, like_ours=False)
    public = tmp_path / "public"
    public.mkdir()
    export_adapter(public, CFG, architecture_for(CFG).names, *load_lora(folder / ADAPTERS))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    reference = library.PeftModel.from_pretrained(plain, public).eval()
    with torch.no_grad():
        assert (reference(X).logits - merged(X)).abs().max() <= 1e-4
