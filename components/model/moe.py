"""Mixture of experts: a router sends each token to its top-k feed-forward experts; no token is dropped.

Shape suffixes: N tokens (batch and positions flattened), D model width, F expert width, E experts, A chosen experts
a token (top_k_experts).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.model.config import MoEConfig
from components.model.feed_forward import SwiGLU


@dataclass
class RouterStats:
    """What one router did with the tokens of a batch that are not padding: its weighted loss, the share of their
    assignments that each expert got, the mean entropy of its probabilities in nats, and how many tokens they are.
    chosen_NA: the experts of every position, padding included."""

    loss: Tensor
    load_E: Tensor
    entropy: Tensor
    chosen_NA: Tensor
    num_tokens: Tensor


def mean_over(values: Tensor, real_N: Tensor | None) -> Tensor:
    """Mean over the first axis, of the rows where `real_N` is true alone; 0 where it is true nowhere. A product with
    the mask keeps shapes static, for compilers and recorded graphs."""
    if real_N is None:
        return values.mean(0)
    weight_N = real_N.to(values.dtype)
    return torch.tensordot(weight_N, values, 1) / weight_N.sum().clamp_min(1)


def load_balancing_loss(probs_NE: Tensor, load_E: Tensor, real_N: Tensor | None = None) -> Tensor:
    """E · Σ_e f_e · P_e (Fedus et al. 2021, eq. 4): 1 when tokens and probability are spread evenly. `real_N` is false
    at padding, which `load_E` does not count either."""
    return probs_NE.shape[1] * (load_E * mean_over(probs_NE, real_N)).sum()


def router_z_loss(logits_NE: Tensor, real_N: Tensor | None = None) -> Tensor:
    """Mean squared log-sum-exp of the router's logits (Zoph et al. 2022, eq. 5); `real_N` is false at padding."""
    return mean_over(logits_NE.logsumexp(-1).square(), real_N)


