"""Generation against transformers' `generate`, the same weights, greedy, both sides in turn in one process.

    .venv/bin/python tests/benchmarks/generation_speed.py [--threads 1] [--widths 64 128] [--eager]

The peer is the faster of its dynamic and static cache, and the compiled static cache (which takes a minute a batch
size to compile; `--eager` leaves it out). Answers are compared first: a peer that said something else would be no peer.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig
from components.model.hub.config_file import architecture_for, write_config
from components.model.hub.weights import scattered
from components.model.transformer import Transformer

PROMPT, NEW = 16, 48


def peer_of(model: Transformer) -> torch.nn.Module:
    """The same weights in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = write_config(model.cfg)
    peer = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw))
    weights = scattered(model.cfg, architecture_for(model.cfg).names, model.state_dict())
    peer.load_state_dict({**weights, "lm_head.weight": model.embedding.weight})
    peer.generation_config.eos_token_id = None
    return peer.eval()


def peer_sides(peer: torch.nn.Module, ids_BT: Tensor, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    from transformers import CompileConfig

    def run(**options: object) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                mask = torch.ones_like(ids_BT)
                return peer.generate(  # type: ignore[operator, no-any-return]
                    ids_BT, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **options
                )

        return call

    sides = {
        "dynamic cache": run(cache_implementation="dynamic"),
        "static cache": run(cache_implementation="static", disable_compile=True),
    }
    if compiled:
        config = CompileConfig(mode="default", fullgraph=False, dynamic=False)
        config._compile_all_devices = True  # it compiles on accelerators alone unless told to
        sides["static cache, compiled"] = run(cache_implementation="static", compile_config=config)
    return sides


@dataclass(frozen=True)
class Rate:
    """Medians: tokens a second of the clock, and a second of processor time, which other work on the machine slows
    less."""

    wall: float
    processor: float


def compare(d_model: int, batch: int, compiled: bool, repeats: int = 5) -> tuple[Rate, Rate, str]:
    """Rates of ours and of the fastest peer, and which that is."""
    cfg = ModelConfig(vocab_size=512, d_model=d_model, num_heads=d_model // 32, context_length=128)
    model = Transformer(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that greedy answers wander
    prompts = np.random.default_rng(0).integers(0, 512, (batch, PROMPT))
    ids_BT = torch.from_numpy(prompts)
    rows = prompts.tolist()
    params = SamplingParams(max_tokens=NEW, temperature=0.0)
    torch.compiler.reset()
    said: list[list[int]] = []

    def ours() -> None:
        said[:] = [done.tokens for [done] in generate(model, rows, params)]

    sides: dict[str, Callable[[], object]] = {"ours": ours, **peer_sides(peer_of(model), ids_BT, compiled)}
    for name, side in sides.items():
        got = side()
        if isinstance(got, Tensor):
            same = sum(a == b[PROMPT:].tolist() for a, b in zip(said, got, strict=True)) / batch
            assert same > 0.95, f"{name}: only {same:.0%} of the answers are the same"
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            began = time.perf_counter(), time.process_time()
            side()
            seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    tokens = batch * NEW
    rates = {
        name: Rate(*(tokens / statistics.median(pair[i] for pair in taken) for i in (0, 1)))
        for name, taken in seconds.items()
    }
    best = max((name for name in rates if name != "ours"), key=lambda name: rates[name].wall)
    return rates["ours"], rates[best], best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--eager", action="store_true", help="without the peer's compiled form")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"generation, {PROMPT} tokens and {NEW} more, {args.threads} thread(s), tokens/s")
    print(f"{'model':<8} {'batch':>5} {'ours':>10} {'generate':>10} {'ratio':>7} {'(processor)':>12}  its fastest form")
    for width in args.widths:
        for batch in args.batches:
            ours, theirs, form = compare(width, batch, not args.eager)
            ratios = f"{ours.wall / theirs.wall:>6.2f}x {ours.processor / theirs.processor:>11.2f}x"
            print(f"d{width:<7} {batch:>5} {ours.wall:>10,.0f} {theirs.wall:>10,.0f} {ratios}  {form}", flush=True)


if __name__ == "__main__":
    main()
