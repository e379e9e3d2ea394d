"""What the C code knows of a model's configuration, field by field, and what happens to a model that it does not."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from components.inference.decoders import TorchDecoder, open_decoder
from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.transformer import Attention, Transformer
from components.native import compiler, decoder, library
from components.native.coverage import DECODER, KERNELS, Coverage
from components.native.decoder import NativeDecoder
from components.native.fuse import FusedAttention, FusedLinear, FusedTransformer, fuse
from components.training.config import LoRAConfig
from components.training.language_model import LMBatch, summed_loss
from components.training.lora import add_lora, merge_lora
from storage.code import code_fingerprint

BASE = ModelConfig(vocab_size=45, d_model=32, num_layers=2, num_heads=4, context_length=70)
# For every field a value that is not the default, where the C code supports one: the two decoders and the two training
# paths must agree on it.
OTHER = {
    "vocab_size": 77,
    "d_model": 24,
    "num_layers": 3,
    "num_heads": 1,
    "num_kv_heads": 2,
    "head_dim": 10,
    "d_ff": 37,
    "context_length": 66,
    "rope_theta": 500.0,
    "rope_scaling": RopeScaling("yarn", 4.0, original_context_length=32),
    "sliding_window": 5,
    "attention_softcap": 2.0,
    "logit_softcap": 3.0,
    "qk_norm": False,
    "attention_bias": True,
    "tie_embeddings": False,
    "norm_eps": 0.1,
    "moe": MoEConfig(4, 2, 24, shared_d_ff=20),
    "qk_norm_over": "all_heads",
    "norm_placement": "after",
    "nope_layers": (1,),
    "attention_scale": 0.3,
    "embedding_scale": 3.0,
    "residual_scale": 0.5,
    "logit_divisor": 2.0,
}
needs_compiler = pytest.mark.skipif(library.library() is None, reason="there is no compiled C code to test")


@dataclass(frozen=True)
class Extended(ModelConfig):
    """`ModelConfig` as a later version may have it."""

    parallel_layers: bool = False


def generating_stage(folder: Path) -> None:
    from components.inference.engine import Engine
    from components.training.checkpoints import load_model

    Engine(load_model(folder))


def random_model(cfg: ModelConfig) -> Transformer:
    generator = torch.Generator().manual_seed(0)
    model = Transformer(cfg, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("coverage", [DECODER, KERNELS], ids=["decoder", "kernels"])
def test_every_field_of_a_model_is_listed_as_known_to_the_c_code(coverage: Coverage) -> None:
    """A new field fails here: teach the C code about it, or list the values with which it may be ignored; and give
    `OTHER` a value with which the C code is compared with torch."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert coverage.any_value | coverage.only.keys() == fields
    assert not coverage.any_value & coverage.only.keys()
    assert OTHER.keys() == fields
    assert all(value != getattr(ModelConfig(), name) for name, value in OTHER.items())


def test_a_model_with_an_unknown_field_or_value_runs_through_torch() -> None:
    later = Extended(**vars(BASE))
    assert not DECODER.includes(later) and not KERNELS.includes(later)
    assert not DECODER.includes(dataclasses.replace(BASE, moe=MoEConfig(num_experts=2, d_ff=16)))
    model = Transformer(later)
    assert isinstance(open_decoder(model, 2, 20), TorchDecoder)
    fuse(model)
    assert type(model) is Transformer and type(model.blocks[0].attention) is Attention


@needs_compiler
@pytest.mark.parametrize("name", [name for name in OTHER if name in DECODER.any_value])
def test_the_decoder_knows_the_field(name: str) -> None:
    model = random_model(dataclasses.replace(BASE, **{name: OTHER[name]})).eval()
    opened = open_decoder(model, 2, 60)
    assert isinstance(opened, NativeDecoder)
    tokens = np.random.default_rng(0).integers(0, 45, 50).astype(np.int32)
    rows = tokens, np.ones(50, np.int32), np.arange(50, dtype=np.int32), np.arange(50, dtype=np.int32)
    torch.testing.assert_close(opened.forward(*rows), TorchDecoder(model, 2, 60).forward(*rows), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KERNELS.only)
def test_a_value_that_the_c_code_does_not_compute_runs_through_torch(name: str) -> None:
    cfg = dataclasses.replace(BASE, **{name: OTHER[name]})
    model = Transformer(cfg)
    assert isinstance(open_decoder(model, 2, 20), TorchDecoder)
    fuse(model)
    assert type(model) is Transformer


