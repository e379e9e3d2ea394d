"""What stages of alignment count and log, and no result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.model.config import forward_flops_per_token
from flows.engine.work import Work

if TYPE_CHECKING:
    from components.model.transformer import Transformer
    from components.training.guard import Guard


def count_generation(work: Work, model: Transformer, num_tokens: float) -> None:
    """Add sampled tokens and their forward passes to what the stage has used."""
    work.usage(tokens=num_tokens, flops=num_tokens * forward_flops_per_token(model.cfg, model.cfg.context_length))


def skips(step: int, metrics: Mapping[str, float], guard: Guard) -> dict[str, Any]:
    """Log updates that were not finite, and return what the live view shows of all so far."""
    skipped, back = (
        next((value for name, value in metrics.items() if name.endswith(end)), 0.0)
        for end in ("/skipped_updates", "/rolled_back")
    )
    if skipped:
        print(f"step {step}: {skipped:g} updates skipped: loss or gradient was not finite")
    if back:
        print(f"step {step}: back to the last snapshot, learning rate times {guard.rate:g} from here on")
    return {"skipped": guard.skipped} if guard.skipped else {}
