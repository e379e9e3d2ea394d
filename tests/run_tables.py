"""Tables of runs that follow a known law, for the tests of reading, checking and fitting them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from components.scaling.laws import ChinchillaLaw

LAW = ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # Besiroglu et al. 2024, table 1


def grid(noise: float = 0.005, seed: int = 0, sizes: int = 8, lengths: int = 6, ratio: float = 0.0) -> dict[str, Any]:
    """Cells of `sizes` x `lengths` runs; with a `ratio`, D = ratio · N in all of them."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.geomspace(5e7, 1.6e10, sizes), lengths)
    d = ratio * n if ratio else np.tile(np.geomspace(1e9, 5e11, lengths), sizes)
    loss = LAW.loss(n, d) * np.exp(noise * rng.standard_normal(len(n)))
    return {"params": n.tolist(), "tokens": d.tolist(), "loss": loss.tolist()}


def csv_of(cells: dict[str, Any], separator: str = ",") -> bytes:
    """As a file."""
    out = io.StringIO()
    out.write(separator.join(cells) + "\n")
    for row in zip(*cells.values(), strict=True):
        out.write(separator.join("" if cell is None else str(cell) for cell in row) + "\n")
    return out.getvalue().encode()
