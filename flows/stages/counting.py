"""What stages of alignment count and log, and no result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.model.config import LSTMConfig, ModelConfig, count_params, forward_flops_per_token
from flows.engine.work import Work

if TYPE_CHECKING:
    from components.model.transformer import Transformer
    from components.training.guard import Guard


def count_generation(work: Work, model: Transformer, num_tokens: float) -> None:
    """Add sampled tokens and their forward passes to what the stage has used."""
    count_answers(work, model.cfg, 0.0, num_tokens)


def count_answers(work: Work, cfg: ModelConfig, prompt_tokens: float, generated_tokens: float) -> None:
    """Add what a model read and sampled, and its forward passes, to what the stage has used."""
    tokens = prompt_tokens + generated_tokens
    work.usage(
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        flops=tokens * forward_flops_per_token(cfg, cfg.context_length),
        flops_6nd=rough_flops(cfg, tokens, 1),
    )


def rough_flops(cfg: ModelConfig | LSTMConfig, tokens: float, passes: float) -> float:
    """2N FLOPs a token and forward pass, N the parameters that a token uses with embeddings; a backward pass counts as
    two, so that training has three and comes to 6ND."""
    return 2.0 * passes * count_params(cfg).active * tokens


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
