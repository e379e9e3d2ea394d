"""Speed of the hot paths beside a named peer, both sides in this run, medians: `make bench`.

No time is asserted anywhere: the table is for reading. Sides alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig, count_params
from components.model.transformer import Transformer
from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer


@dataclass(frozen=True)
class Race:
    """One comparison: units of work a call of each side, and what a unit is."""

    work: str
    peer: str
    unit: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    repeats: int = 5


def rate(side: Callable[[], float]) -> float:
    """Units a second of one call."""
    began = time.perf_counter()
    units = side()
    return units / (time.perf_counter() - began)


def run(race: Race) -> tuple[float, float]:
    """Median rates of both sides, taken in turn after one warm-up each."""
    race.ours(), race.theirs()
    pairs = [(rate(race.ours), rate(race.theirs)) for _ in range(race.repeats)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


class TorchLayers(nn.Module):
    """A decoder of torch.nn.TransformerEncoderLayer with learned positions: what torch itself offers."""

    def __init__(self, vocab_size: int, d_model: int, num_layers: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.zeros(length, d_model))
        layer = nn.TransformerEncoderLayer(
            d_model, num_heads, 4 * d_model, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(tokens_BT) + self.positions
        return self.layers(x_BTD, self.mask, is_causal=True) @ self.embedding.weight.T


def training(d_model: int, rows: int = 32, length: int = 128, steps: int = 4) -> Race:
    cfg = ModelConfig(vocab_size=512, d_model=d_model, num_heads=d_model // 32, context_length=length)
    tokens = torch.randint(0, 512, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    batch = LMBatch(tokens[:, :-1], tokens[:, 1:])
    adamw = OptimizerConfig(muon_lr=0.0)  # the peer's optimizer: the models are what is compared
    model = Transformer(cfg)
    loop = train(model, Optimizer(model, adamw), TrainConfig(10**9, rows, length), lambda step: batch)
    peer = TorchLayers(512, d_model, 4, d_model // 32, length)
    optimizer = torch.optim.AdamW(peer.parameters(), 3e-3, fused=True)

    def ours() -> float:
        for _ in range(steps):
            next(loop)
        return steps * rows * length

    def theirs() -> float:
        for _ in range(steps):
            loss = F.cross_entropy(peer(batch.tokens_BT).flatten(0, 1), batch.targets_BT.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return steps * rows * length

    size = count_params(cfg).non_embedding
    return Race(f"train d{d_model} ({size / 1e6:.2f}M)", "torch.nn.TransformerEncoder", "tokens/s", ours, theirs)


def generation(batch: int, new_tokens: int = 48) -> Race:
    model = Transformer(ModelConfig(vocab_size=512, context_length=128)).eval()
    prompts = np.random.default_rng(0).integers(0, 512, (batch, 16)).tolist()

    def ours() -> float:
        generate(model, prompts, SamplingParams(max_tokens=new_tokens, temperature=0.0))
        return batch * new_tokens

    @torch.inference_mode()
    def theirs() -> float:
        rows = torch.tensor(prompts)
        for _ in range(new_tokens):
            rows = torch.cat([rows, model(rows)[:, -1:].argmax(-1)], 1)
        return batch * new_tokens

    return Race(f"generate, batch {batch}", "the same model without a cache", "tokens/s", ours, theirs, repeats=3)


def law_fit() -> Race:
    law, rng = ChinchillaLaw(1.69, 406.4, 410.7, 0.34, 0.28), np.random.default_rng(0)
    points = [
        ScalingPoint(n, d, law.loss(n, d) * float(np.exp(rng.normal(0, 0.005))), f"{n}")
        for n in np.geomspace(1e7, 1e10, 10)
        for d in np.geomspace(1e9, 1e12, 10)
    ]
    log_n, log_d, log_loss = (np.log([getattr(p, f) for p in points]) for f in ("num_params", "tokens", "loss"))

    def ours() -> float:
        fit_chinchilla(points, ChinchillaFitConfig(resamples=0))
        return 1

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        predicted = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
        gap = np.abs(predicted - log_loss)
        return float(np.where(gap < 1e-3, gap**2 / 2, 1e-3 * (gap - 5e-4)).sum())

    def theirs() -> float:
        starts = [
            (a, b, e, x, y) for a in (0, 10) for b in (0, 10) for e in (0, 1) for x in (0.2, 0.8) for y in (0.2, 0.8)
        ]
        min((minimize(objective, s, method="L-BFGS-B") for s in starts), key=lambda r: r.fun)
        return 1

    return Race("fit a law, 100 points", "scipy L-BFGS-B from 32 starts", "fits/s", ours, theirs, repeats=3)


def metric_rows(folder: Path, points: int = 5000) -> Race:
    from datetime import UTC, datetime
    from itertools import count

    import mlflow
    from mlflow.entities import Metric

    from storage.tables import Tables

    tables, parts = Tables(str(folder / "tables")), count()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    mlflow_run = client.create_run("0")
    names = {"run_id": "r", "key": "k", "stage": "s", "name": "loss", "time": datetime.now(UTC)}

    def ours() -> float:
        tables.write("metrics", f"part{next(parts)}", [{**names, "step": i, "value": 1.0} for i in range(points)])
        return points

    def theirs() -> float:
        first = next(parts) * points
        for start in range(0, points, 1000):
            metrics = [Metric("loss", 1.0, 0, first + start + i) for i in range(1000)]
            client.log_batch(mlflow_run.info.run_id, metrics)
        return points

    return Race("log metrics", "mlflow log_batch on SQLite", "points/s", ours, theirs, repeats=3)


def races(folder: Path) -> Iterator[Race]:
    yield training(64)
    yield training(128)
    yield generation(1)
    yield generation(64)
    yield law_fit()
    yield metric_rows(folder)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'work':<24} {'ours':>12} {'peer':>12} {'ratio':>7}  unit      peer is")
    with tempfile.TemporaryDirectory() as folder:
        for race in races(Path(folder)):
            ours, theirs = run(race)
            print(f"{race.work:<24} {ours:>12,.1f} {theirs:>12,.1f} {ours / theirs:>6.2f}x  {race.unit:<9} {race.peer}")


if __name__ == "__main__":
    main()
