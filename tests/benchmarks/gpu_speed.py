"""Training MFU and generation on one GPU, beside transformers (and litgpt where installed), in one run, medians.

    python tests/benchmarks/gpu_speed.py                 # sizes for an 80 GB card
    python tests/benchmarks/gpu_speed.py --small         # a case for any machine: checks that all sides run

MFU is training FLOPs (causal attention, active experts; `training_flops_per_token`) over `--peak-tflops`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig, MoEConfig, count_params, training_flops_per_token
from components.model.transformer import Transformer
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer

Step = Callable[[], object]


@dataclass(frozen=True)
class Scale:
    """What is timed: models, rows of a step, and prompts by batch size."""

    dense: dict[str, ModelConfig]
    experts: dict[str, ModelConfig]
    rows: int
    batches: tuple[int, ...]
    new_tokens: int
    rounds: int


def decoder(d: int, layers: int, length: int = 2048, moe: MoEConfig | None = None) -> ModelConfig:
    """A decoder with heads of 128, four queries to a key."""
    heads = max(2, d // 128)
    keys = max(1, heads // 4)
    return ModelConfig(32_000, d, layers, heads, keys, context_length=length, tie_embeddings=False, moe=moe)


def large() -> Scale:
    experts = MoEConfig(8, 2, 2048, softmax_after_top_k=True)
    fine = replace(experts, num_experts=64, top_k_experts=8, d_ff=512)
    return Scale(
        {"0.3B": decoder(1024, 20), "1B": decoder(2048, 18)},
        {"8 experts": decoder(1024, 12, moe=experts), "64 experts": decoder(1024, 12, moe=fine)},
        16,
        (1, 64, 256),
        256,
        7,
    )


def small() -> Scale:
    tiny = replace(decoder(64, 2, 64), vocab_size=512, num_heads=2, num_kv_heads=1, head_dim=0)
    return Scale({"tiny": tiny}, {"4 experts": replace(tiny, moe=MoEConfig(4, 2, 32))}, 2, (1, 4), 8, 1)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def medians(sides: dict[str, Step], rounds: int, device: torch.device, warm_up: int = 3) -> dict[str, float]:
    """Median seconds of a call of each side, in turn; a side that fails is told and left out."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name in list(times):
            wait(device)
            began = time.perf_counter()
            try:
                sides[name]()
            except (RuntimeError, ValueError, TypeError) as error:
                print(f"  {name} does not run: {str(error).splitlines()[0]}")
                del times[name]
                continue
            wait(device)
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def batch_of(cfg: ModelConfig, rows: int, device: torch.device) -> LMBatch:
    tokens = torch.randint(
        0, cfg.vocab_size, (rows, cfg.context_length + 1), generator=torch.Generator().manual_seed(0)
    )
    return LMBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).to(device)


def our_step(cfg: ModelConfig, batch: LMBatch, device: torch.device) -> Step:
    """The loop of the stages: weights in float32, products in bfloat16, compiled on a GPU."""
    model = Transformer(cfg).to(device)
    optimizer = Optimizer(model, OptimizerConfig(muon_lr=0.0, adamw_lr=1e-4))
    settings = TrainConfig(10**9, len(batch.tokens_BT), cfg.context_length, precision="bfloat16")
    steps = train(model, optimizer, settings, lambda step: batch)
    return lambda: next(steps)


