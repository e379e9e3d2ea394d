"""Training speed on CPU beside transformers' Llama and a plain GPT, eager and compiled, and beside the core's peak.

All sides have the same width, layers, heads, vocabulary, batch, threads, clipping and kind of optimizer (fused AdamW),
and take turns in one run; the table gives medians. Nothing is asserted: `make bench` is for reading.

    python tests/benchmarks/training_speed.py [--widths 64 128 256] [--threads 1 2] [--rounds 5] [--eager-only]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worker_pace import measure

from components.model.config import ModelConfig, MoEConfig, count_params, training_flops_per_token
from components.model.transformer import Transformer
from components.native import kernels, library
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer

VOCAB, LAYERS, ROWS, LENGTH, STEPS = 512, 4, 32, 128, 2
Step = Callable[[], None]


class PlainBlock(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x_BTD: Tensor) -> Tensor:
        b, t, d = x_BTD.shape
        qkv = self.qkv(self.norm1(x_BTD)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))


class PlainGPT(nn.Module):
    """LayerNorm, GELU of four widths, learned positions, SDPA, tied embeddings: GPT-2 as it is usually written."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, d), nn.Embedding(LENGTH, d)
        self.blocks = nn.Sequential(*(PlainBlock(d, heads) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(d)
        for weight in (self.tokens.weight, self.positions.weight):
            nn.init.normal_(weight, 0, 0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.blocks(self.tokens(tokens_BT) + self.positions(places))
        return F.linear(self.norm(x_BTD), self.tokens.weight)


def shape(d: int, moe: MoEConfig | None = None) -> ModelConfig:
    return ModelConfig(VOCAB, d, LAYERS, max(1, d // 32), context_length=LENGTH, moe=moe)


def data() -> LMBatch:
    rows = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return LMBatch(rows[:, :-1], rows[:, 1:].contiguous())


def ours(cfg: ModelConfig, batch: LMBatch) -> Step:
    """Our loop as the stages run it."""
    model = Transformer(cfg)
    optimizer = Optimizer(model, OptimizerConfig(muon_lr=0.0))  # the peers' kind of optimizer
    steps = train(model, optimizer, TrainConfig(10**9, ROWS, LENGTH), lambda step: batch)
    return lambda: void(next(steps))


def theirs(model: nn.Module, batch: LMBatch, compiled: bool) -> Step:
    """The loop that everybody writes."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def loss_of(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        said = model(tokens_BT)
        logits = said if isinstance(said, Tensor) else said.logits
        return F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())

    compute = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step() -> None:
        loss = compute(batch.tokens_BT, batch.targets_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())  # as a loop that logs

    return step


def void(_: object) -> None:
    return None


def llama(cfg: ModelConfig) -> nn.Module:
    """transformers' LlamaForCausalLM of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=cfg.d_model,
            intermediate_size=cfg.hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.kv_heads,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def mixtral(cfg: ModelConfig, moe: MoEConfig) -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=cfg.d_model,
            intermediate_size=moe.d_ff,
            num_hidden_layers=LAYERS,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.kv_heads,
            max_position_embeddings=LENGTH,
            num_local_experts=moe.num_experts,
            num_experts_per_tok=moe.top_k_experts,
            tie_word_embeddings=True,
            output_router_logits=True,
            use_cache=False,
        )
    )


def peak(size: int = 1024) -> dict[str, float]:
    """GFLOP/s of fp32 matrix products by library."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    ways: dict[str, Step] = {"torch": lambda: void(torch.mm(a, b))}
    if torch.backends.mkldnn.is_available():
        ways["oneDNN"] = lambda: void(torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    if library.library() is not None:
        ways["ours"] = lambda: void(kernels.product(a, b))
    return {name: 2 * size**3 / seconds(way) / 1e9 for name, way in ways.items()}


def seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


@dataclass
class Race:
    """Seconds of every side, a list of rounds each, and the peak measured in between."""

    times: dict[str, list[float]]
    peaks: list[dict[str, float]]

    def median(self, side: str) -> float:
        return statistics.median(self.times[side])


def race(sides: dict[str, Step], rounds: int) -> Race:
    """Warm up each side, then let them take turns."""
    for step in sides.values():
        step(), step()
    result = Race({name: [] for name in sides}, [])
    for _ in range(rounds):
        for name, step in sides.items():
            result.times[name].append(seconds(lambda step=step: void([step() for _ in range(STEPS)])) / STEPS)
        result.peaks.append(peak())
    return result


def dense_sides(d: int, compiled: bool) -> dict[str, Step]:
    cfg, batch = shape(d), data()
    sides = {"ours": ours(cfg, batch)}
    for how in ("eager", "compiled") if compiled else ("eager",):
        sides[f"gpt {how}"] = theirs(PlainGPT(d, cfg.num_heads), batch, how == "compiled")
        try:
            sides[f"llama {how}"] = theirs(llama(cfg), batch, how == "compiled")
        except ImportError:
            print("transformers is not installed: pip install -e '.[peers]'")
    return sides


def lines(widths: list[int], threads: list[int], rounds: int, compiled: bool) -> Iterator[str]:
    tokens = ROWS * LENGTH
    for count in threads:
        torch.set_num_threads(count)
        for d in widths:
            torch._dynamo.reset()
            result, cfg = race(dense_sides(d, compiled), rounds), shape(d)
            rates = {name: tokens / result.median(name) for name in result.times}
            best = max((name for name in rates if name != "ours"), key=rates.__getitem__)
            top = {name: statistics.median(p[name] for p in result.peaks) for name in result.peaks[0]}
            reached = rates["ours"] * training_flops_per_token(cfg, LENGTH) / 1e9
            peers = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items() if name != "ours")
            yield (
                f"train d{d} ({count_params(cfg).non_embedding / 1e6:.2f}M), {count} thread{'s' * (count > 1)}: "
                f"{rates['ours']:,.0f} tokens/s, {rates['ours'] / rates[best]:.2f}x the best peer ({best}); {peers}; "
                f"{reached:.0f} of {max(top.values()):.0f} GFLOP/s = {reached / max(top.values()):.0%} of the peak "
                f"({', '.join(f'{name} {value:.0f}' for name, value in top.items())})"
            )


def moe_line(rounds: int, d: int = 64) -> str:
    """Experts beside transformers' Mixtral, and their products beside a loop over experts."""
    moe, batch = MoEConfig(8, 2, 96, softmax_after_top_k=True), data()
    cfg = shape(d, moe)
    sides = {"ours": ours(cfg, batch), "mixtral eager": theirs(mixtral(cfg, moe), batch, False)}
    result = race(sides, rounds)
    rates = {name: ROWS * LENGTH / result.median(name) for name in result.times}
    return (
        f"train 8 experts, 2 active, d{d}: {rates['ours']:,.0f} tokens/s, "
        f"{rates['ours'] / rates['mixtral eager']:.2f}x mixtral eager ({rates['mixtral eager']:,.0f})"
    )


def workers_lines(widths: list[int], rounds: int) -> Iterator[str]:
    """Processes side by side against threads within one (`worker_pace.py`)."""
    cores = os.cpu_count() or 1
    one, many = (1, cores), (cores, 1)
    for d in widths:
        rates = [
            statistics.median(each) for each in zip(*(measure([one, many], d) for _ in range(rounds)), strict=True)
        ]
        yield (
            f"train d{d}: {cores} workers of one thread {rates[1]:,.0f} tokens/s, one of {cores} {rates[0]:,.0f}, "
            f"{rates[1] / rates[0]:.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager-only", action="store_true")
    given = parser.parse_args()
    for line in lines(given.widths, given.threads, given.rounds, not given.eager_only):
        print(line, flush=True)
    for line in workers_lines(given.widths, given.rounds):
        print(line, flush=True)
    try:
        print(moe_line(given.rounds))
    except ImportError:
        print("experts: no transformers to compare with")


if __name__ == "__main__":
    main()
