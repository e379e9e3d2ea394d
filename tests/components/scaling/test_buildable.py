"""Decoders near a wanted N."""

from __future__ import annotations

import pytest

from components.model.config import count_params
from components.scaling.buildable import buildable


@pytest.mark.parametrize("wanted", [2e6, 1.3e8, 7e9, 7e10, 5e11])
def test_a_decoder_near_any_size_with_a_usual_aspect(wanted: float) -> None:
    found = buildable(wanted, 32_000 if wanted > 1e7 else 256)
    assert abs(found.off) < 0.03
    counts = count_params(found.model)
    assert counts.total == found.num_params
    assert 16 <= found.model.d_model / found.model.num_layers <= 200
    assert found.model.d_model == found.model.num_heads * found.model.per_head
    without = buildable(wanted, 32_000 if wanted > 1e7 else 256, "non_embedding")
    assert without.num_params == count_params(without.model).non_embedding and abs(without.off) < 0.03


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="take a smaller --vocab"):
        buildable(1e6, 128_256)
    with pytest.raises(ValueError, match="FLOPs per token"):
        buildable(1e9, 32_000, "flops_per_token")
