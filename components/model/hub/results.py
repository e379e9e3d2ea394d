"""What the stages return that import somebody else's model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImportedTokenizerResult:
    """source: folder, file or repository. end_of_turn: the token that ends an answer. chat_template: whose it is."""

    source: str
    vocab_size: int
    end_of_turn: str
    chat_template: str


@dataclass(frozen=True)
class ImportedModelResult:
    """revision: the commit of a model from the hub, else empty."""

    source: str
    revision: str
    num_params: int
    num_params_active: int
    num_params_non_embedding: int
    context_length: int
