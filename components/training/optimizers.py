"""Muon for matrices, AdamW for the rest, as one object with a state that round-trips through tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.model.moe import MixtureOfExperts
from components.training.config import OptimizerConfig

if TYPE_CHECKING:
    from components.training.distributed import ShardedMuon


def newton_schulz(x_NRC: Tensor, steps: int = 5) -> Tensor:
    """Approximately orthogonalize a batch of matrices [N, rows, columns]: singular values go to about 1.

    The quintic iteration of Jordan et al. 2024 ("Muon"), coefficients chosen for slope at zero; it ends with singular
    values in about [0.7, 1.2], not at exactly 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    transposed = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.mT if transposed else x_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x


class Muon:
    """Nesterov momentum, orthogonalized (Jordan et al. 2024); equal shapes are orthogonalized in one batch.

    Each step moves a matrix [R, C] by lr · √max(1, R/C) · orthogonalized momentum; `spectral` by lr · √(R/C), which
    keeps the change of what it puts out of the same size at every width (Yang et al. 2023, condition 1).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], momentum: float, weight_decay: float, spectral: bool = False
    ) -> None:
        self.momentum, self.weight_decay, self.least = momentum, weight_decay, 0.0 if spectral else 1.0
        groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for param in params:
            groups[tuple(param.shape)].append(param)
        self.groups = list(groups.values())
        self.buffers = [group[0].new_zeros(len(group), *group[0].shape) for group in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply one update from the gradients that the parameters hold."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            grads = torch.stack([param.grad for param in group])  # type: ignore[misc]
            buffer.lerp_(grads, 1 - self.momentum)
            update = newton_schulz(grads.lerp(buffer, self.momentum).flatten(0, -3)).view_as(buffer)
            rows, columns = update.shape[-2:]
            scale = lr * max(self.least, rows / columns) ** 0.5
            if self.weight_decay:
                torch._foreach_mul_(group, 1 - lr * self.weight_decay)
            torch._foreach_sub_(group, update.unbind(0), alpha=scale)


class Optimizer:
    """`Muon` on the hidden matrices (2-D, and the 3-D stacks of experts), fused AdamW on what is left; and the bias of
    routers that balance without a loss, by its own rule."""

    def __init__(self, model: nn.Module, cfg: OptimizerConfig) -> None:
        self.cfg = cfg
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        matrices = [p for name, p in named if cfg.muon_lr > 0 and p.dim() >= 2 and is_hidden_matrix(name)]
        chosen = {id(p) for p in matrices}
        self.params = [p for _, p in named]
        self.routed = [layer for layer in model.modules() if isinstance(layer, MixtureOfExperts)]
        self.muon: Muon | ShardedMuon = Muon(matrices, cfg.momentum, cfg.weight_decay, spectral=cfg.base_width > 0)
        width = width_ratio(model, cfg)
        rates: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, param in named:
            if id(param) not in chosen:
                rate = 1 / width if shrinks_with_width(name, param) else 1.0
                # lr · weight_decay is what decays: it stays the same at every width (Wortsman et al. 2023).
                rates[rate, cfg.weight_decay / rate if param.dim() >= 2 else 0.0].append(param)
        groups = [{"params": p, "weight_decay": decay, "rate": rate} for (rate, decay), p in rates.items()]
        self.adamw = torch.optim.AdamW(
            groups,
            lr=cfg.adamw_lr,
            betas=(cfg.beta1, cfg.beta2),
            eps=cfg.eps,
            fused=True,
        )

    def step(self, lr_scale: float) -> None:
        """One update with both rates multiplied by `lr_scale`; the gradients are cleared."""
        self.muon.step(self.cfg.muon_lr * lr_scale)
        for group in self.adamw.param_groups:
            group["lr"] = self.cfg.adamw_lr * lr_scale * group["rate"]
        self.adamw.step()
        for layer in self.routed:
            layer.move_balance_bias()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget all gradients, and which experts the tokens went to."""
        for param in self.params:
            param.grad = None
        for layer in self.routed:
            layer.forget_assignments()

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, besides weights and gradients."""
        tensors = {f"muon.{index}": buffer for index, buffer in enumerate(self.muon.buffers)}
        for number, state in self.adamw.state_dict()["state"].items():
            tensors |= {f"adamw.{number}.{name}": value for name, value in state.items()}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`."""
        for index, buffer in enumerate(self.muon.buffers):
            buffer.copy_(tensors[f"muon.{index}"])
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            if name.startswith("adamw."):
                _, number, field = name.split(".")
                state[int(number)][field] = value.clone()
        self.adamw.load_state_dict({"state": dict(state), "param_groups": self.adamw.state_dict()["param_groups"]})


def is_hidden_matrix(name: str) -> bool:
    """Whether a parameter is a matrix inside the blocks, which Muon is meant for (not embeddings, heads, routers,
    adapters)."""
    return "blocks." in name and not any(part in name for part in ("router", "norm", "lora_"))


def width_ratio(model: nn.Module, cfg: OptimizerConfig) -> float:
    """Width of the model over the width that the rates were tuned at; 1 where they are not to be transferred.

    Raises ValueError for a model without a `cfg.d_model`.
    """
    if not cfg.base_width:
        return 1.0
    width = getattr(getattr(model, "cfg", None), "d_model", None)
    if width is None:
        raise ValueError(
            f"optimizer.base_width is {cfg.base_width}: a {type(model).__name__} has no d_model; set it to 0"
        )
    return float(width) / cfg.base_width


def shrinks_with_width(name: str, param: nn.Parameter) -> bool:
    """Whether AdamW's rate of a parameter goes with 1/width: what sums over the width (matrices inside the blocks,
    routers), and the gain before the output, whose value does (`transfer.scale_output`)."""
    return name == "norm.weight" or ("blocks." in name and param.dim() >= 2 and "lora_" not in name)


def clip_gradients(params: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint L2 norm is at most `max_norm`; returns the norm before."""
    norm = nn.utils.clip_grad_norm_(list(params), max_norm, foreach=True)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # of gradients on many ranks
