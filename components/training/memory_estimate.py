"""How much memory a training takes at its fullest moment, from shapes alone.

Weights, gradients, optimizer and snapshot follow from the settings; activations from what each layer keeps for its
backward pass, counted from `components.native` (CPU) and `components.model` (elsewhere). `tests/benchmarks/memory.py`
holds both against what processes take. On a CPU the allocator keeps up to 1 GB of what a step has freed for the next.

Letters: N tokens of a pass, T tokens of a row, D model width, H query heads, K key and value heads, C head dimension, F
hidden width, V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.model.config import ModelConfig, count_params
from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig

LOGITS_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}  # as `components.model.loss`, which needs torch
SCORES_LIMIT = 256  # as `components.native.kernels`
SPARE = {"cpu": 32 << 20, "cuda": 512 << 20}  # scratch of the products; of a GPU also its context's own workspaces


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what holds them: `frozen` models that only look on, weights, gradients, optimizer, the guard's snapshot
    (in the memory of the CPU), activations of a pass, and what the loss needs beside them. `spare`: scratch."""

    frozen: float = 0.0
    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    snapshot: float = 0.0
    activations: float = 0.0
    loss: float = 0.0
    spare: float = 0.0
    accumulates: bool = False

    @property
    def state(self) -> float:
        """What stays from step to step, snapshot aside."""
        return self.frozen + self.weights + self.optimizer

    @property
    def device(self) -> float:
        """The peak where the model lies: when the backward pass begins, or when it ends. Gradients of earlier parts of
        a batch are there from the beginning."""
        begins = self.activations + self.loss + (self.gradients if self.accumulates else 0.0)
        return self.state + max(begins, self.gradients + min(self.loss, self.activations)) + self.spare

    @property
    def total(self) -> float:
        """On a CPU, where the snapshot lies beside the rest."""
        return self.device + self.snapshot


@dataclass(frozen=True)
class Training:
    """What a training's memory depends on. rows, row_length: of a pass, forward and backward. targets: rows of logits
    of a pass (0: it has none, as a reward model). copies: models that learn together (policy and critic); frozen:
    models that look on (references, reward models)."""

    model: ModelConfig
    rows: int
    row_length: int
    optimizer: OptimizerConfig
    precision: Literal["float32", "bfloat16"] = "float32"
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    lora: LoRAConfig | None = None
    accumulates: bool = False
    targets: int | None = None
    copies: int = 1
    frozen: int = 0
    checkpointing: bool = False


def training_memory(training: Training, device: str = "cpu") -> MemoryEstimate:
    """The estimate for a device of that kind ("cpu" or "cuda")."""
    kind, cfg = device.partition(":")[0], training.model
    params = count_params(cfg).total
    learns = adapter_params(cfg, training.lora) if training.lora else params
    in_bfloat16 = training.precision == "bfloat16"
    moments = learns * 8
    if training.optimizer.muon_lr and not training.lora:
        moments = 4 * _matrices(cfg) + 8 * (params - _matrices(cfg))
    weights = 4 * (params + (learns if training.lora else 0))
    saved = 4 if not in_bfloat16 else 2
    tokens = training.rows * training.row_length
    fused = kind == "cpu" and not in_bfloat16
    layer = tokens * saved * layer_activations(cfg, training.row_length, fused, bool(training.lora))
    if in_bfloat16:  # norms compute in float32 and keep it: their input and what is normed
        layer += tokens * 4 * 4 * cfg.d_model
    activations = cfg.num_layers * layer
    if training.checkpointing:  # the input of each layer, and one layer computed again
        activations = cfg.num_layers * tokens * saved * cfg.d_model + layer
    casts = 2 * params if in_bfloat16 else 0  # autocast keeps weights in bfloat16 until the backward ends
    snapshot = 0.0
    if training.non_finite.max_rollbacks:
        snapshot = training.copies * (4 * learns + moments)
    update = 0.0
    if training.optimizer.muon_lr and not training.lora:
        update = 4.0 * 4 * _largest_group(cfg)
    targets = tokens if training.targets is None else training.targets
    head = 0.0 if training.lora else 4.0 * cfg.vocab_size * cfg.d_model
    return MemoryEstimate(
        frozen=training.frozen * 4 * params,
        weights=training.copies * weights,
        gradients=training.copies * 4 * learns + max(head, update),
        optimizer=training.copies * moments,
        snapshot=snapshot,
        activations=activations + casts,
        loss=loss_bytes(cfg, targets, kind, in_bfloat16) + (head if targets else 0.0),
        spare=SPARE.get(kind, SPARE["cpu"]),
        accumulates=training.accumulates,
    )