def peer_step(model: nn.Module, batch: LMBatch, device: torch.device) -> Step:
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def loss_of(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            said = model(tokens_BT)
            logits = said if isinstance(said, Tensor) else said.logits
            return F.cross_entropy(logits.float().flatten(0, 1), targets_BT.flatten())

    compute = torch.compile(loss_of, dynamic=False) if device.type == "cuda" else loss_of

    def step() -> None:
        compute(batch.tokens_BT, batch.targets_BT).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peers(cfg: ModelConfig) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The same shape as others have it, where they are installed."""
    try:
        import transformers as hf
    except ImportError:
        print("  transformers is not installed: pip install -e '.[peers]'")
    else:
        shared = {
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.d_model,
            "num_hidden_layers": cfg.num_layers,
            "num_attention_heads": cfg.num_heads,
            "num_key_value_heads": cfg.kv_heads,
            "max_position_embeddings": cfg.context_length,
            "attn_implementation": "sdpa",
        }
        moe = cfg.moe
        if moe is None:
            llama = hf.LlamaConfig(**shared, intermediate_size=cfg.hidden, use_cache=False)
            yield "transformers", lambda: hf.LlamaForCausalLM(llama)
        else:
            mixtral = hf.MixtralConfig(
                **shared,
                intermediate_size=moe.d_ff,
                num_local_experts=moe.num_experts,
                num_experts_per_tok=moe.top_k_experts,
                use_cache=False,
            )
            yield "transformers", lambda: hf.MixtralForCausalLM(mixtral)
    try:
        import litgpt
    except ImportError:
        return
    if cfg.moe is None:
        lit = litgpt.Config(
            block_size=cfg.context_length,
            padded_vocab_size=cfg.vocab_size,
            n_layer=cfg.num_layers,
            n_head=cfg.num_heads,
            n_query_groups=cfg.kv_heads,
            n_embd=cfg.d_model,
            intermediate_size=cfg.hidden,
            rotary_percentage=1.0,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            parallel_residual=False,
        )
        yield "litgpt", lambda: litgpt.GPT(lit)


def training(name: str, cfg: ModelConfig, scale: Scale, device: torch.device, peak: float) -> str:
    batch = batch_of(cfg, scale.rows, device)
    makers: dict[str, Callable[[], Step]] = {"ours": lambda: our_step(cfg, batch, device)}
    for peer, make in peers(cfg):
        makers[peer] = lambda make=make: peer_step(make(), batch, device)
    rates: dict[str, float] = {}
    for side, make in makers.items():  # one after another: two of these do not fit a card together
        seconds = medians({side: make()}, scale.rounds, device)
        if side in seconds:
            rates[side] = batch.tokens_BT.numel() / seconds[side]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch._dynamo.reset()
    flops, counts = training_flops_per_token(cfg, cfg.context_length), count_params(cfg)
    told = ", ".join(f"{side} {rate:,.0f} tokens/s = {rate * flops / peak:.1%} MFU" for side, rate in rates.items())
    return f"train {name} ({counts.total / 1e9:.2f}B, {counts.active / 1e9:.2f}B active), bf16: {told}"


def generating(cfg: ModelConfig, batch: int, scale: Scale, device: torch.device) -> str:
    """Prompts of unequal length: transformers pads them, our engine does not."""
    lengths = [8 + 7 * row % 25 for row in range(batch)]
    generator = torch.Generator().manual_seed(batch)
    prompts = [torch.randint(3, cfg.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Transformer(cfg).to(device, half).eval()
    params = SamplingParams(max_tokens=scale.new_tokens, temperature=0.0)
    sides: dict[str, Step] = {"ours": lambda: generate(model, prompts, params)}
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        pass
    else:
        peer = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=cfg.vocab_size,
                hidden_size=cfg.d_model,
                intermediate_size=cfg.hidden,
                num_hidden_layers=cfg.num_layers,
                num_attention_heads=cfg.num_heads,
                num_key_value_heads=cfg.kv_heads,
                max_position_embeddings=cfg.context_length,
            )
        )
        peer = peer.to(device, half).eval()
        widest = max(lengths)
        padded = torch.tensor([[0] * (widest - len(p)) + p for p in prompts], device=device)
        seen = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p in prompts], device=device)
        limits = {"max_new_tokens": scale.new_tokens, "min_new_tokens": scale.new_tokens, "do_sample": False}
        sides["transformers"] = torch.inference_mode()(
            lambda: peer.generate(padded, attention_mask=seen, pad_token_id=0, **limits)
        )
    seconds = medians(sides, scale.rounds, device, warm_up=1)
    rates = {side: batch * scale.new_tokens / value for side, value in seconds.items()}
    told = ", ".join(f"{side} {rate:,.0f} tokens/s" for side, rate in rates.items())
    # A step reads every weight once, and the keys and values of all sequences.
    cached = 2 * cfg.num_layers * cfg.kv_heads * cfg.per_head * batch * (max(lengths) + scale.new_tokens / 2)
    read = (count_params(cfg).active + cached) * torch.empty(0, dtype=half).element_size()
    bandwidth = rates.get("ours", 0.0) / batch * read
    return (
        f"generate, batch {batch}: {told}; {bandwidth / 1e9:,.0f} GB/s read of {copy_speed(device) / 1e9:,.0f} measured"
    )


def copy_speed(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes together."""
    source = torch.empty((1 << 30 if device.type == "cuda" else 1 << 26) // 4, device=device)
    target = torch.empty_like(source)
    seconds = medians({"copy": lambda: target.copy_(source)}, 5, device)["copy"]
    return 2 * source.numel() * 4 / seconds


def lines(scale: Scale, device: torch.device, peak: float) -> Iterator[str]:
    """One line a measurement."""
    for name, cfg in (scale.dense | scale.experts).items():
        yield training(name, cfg, scale, device, peak)
    for batch in scale.batches:
        yield generating(next(iter(scale.dense.values())), batch, scale, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the card: H100 989")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.small:
        raise SystemExit("no GPU here: --small runs a case that any machine can")
    torch.set_float32_matmul_precision("high")
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")
    for line in lines(small() if given.small else large(), device, given.peak_tflops * 1e12):
        print(line, flush=True)


if __name__ == "__main__":
    main()