def grouped_product(rows_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """Each row times its expert's matrix [N, O]; rows come sorted by expert, `counts_E` of each."""
    if torch.is_autocast_enabled(rows_NI.device.type):
        dtype = torch.get_autocast_dtype(rows_NI.device.type)
        rows_NI, weight_EOI = rows_NI.to(dtype), weight_EOI.to(dtype)
    if rows_NI.dtype == torch.float64 or rows_NI.shape[1] % 8 or weight_EOI.shape[1] % 8:  # not what it takes
        parts = rows_NI.split(counts_E.tolist())
        return torch.cat([F.linear(part, weight) for part, weight in zip(parts, weight_EOI, strict=True)])
    return torch._grouped_mm(rows_NI, weight_EOI.mT, offs=counts_E.cumsum(0).to(torch.int32))


class MixtureOfExperts(nn.Module):
    """SwiGLU experts behind a softmax router. Returns the mixed output and the router's statistics.

    Padding is routed like any token, since nothing reads what comes of it, but where `real_BT` is false nothing counts:
    not in the losses, nor in the load that moves the selection bias, nor in the statistics.
    """

    def __init__(self, d_model: int, cfg: MoEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.router = nn.Linear(d_model, cfg.num_experts, bias=False)
        self.swiglu = SwiGLU()
        # Stored [E, out, in], so that the fan-in is the last axis as in nn.Linear.
        self.gate_up = nn.Parameter(torch.empty(cfg.num_experts, 2 * cfg.d_ff, d_model))
        self.down = nn.Parameter(torch.empty(cfg.num_experts, d_model, cfg.d_ff))
        self.shared_gate_up = nn.Linear(d_model, 2 * cfg.shared_d_ff, bias=False) if cfg.shared_d_ff else None
        self.shared_down = nn.Linear(cfg.shared_d_ff, d_model, bias=False) if cfg.shared_d_ff else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if cfg.shared_gate else None
        balanced = torch.zeros(cfg.num_experts) if cfg.balance_bias_rate else None
        self.register_buffer("balance_bias", balanced)
        # Assignments since the last optimizer step; a checkpoint lies between steps, where they are none.
        self.register_buffer("assigned_E", None if balanced is None else balanced.clone(), persistent=False)
        # Of the last batch that it was trained on: what `routing` tells.
        self.last_load_E: Tensor | None = None
        self.last_entropy: Tensor | None = None
        # Share of the tokens of each expert in the whole batch, where this is trained on parts of it one by one.
        self.whole_load_E: Tensor | None = None
        # In training on many ranks: each has its rows of one batch, and experts are balanced over all of it.
        self.counts_all_ranks = False
        self.balance_bias: Tensor | None
        self.assigned_E: Tensor | None

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, RouterStats]:
        cfg = self.cfg
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        real_N = None if real_BT is None else real_BT.reshape(-1)
        logits_NE = self.router(x_ND)
        logits_NE = logits_NE.to(torch.promote_types(logits_NE.dtype, torch.float32))  # never a softmax in bfloat16
        probs_NE = logits_NE.softmax(-1)
        if self.balance_bias is None:
            weight_NA, chosen_NA = probs_NE.topk(cfg.top_k_experts, -1)
        else:  # the bias has a say in who is chosen, and none in how much the chosen weigh (Wang et al. 2024, eq. 3)
            chosen_NA = (probs_NE.detach() + self.balance_bias).topk(cfg.top_k_experts, -1).indices
            weight_NA = probs_NE.gather(-1, chosen_NA)
        if cfg.softmax_after_top_k:
            weight_NA = logits_NE.gather(-1, chosen_NA).softmax(-1)
        elif cfg.normalize_top_k:
            weight_NA = weight_NA / weight_NA.sum(-1, keepdim=True)

        # Sort the assignments by expert, run each expert on its run of rows, scatter back.
        expert_of = chosen_NA.reshape(-1)
        order = expert_of.argsort(stable=True)
        token_of = order // cfg.top_k_experts
        counts_E = torch.bincount(expert_of, minlength=cfg.num_experts)
        assigned_E, num_tokens = counts_E, counts_E.new_tensor(x_ND.shape[0])
        if real_N is not None:
            of_real = real_N.repeat_interleave(cfg.top_k_experts).to(counts_E.dtype)
            assigned_E, num_tokens = torch.zeros_like(counts_E).index_add_(0, expert_of, of_real), real_N.sum()
        if self.counts_all_ranks and self.training:
            counted = torch.cat([assigned_E, num_tokens[None]])
            torch.distributed.all_reduce(counted)
            assigned_E, num_tokens = counted[:-1], counted[-1]
        if self.assigned_E is not None and self.training and torch.is_grad_enabled():
            self.assigned_E += assigned_E
        rows_y = self._experts(x_ND.index_select(0, token_of), counts_E)
        weighted = rows_y * weight_NA.reshape(-1).index_select(0, order)[:, None].to(rows_y.dtype)
        y_ND = torch.zeros_like(x_ND).index_add(0, token_of, weighted.to(x_ND.dtype))
        if self.shared_gate_up is not None and self.shared_down is not None:
            shared = self.shared_down(self.swiglu(self.shared_gate_up(x_ND)))
            y_ND = y_ND + (shared if self.shared_gate is None else self.shared_gate(x_ND).sigmoid() * shared)

        load_E = assigned_E.to(probs_NE.dtype) / (num_tokens * cfg.top_k_experts).clamp_min(1)
        load_of_all_E = load_E if self.whole_load_E is None else self.whole_load_E
        loss = cfg.load_balance_coef * load_balancing_loss(probs_NE, load_of_all_E, real_N)
        loss = loss + cfg.router_z_coef * router_z_loss(logits_NE, real_N)
        entropy = mean_over(-(probs_NE * probs_NE.clamp_min(1e-20).log()).sum(-1), real_N)
        if self.training and torch.is_grad_enabled():
            self.last_load_E, self.last_entropy = load_of_all_E.detach(), entropy.detach()
        return y_ND.view_as(x_BTD), RouterStats(loss, load_E.detach(), entropy.detach(), chosen_NA, num_tokens)

    def _experts(self, rows_x: Tensor, counts_E: Tensor) -> Tensor:
        """SwiGLU of every row by its expert; rows come sorted by expert, `counts_E` of each."""
        hidden = self.swiglu(grouped_product(rows_x, self.gate_up, counts_E))
        return grouped_product(hidden.contiguous(), self.down, counts_E)

    @torch.no_grad()
    def move_balance_bias(self) -> None:
        """Once an optimizer step: every expert's bias one step of `balance_bias_rate` up where it got fewer tokens than
        the mean over the experts, down where it got more (Wang et al. 2024, algorithm 1)."""
        if self.balance_bias is not None and self.assigned_E is not None:
            self.balance_bias += self.cfg.balance_bias_rate * (self.assigned_E.mean() - self.assigned_E).sign()
            self.forget_assignments()

    def forget_assignments(self) -> None:
        """Of a step that is not taken."""
        if self.assigned_E is not None:
            self.assigned_E.zero_()


def routing(model: nn.Module) -> dict[str, float]:
    """How the last batch of training was spread over the experts, as means over the layers: router_max_share, what the
    busiest expert got of a layer's assignments (1 / num_experts is even), and router_entropy, of the router's
    probabilities in nats. Empty for a model without experts, or before the first batch."""
    layers = [layer for layer in model.modules() if isinstance(layer, MixtureOfExperts)]
    shares = [layer.last_load_E.max() for layer in layers if layer.last_load_E is not None]
    entropies = [layer.last_entropy for layer in layers if layer.last_entropy is not None]
    if not shares or not entropies:
        return {}
    return {
        "router_max_share": float(torch.stack(shares).mean()),
        "router_entropy": float(torch.stack(entropies).mean()),
    }
