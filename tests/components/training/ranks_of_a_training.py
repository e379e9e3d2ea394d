"""One rank of a small training, started by torchrun: `python ranks_of_a_training.py SETTINGS.json`.

Writes its losses to `losses-RANK.json`; with `save_at` the state after that step, with `load` it begins from one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.training import distributed
from components.training.config import OptimizerConfig, PretrainConfig
from components.training.early_stop import EarlyStop
from components.training.guard import Guard
from components.training.language_model import IGNORE, LMBatch, train
from components.training.optimizers import Optimizer

MODELS = {
    "dense": ModelConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=2, context_length=12, d_ff=20),
    "moe": ModelConfig(
        vocab_size=50,
        d_model=16,
        num_layers=2,
        num_heads=2,
        context_length=12,
        d_ff=20,
        moe=MoEConfig(num_experts=5, top_k_experts=2, d_ff=12, load_balance_coef=0.05, balance_bias_rate=0.01),
    ),
}


def batch_at(step: int) -> LMBatch:
    """Of 12 rows, as of fine-tuning: documents, padding, targets that do not count; no two rows alike."""
    generator = torch.Generator().manual_seed(step)
    tokens_BT = torch.randint(50, (12, 12), generator=generator)
    targets_BT = tokens_BT.roll(-1, 1).masked_fill(torch.rand(12, 12, generator=generator) < 0.3, IGNORE)
    documents_BT = torch.ones(12, 12, dtype=torch.int64)
    documents_BT[:, 6:] = 2
    documents_BT[::3, 9:] = 0
    positions_BT = torch.arange(12).remainder(6).expand(12, 12)
    return LMBatch(tokens_BT, targets_BT.masked_fill(documents_BT == 0, IGNORE), positions_BT, documents_BT)


def run(settings: dict[str, Any]) -> list[float]:
    """The losses of the steps that were done."""
    torch.set_default_dtype(torch.float64)
    out = Path(settings["out"])
    config = PretrainConfig(
        num_steps=settings["steps"],
        batch_size=12,
        context_length=12,
        accumulation=settings.get("accumulation", 1),
        optimizer=OptimizerConfig(muon_lr=0.02, weight_decay=0.1),
        max_grad_norm=0.5,
    )
    model = Transformer(MODELS[settings["model"]], seed=1)
    guard, best = Guard(config.non_finite), EarlyStop(0)
    if not settings["parallel"]:
        optimizer, loss, batches, group = Optimizer(model, config.optimizer), None, batch_at, None
    else:
        group = distributed.Group(model, settings["parallel"])
        optimizer = group.adopt(Optimizer(model, config.optimizer))
        loss, batches = group.loss, group.batches(batch_at)
    start = 0
    folder = Path(settings["load"]) if settings.get("load") else newest(out)
    if folder:
        start = int(folder.name)
        distributed.load_sharded(folder, model, optimizer, (guard, best))
        assert guard.snapshot_step == 0 and guard.snapshot
        assert best.best_step == start
    losses = []
    for record in train(model, optimizer, config, batches, start, loss=loss, guard=guard):
        losses.append(record.loss)
        if record.step in settings.get("save_at", []):
            best.look(record.step, -float(record.step), model)
            distributed.save_sharded(out / str(record.step), model, optimizer, (guard, best))
            (out / f"{record.step}.whole").touch()
        fuse = out / "fuse"
        if record.step == settings.get("kill_at") and distributed.rank_and_size()[0] == 1 and fuse.exists():
            fuse.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    if group is not None:
        whole = group.full_weights()
        assert {name: tuple(value.shape) for name, value in whole.items()} == {
            name: tuple(value.shape) for name, value in Transformer(MODELS[settings["model"]]).state_dict().items()
        }
    return losses


def newest(out: Path) -> Path | None:
    """What a killed attempt saved last, whole."""
    steps = [int(path.stem) for path in out.glob("*.whole")]
    return out / str(max(steps)) if steps else None


def main() -> None:
    torch.set_num_threads(1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    distributed.join(torch.device("cpu"))
    rank, _ = distributed.rank_and_size()
    losses = run(settings)
    Path(settings["out"], f"losses-{rank}.json").write_text(json.dumps(losses))
    distributed.leave()


if __name__ == "__main__":
    main()
