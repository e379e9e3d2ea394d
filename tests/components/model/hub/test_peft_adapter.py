"""LoRA adapters in PEFT's layout, both ways; PEFT itself is the judge."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.model.config import ModelConfig
from components.model.hub.config_file import architecture_for
from components.model.hub.errors import UnsupportedModel
from components.model.hub.folder import export_folder
from components.model.hub.imports import import_model
from components.model.hub.layout import LLAMA_NAMES
from components.model.hub.peft_adapter import export_adapter, merge_adapter, read_adapter
from components.model.hub.source import BaseConfig, Source, digests, locate
from components.model.transformer import Transformer
from components.training.config import LoRAConfig
from components.training.lora import LoRALinear, add_lora, load_lora, merge_lora, save_lora

CFG = ModelConfig(
    vocab_size=61, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, context_length=64, qk_norm=False,
    tie_embeddings=False,
)  # fmt: skip
LORA = LoRAConfig(rank=4, alpha=6.0)


def adapted(cfg: ModelConfig = CFG, config: LoRAConfig = LORA) -> Transformer:
    model = Transformer(cfg, 1).eval()
    add_lora(model, config, 3)
    draw = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_b.data.normal_(0, 0.2, generator=draw)
    return model


def exported(folder: Path, model: Transformer) -> Path:
    save_lora(folder / "ours.safetensors", model)
    adapters, alphas = load_lora(folder / "ours.safetensors")
    out = folder / "adapter"
    out.mkdir()
    export_adapter(out, model.cfg, architecture_for(model.cfg).names, adapters, alphas, "base")
    return out


def base_folder(folder: Path, cfg: ModelConfig = CFG) -> Path:
    folder.mkdir()
    export_folder(folder, cfg, Transformer(cfg, 1).state_dict())
    return folder


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"attention_bias": True}, {"nope_layers": (1,)}])
def test_an_adapter_goes_out_and_comes_back_as_the_same_model(changes: dict[str, Any], tmp_path: Path) -> None:
    cfg = dataclasses.replace(CFG, **changes)
    model, base = adapted(cfg), base_folder(tmp_path / "base", cfg)
    adapter = exported(tmp_path, model)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 6.0, "base")
    back = import_model(Source(base), adapter=adapter)
    plain = import_model(Source(base))
    merge_lora(model)
    x = torch.arange(40)[None] % 61
    with torch.no_grad():
        torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)
        assert (back(x) - plain(x)).abs().max() > 0.05


def test_a_part_of_the_maps_is_a_part_of_the_adapter(tmp_path: Path) -> None:
    config = LoRAConfig(rank=2, targets=("mlp.down",))
    adapter = exported(tmp_path, adapted(config=config))
    assert json.loads((adapter / "adapter_config.json").read_text())["target_modules"] == ["down_proj"]
    assert len(load_file(adapter / "adapter_model.safetensors")) == 2 * 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA': takes LORA"),
        ({"use_dora": True}, "use_dora is True: only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"some_new_method": {"a": 1}}, "some_new_method is"),
        ({"r": 8}, "r is 8: model.layers.0.mlp.down_proj has the rank 4"),
        ({"rank_pattern": {"q_proj": 16}}, "r is 16: .*q_proj has the rank 4"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    adapter = exported(tmp_path, adapted())
    raw = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(raw | changes))
    with pytest.raises(UnsupportedModel, match=named):
        read_adapter(adapter)


def test_tensors_that_fit_no_map_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    adapter = exported(tmp_path, adapted())
    file = adapter / "adapter_model.safetensors"
    tensors, model = load_file(file), Transformer(CFG, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stem = "base_model.model.model.layers.1.mlp.up_proj"
    other = "base_model.model.model.layers.7.mlp.up_proj"
    wide = torch.zeros(4, 48)
    damage = {
        "model.layers.7.mlp.up_proj is no linear map": {f"{other}.lora_A.weight": torch.zeros(4, 32),
                                                        f"{other}.lora_B.weight": torch.zeros(48, 4)},
        "48 x 48, the base model's map 48 x 32": {f"{stem}.lora_A.weight": wide},
    }  # fmt: skip
    for named, changed in damage.items():
        save_file({**tensors, **changed}, file)
        with pytest.raises(UnsupportedModel, match=named):
            merge_adapter(read_adapter(adapter), CFG, LLAMA_NAMES, model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name in ("base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.lora_embedding_A"):
        save_file({**tensors, name: torch.zeros(2, 2)}, file)
        with pytest.raises(UnsupportedModel, match="no part of a plain LoRA"):
            read_adapter(adapter)
    save_file({name: tensor for name, tensor in tensors.items() if name != f"{stem}.lora_B.weight"}, file)
    with pytest.raises(UnsupportedModel, match="only one of lora_A and lora_B"):
        read_adapter(adapter)


def test_an_adapter_is_told_from_a_model_and_is_a_part_of_its_identity(tmp_path: Path) -> None:
    base, adapter = base_folder(tmp_path / "base"), exported(tmp_path, adapted())
    with pytest.raises(UnsupportedModel, match="a LoRA adapter; give its base"):
        locate(str(adapter))
    found = digests(BaseConfig(str(base), adapter=str(adapter)))
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= set(found)
    with pytest.raises(UnsupportedModel, match="no such folder"):
        digests(BaseConfig(str(base), adapter=str(tmp_path / "none")))
    with pytest.raises(UnsupportedModel, match="no adapter in the layout of PEFT: it has no adapter_config"):
        read_adapter(base)
    with pytest.raises(ValueError, match="name the model that it belongs to"):
        BaseConfig(adapter="x")


# -- PEFT as the judge ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"nope_layers": (1,)}])
def test_peft_loads_what_is_exported(changes: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    peft = pytest.importorskip("peft", reason="the extra `peers` brings peft")
    cfg = dataclasses.replace(CFG, **changes)
    model, base = adapted(cfg), base_folder(tmp_path / "base", cfg)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    reference = peft.PeftModel.from_pretrained(plain, exported(tmp_path, model)).eval()
    x = torch.arange(40)[None] % 61
    with torch.no_grad():
        assert (reference(x).logits - model(x)).abs().max() <= 1e-4
    prompt = {"input_ids": x[:, :8], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    said = reference.generate(**prompt, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0)
    merge_lora(model)
    tokens = x[:, :8]
    with torch.no_grad():
        for _ in range(20):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    assert tokens.tolist() == said.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["o_proj", "down_proj"],
            "rank_pattern": {"o_proj": 6},
            "alpha_pattern": {"1.*down_proj": 3},
        },
        {"target_modules": ["gate_up_proj", "qkv_proj"], "layers_to_transform": [1]},
    ],
)
def test_adapters_of_peft_are_merged_as_peft_merges_them(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    peft = pytest.importorskip("peft", reason="the extra `peers` brings peft")
    torch.manual_seed(0)
    kind = transformers.Phi3Config if "qkv_proj" in options["target_modules"] else transformers.LlamaConfig
    base = kind(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    plain = transformers.AutoModelForCausalLM.from_config(base).eval()
    plain.save_pretrained(tmp_path / "base")
    options = {"r": 4, "lora_alpha": 10, "init_lora_weights": False, "task_type": "CAUSAL_LM", **options}
    reference = peft.get_peft_model(plain, peft.LoraConfig(**options)).eval()
    reference.save_pretrained(tmp_path / "adapter")
    found = import_model(Source(tmp_path / "base"), adapter=tmp_path / "adapter")
    x = torch.arange(40)[None] % 61
    with torch.no_grad():
        expected = reference(x).logits
        assert (expected - found(x)).abs().max() <= 1e-4
        with reference.disable_adapter():
            assert (expected - reference(x).logits).abs().max() > 0.01
