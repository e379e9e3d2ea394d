"""Public models by name, and what any model of a known shape takes: parameters, FLOPs, cache and memory, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from components.cost.entries import Entry, toml_entries
from components.cost.hardware import unknown_name
from components.cost.serving_model import ServedModel
from components.model.config import ModelConfig, MoEConfig, config_from_dict, count_params

CATALOGUE = Path(__file__).parent / "catalogue/models.toml"
_SIZES = ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff")
_FIELDS = (
    "name", *_SIZES, "num_experts", "top_k_experts", "tie_embeddings", "qk_norm", "stated_params", "stated_active",
    "train_tokens", "tokens_source", "source", "date",
)  # fmt: skip


@dataclass(frozen=True)
class PublicModel:
    """A model that others trained. `train_tokens`: None where they do not say."""

    name: str
    config: ModelConfig
    stated_params: int
    stated_active: int | None
    train_tokens: float | None
    tokens_source: str
    source: str
    date: str


@cache
def public_models(file: Path = CATALOGUE) -> tuple[PublicModel, ...]:
    """The models of a catalogue file. Raises CatalogueError naming file, entry and field."""
    return tuple(_model(entry) for entry in toml_entries(file, "models"))


def _model(entry: Entry) -> PublicModel:
    entry.check_names(_FIELDS)
    sizes = {name: int(entry.number(name)) for name in _SIZES}
    experts = entry.optional_number("num_experts")
    moe = None
    if experts is not None:
        moe = MoEConfig(int(experts), int(entry.number("top_k_experts")), d_ff=sizes["d_ff"])
    tokens = entry.optional_number("train_tokens")
    active = entry.optional_number("stated_active")
    return PublicModel(
        name=entry.text("name"),
        config=config_from_dict(
            {
                **sizes,
                "qk_norm": bool(entry.values.get("qk_norm", False)),
                "tie_embeddings": bool(entry.values.get("tie_embeddings", False)),
                "moe": vars(moe) if moe else None,
            }
        ),
        stated_params=int(entry.number("stated_params")),
        stated_active=None if active is None else int(active),
        train_tokens=tokens,
        tokens_source=entry.text("tokens_source") if tokens is not None else "",
        source=entry.text("source"),
        date=entry.date(),
    )


def find_model(name: str) -> PublicModel:
    """The model of that name, in any case. Raises ValueError naming the nearest one."""
    for model in public_models():
        if model.name == name.casefold():
            return model
    raise ValueError(unknown_name("model", name, [model.name for model in public_models()]))


def expert_params(cfg: ModelConfig) -> float:
    """Parameters of the routed experts of all layers."""
    moe = cfg.moe
    return 0.0 if moe is None else 3.0 * cfg.d_model * moe.d_ff * moe.num_experts * (cfg.num_layers - moe.first_dense)


def served(cfg: ModelConfig, weight_bytes: float = 2.0, kv_bytes: float = 2.0) -> ServedModel:
    """What serving a model of this shape depends on: exact parameters, those of its experts among them."""
    counts, moe = count_params(cfg), cfg.moe
    return ServedModel(
        counts.total,
        counts.active,
        cfg.num_layers,
        cfg.num_heads,
        cfg.kv_heads,
        cfg.per_head,
        expert_params=expert_params(cfg),
        num_experts=moe.num_experts if moe else 1,
        top_k_experts=moe.top_k_experts if moe else 1,
        weight_bytes=weight_bytes,
        kv_bytes=kv_bytes,
    )


def training_memory_bytes(cfg: ModelConfig) -> float:
    """Bytes that mixed-precision training with Adam holds, activations left out: 16 a parameter (Rajbhandari et al.
    2020, §3.1: weights and gradients in 16 bits; weights, momentum and variance in 32)."""
    return 16.0 * count_params(cfg).total


@lru_cache(maxsize=4096)
def buildable(num_params: float, vocab_size: int = 32_000, context_length: int = 4096) -> ModelConfig:
    """The decoder nearest to `num_params` (embeddings included) that one can build, with proportions of Llama models.

    Widths are multiples of the head, heads of 128 (64 below a width of 1,024, 16 below 128) with up to 8 of keys and
    values; hidden layers of 8/3 or, with grouped queries, 7/2 of the width, in multiples of 256 (of 16 in narrow
    models); 64 to 160 of width a layer, as Llama's 102 to 128. Embeddings are tied below 2e9 parameters.

    Raises ValueError where the vocabulary alone has more parameters than wanted.
    """
    if not num_params > 0:
        raise ValueError(f"num_params must be above 0, got {num_params}")
    best: tuple[float, ModelConfig] | None = None
    # 12·L·d² parameters at a width of 64 to 160 a layer; much narrower where the vocabulary takes most of them.
    narrowest, widest = 0.3 * (64 * num_params / 12) ** (1 / 3), 1.3 * (160 * num_params / 12) ** (1 / 3)
    for head, fewest, most in ((16, 1, 7), (64, 2, 15), (128, 8, 512)):
        for heads in range(fewest, most + 1):
            width = head * heads
            if not (narrowest <= width <= widest or width == 16):
                continue
            kv = min(8, heads)
            while heads % kv:
                kv -= 1
            ratio, step = (3.5 if kv < heads and width >= 1024 else 8 / 3), 256 if width >= 1024 else 16
            shape = ModelConfig(
                vocab_size=vocab_size,
                d_model=width,
                num_layers=1,
                num_heads=heads,
                num_kv_heads=kv,
                head_dim=head,
                d_ff=max(step, round(ratio * width / step) * step),
                context_length=context_length,
                qk_norm=False,
                tie_embeddings=num_params < 2e9,
            )
            one, two = (count_params(replace(shape, num_layers=n)).total for n in (1, 2))
            layers = max(1, round((num_params - one) / (two - one)) + 1)
            off = abs((one + (layers - 1) * (two - one)) / num_params - 1)
            # A percent of size is worth a tenth of the range of proportions.
            aspect = max(0.0, width / layers / 160 - 1, 64 / (width / layers) - 1)
            score = off + 0.1 * aspect + (0.02 if width >= 1024 and kv < 8 else 0.0)
            if best is None or score < best[0]:
                best = (score, replace(shape, num_layers=layers))
    assert best is not None
    if (made := count_params(best[1]).total) > 1.25 * num_params:
        raise ValueError(
            f"a model of {num_params:.3g} parameters cannot be built with a vocabulary of {vocab_size:,}: the nearest "
            f"has {made:.3g}; take a smaller one with --vocabulary"
        )
    return best[1]