def loss_bytes(cfg: ModelConfig, targets: int, kind: str, in_bfloat16: bool) -> float:
    """Logits and what is made of them: all at once three copies, in chunks one (and a narrow copy in bfloat16)."""
    whole, limit = 4.0 * targets * cfg.vocab_size, LOGITS_BYTES.get(kind, LOGITS_BYTES["cpu"])
    narrow = 1.5 if in_bfloat16 else 1.0
    if whole <= limit:
        return 3 * whole * (1.25 if in_bfloat16 else 1.0)
    return limit * narrow + (2.0 * cfg.vocab_size * cfg.d_model if in_bfloat16 else 0.0)


def layer_activations(cfg: ModelConfig, row_length: int, fused: bool, adapted: bool) -> float:
    """Numbers that a layer keeps of a token for the backward pass (the mean over layers where some have experts).

    Fused (float32 on a CPU): attention keeps its input, queries, keys and values, the probabilities of short rows and
    their mixture; the feed-forward layer its input, gate and up. Adapters, long rows, or plain torch keep the normed
    inputs too, the split heads, and what the activation gives.
    """
    d, c = cfg.d_model, cfg.per_head
    heads, joint = cfg.num_heads * c, (cfg.num_heads + 2 * cfg.kv_heads) * c
    whole = fused and not adapted
    if whole and row_length <= SCORES_LIMIT:
        attention = d + joint + heads + cfg.num_heads * (-(-row_length // 16) * 16)
    elif fused and row_length <= SCORES_LIMIT:
        attention = 2 * d + 2 * joint + heads + cfg.num_heads * (-(-row_length // 16) * 16)
    else:  # flash attention with keys and values repeated for every query head, its output, and that with heads joined
        attention = 2 * d + joint + 5 * heads
    dense = d + 2 * cfg.hidden if whole else 2 * d + (3 if fused else 4) * cfg.hidden
    if cfg.moe is None:
        return attention + dense
    moe = cfg.moe
    chosen, shared = moe.top_k_experts, 3 * moe.shared_d_ff
    experts = 3 * d + chosen * (2 * d + 4 * moe.d_ff) + shared + 3 * moe.num_experts
    share = moe.first_dense / cfg.num_layers
    return attention + share * dense + (1 - share) * experts


def adapter_params(cfg: ModelConfig, lora: LoRAConfig) -> int:
    """Parameters of the adapters on a dense model's linear maps."""
    d, c = cfg.d_model, cfg.per_head
    maps = {
        "attention.qkv": (d, (cfg.num_heads + 2 * cfg.kv_heads) * c),
        "attention.out": (cfg.num_heads * c, d),
        "mlp.gate_up": (d, 2 * cfg.hidden),
        "mlp.down": (cfg.hidden, d),
    }
    wanted = [shape for name, shape in maps.items() if any(name.endswith(target) for target in lora.targets)]
    return cfg.num_layers * lora.rank * sum(inputs + outputs for inputs, outputs in wanted)


def _matrices(cfg: ModelConfig) -> int:
    """Parameters that Muon trains: all but embeddings, norms and biases, about."""
    return count_params(cfg).non_embedding - (2 * cfg.num_layers + 1) * cfg.d_model


def _largest_group(cfg: ModelConfig) -> int:
    """Numbers in the largest set of matrices of one shape."""
    if cfg.moe is None:
        return cfg.num_layers * 2 * cfg.hidden * cfg.d_model
    return (cfg.num_layers - cfg.moe.first_dense) * cfg.moe.num_experts * 2 * cfg.moe.d_ff * cfg.d_model