@needs_compiler
@pytest.mark.parametrize("name", [name for name in OTHER if name in KERNELS.any_value])
def test_the_training_kernels_know_the_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused model's loss and gradients are those of the plain one, with our products as with torch's."""
    cfg = dataclasses.replace(BASE, **{name: OTHER[name]})
    rows_BT = torch.randint(0, 45, (16, 41), generator=torch.Generator().manual_seed(1))
    batch = LMBatch(rows_BT[:, :-1], rows_BT[:, 1:])

    def gradients(model: Transformer) -> list[torch.Tensor]:
        loss, z, auxiliary = summed_loss(model, batch)
        (loss / 640 + 0.1 * z / 640 + auxiliary).backward()
        return [loss.detach() / 640, *(weight.grad for weight in model.parameters() if weight.grad is not None)]

    right = gradients(random_model(cfg))
    for own in (library.OwnProducts(), library.OwnProducts(True, True, True, True)):
        monkeypatch.setattr(library, "own_products", lambda own=own: own)
        model = random_model(cfg)
        fuse(model)
        assert type(model) is FusedTransformer
        for found, expected in zip(gradients(model), right, strict=True):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)


@needs_compiler
def test_fusing_leaves_weights_names_copies_and_adapters_as_they_are() -> None:
    plain, model = random_model(BASE), random_model(BASE)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    fuse(model)
    fuse(model)  # no effect
    assert [name for name, _ in model.named_modules()] == modules
    assert model.state_dict().keys() == state.keys()
    twin = copy.deepcopy(model)
    assert type(twin) is FusedTransformer and type(twin.blocks[1].attention) is FusedAttention
    tokens_BT = torch.randint(0, 45, (20, 40), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(tokens_BT), twin(tokens_BT))
    add_lora(twin, LoRAConfig(rank=2, targets=("qkv", "down")), seed=0)
    torch.testing.assert_close(twin(tokens_BT), model(tokens_BT), atol=1e-5, rtol=1e-4)
    merge_lora(twin)
    assert type(twin.blocks[0].attention.qkv) is FusedLinear
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in state.items())
    # An adapter that was there before.
    add_lora(plain, LoRAConfig(rank=2, targets=("qkv",)), seed=0)
    fuse(plain)
    assert type(plain.blocks[0].attention.qkv.base) is FusedLinear
    torch.testing.assert_close(plain(tokens_BT), model(tokens_BT), atol=1e-5, rtol=1e-4)


@needs_compiler
def test_a_fused_model_in_another_precision_is_the_plain_one() -> None:
    tokens_BT = torch.randint(0, 45, (20, 40), generator=torch.Generator().manual_seed(3))
    for dtype in (torch.float64, torch.bfloat16):
        plain, model = random_model(BASE).to(dtype), random_model(BASE).to(dtype)
        fuse(model)
        assert torch.equal(model(tokens_BT), plain(tokens_BT))
    plain, model = random_model(BASE), random_model(BASE)
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(tokens_BT), plain(tokens_BT))


@needs_compiler
def test_a_compiler_sees_the_plain_model() -> None:
    """As on a GPU, where a model that was loaded and fused goes and torch.compile fuses by itself."""
    rows_BT = torch.randint(0, 45, (16, 41), generator=torch.Generator().manual_seed(4))
    batch = LMBatch(rows_BT[:, :-1], rows_BT[:, 1:])
    plain, model = (random_model(dataclasses.replace(BASE, num_layers=1)) for _ in range(2))
    fuse(model)
    compiled = torch.compile(summed_loss, backend="eager", fullgraph=True, dynamic=False)
    for found, expected in zip(compiled(model, batch), summed_loss(plain, batch), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("module", [library, decoder], ids=["kernels", "decoder"])
def test_the_c_files_are_part_of_what_a_stage_is_known_by(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their digest stands in a Python file that the fingerprint reaches, and an edit without it is refused."""
    program: compiler.Program = module.PROGRAM  # type: ignore[attr-defined]
    folder = Path(str(compiler.__file__)).parent
    assert all(path.parent == folder for path in program.sources)
    included = {line.split('"')[1] for path in program.sources for line in path.open() if line.startswith('#include "')}
    assert included <= {path.name for path in program.sources}
    text = b"".join(path.read_bytes() for path in program.sources)
    assert hashlib.sha256(text).hexdigest() == program.sha256 == module.SOURCE_SHA256  # type: ignore[attr-defined]
    assert module.__name__ in code_fingerprint(generating_stage)  # type: ignore[attr-defined]
    monkeypatch.setattr(compiler, "disabled", lambda: False)
    with pytest.raises(RuntimeError, match="edited; set SOURCE_SHA256"):
        compiler.load(dataclasses.replace(program, sha256="0"))
