"""Do rates tuned at one width hold at another? Models of growing width on a stream of facts, over a grid of rates.

    OMP_NUM_THREADS=1 python tests/benchmarks/width_transfer.py                    # ten minutes of a core
    OMP_NUM_THREADS=1 python tests/benchmarks/width_transfer.py --widths 16 64 --steps 60

For AdamW alone and for Muon, with `optimizer.base_width` off and at the smallest width: the loss (nats a token, mean of
the last fifth of the steps) at every rate, the best rate of each width, and what it costs to use the smallest width's.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import torch

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.scaling.facts import FactsConfig, facts_stream
from components.training.config import NonFiniteConfig, OptimizerConfig, TrainConfig
from components.training.guard import TrainingDiverged
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer
from components.training.schedules import ScheduleConfig
from components.training.transfer import scale_output

CONTEXT, ROWS, HEAD = 60, 16, 16
RATES = {"adamw": OptimizerConfig(muon_lr=0.0, adamw_lr=0.016), "muon": OptimizerConfig(muon_lr=0.04, adamw_lr=0.016)}


def final_loss(width: int, optimizer: OptimizerConfig, num_steps: int, seed: int = 0) -> float:
    """Mean training loss of the last fifth of the steps; infinite when the run diverged."""
    facts = FactsConfig()
    cfg = ModelConfig(facts.vocab_size, width, 2, width // HEAD, context_length=CONTEXT)
    model = Transformer(cfg, seed)
    scale_output(model, optimizer)
    config = TrainConfig(
        num_steps,
        ROWS,
        CONTEXT,
        optimizer=optimizer,
        schedule=ScheduleConfig("linear", num_steps // 10),
        non_finite=NonFiniteConfig(max_rollbacks=0),
    )
    stream = torch.from_numpy(facts_stream(facts, num_steps * ROWS * (CONTEXT + 1), seed + 1))
    rows = stream[: num_steps * ROWS * (CONTEXT + 1)].view(num_steps, ROWS, CONTEXT + 1).long()
    try:
        records = train(
            model, Optimizer(model, optimizer), config, lambda step: LMBatch(rows[step, :, :-1], rows[step, :, 1:])
        )
        losses = [record.loss for record in records]
    except TrainingDiverged:
        return math.inf
    last = losses[-num_steps // 5 :]
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128], help=f"multiples of {HEAD}")
    parser.add_argument("--steps", type=int, default=200)
    chosen = parser.parse_args()
    widths, num_steps = chosen.widths, chosen.steps
    factors = [2.0**k for k in range(-2, 4)]
    torch.set_num_threads(1)
    for name, base in RATES.items():
        for base_width in (0, widths[0]):
            print(f"\n{name}, optimizer.base_width = {base_width or 'off'}: loss by factor on the rates", flush=True)
            head = "".join(f"{factor:>8g}" for factor in factors)
            print(f"  width {head}    best  loss added by width {widths[0]}'s best", flush=True)
            tuned = 0
            for width in widths:
                losses = []
                for factor in factors:
                    rates = {"muon_lr": base.muon_lr * factor, "adamw_lr": base.adamw_lr * factor}
                    losses.append(final_loss(width, replace(base, **rates, base_width=base_width), num_steps))
                best = losses.index(min(losses))
                tuned = best if width == widths[0] else tuned
                penalty = losses[tuned] - losses[best]
                cells = "".join(f"{loss:8.3f}" for loss in losses)
                print(f"  {width:5d} {cells}{factors[best]:8g}  +{penalty:.3f}", flush=True)


if __name__ == "__main__":
    main()
