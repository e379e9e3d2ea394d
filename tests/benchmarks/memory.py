"""Peak memory of training by stage and size: measured here, beside what `lifespan plan` predicts; also for 1B and 8B.

    python tests/benchmarks/memory.py                  # 135M shapes on this CPU, a few minutes
    python tests/benchmarks/memory.py --sizes 135M 360M
    python tests/benchmarks/memory.py --sizes          # predictions alone

Weights are random. Each case runs two steps in a process of its own; measured is the growth of its resident memory from
before the model is built. The allocator gives back at once there what tensors free; in a run it keeps up to 1 GB of it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from components.model.config import ModelConfig, count_params
from components.training.config import FinetuneConfig, LoRAConfig, NonFiniteConfig, OptimizerConfig, TrainConfig
from components.training.memory_estimate import MemoryEstimate, Training, training_memory

# SmolLM2-135M and -360M, Llama-3.2-1B, Llama-3.1-8B.
SIZES = {
    "135M": ModelConfig(49152, 576, 30, 9, 3, 64, 1536, 2048),
    "360M": ModelConfig(49152, 960, 32, 15, 5, 64, 2560, 2048),
    "1B": ModelConfig(128256, 2048, 16, 32, 8, 64, 8192, 4096),
    "8B": ModelConfig(128256, 4096, 32, 32, 8, 128, 14336, 4096, tie_embeddings=False),
}
ADAMW = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-5)
NONE_KEPT = NonFiniteConfig(max_rollbacks=0)
PLAIN = TrainConfig(2, 4, 256, optimizer=ADAMW, non_finite=NONE_KEPT)
CASES: dict[str, TrainConfig] = {
    "pretrain, AdamW": PLAIN,
    "pretrain, Muon": replace(PLAIN, optimizer=OptimizerConfig(muon_lr=0.01)),
    "pretrain, AdamW, rows of 512": replace(PLAIN, batch_size=2, context_length=512),
    "pretrain, checkpointing": replace(PLAIN, gradient_checkpointing=True),
    "pretrain, AdamW, snapshot": replace(PLAIN, non_finite=NonFiniteConfig(snapshot_every=1)),
    "finetune, LoRA": FinetuneConfig(2, 4, 256, optimizer=ADAMW, non_finite=NONE_KEPT, lora=LoRAConfig()),
}


def predicted(cfg: ModelConfig, case: TrainConfig, device: str = "cpu") -> MemoryEstimate:
    lora = case.lora if isinstance(case, FinetuneConfig) else None
    return training_memory(
        Training(
            cfg,
            case.batch_size // case.accumulation,
            case.context_length,
            case.optimizer,
            case.precision,
            case.non_finite,
            lora,
            case.accumulation > 1,
            checkpointing=case.gradient_checkpointing,
        ),
        device,
    )


def measured(size: str, case: str) -> int:
    """Bytes, by a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", size, case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def child(size: str, case: str) -> None:
    """Two steps; prints the growth of the resident memory at its highest."""
    import torch

    from components.model.skeleton import skeleton
    from components.native import library
    from components.training.guard import Guard
    from components.training.language_model import LMBatch, train
    from components.training.lora import add_lora
    from components.training.optimizers import Optimizer

    cfg, config = SIZES[size], CASES[case]
    torch.set_num_threads(1)
    library.library()
    library.own_products()
    libc = ctypes.CDLL(None)
    for option, value in ((-3, 1 << 16), (-1, 1 << 16), (-2, 0)):  # mmap threshold, trim threshold, top pad
        libc.mallopt(option, value)
    before = resident("VmRSS")
    model = skeleton(cfg)
    with torch.no_grad():
        for param in model.parameters():
            param.uniform_(-0.02, 0.02)
    if isinstance(config, FinetuneConfig) and config.lora:
        add_lora(model, config.lora, 0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again

    def batch_at(step: int) -> LMBatch:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(0, cfg.vocab_size, (config.batch_size, config.context_length + 1), generator=generator)
        return LMBatch(rows[:, :-1], rows[:, 1:])

    for _ in train(model, Optimizer(model, config.optimizer), config, batch_at, guard=Guard(config.non_finite)):
        pass
    print(json.dumps({"bytes": resident("VmHWM") - before}))


def resident(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["135M"], choices=list(SIZES), help="to measure")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    print(
        f"{'size':<6} {'case':<30} {'tokens':>6} {'measured':>9} {'predicted':>10} {'ratio':>6} {'B a parameter':>14}"
    )
    for size in SIZES:
        for name in given.cases:
            config, cfg = CASES[name], SIZES[size]
            bytes_ = predicted(cfg, config).total
            each = f"{bytes_ / count_params(cfg).total:>12.1f}"
            tokens = config.batch_size * config.context_length
            found = ratio = ""
            if size in given.sizes:
                real = measured(size, name)
                found, ratio = f"{real / 1e9:.2f} GB", f"{bytes_ / real:.2f}"
            print(f"{size:<6} {name:<30} {tokens:>6} {found:>9} {bytes_ / 1e9:>7.2f} GB {ratio:>6} {each}", flush=True)


if __name__ == "__main__":
    main()
