"""What the stages return that sample answers and collect preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AnswersResult:
    """mean_tokens: per answer. batch: by which people's judgements on these answers are stored. context_length: the
    shortest of the models that answered."""

    num_prompts: int
    num_answers: int
    mean_tokens: float
    batch: str
    context_length: int


@dataclass(frozen=True)
class PreferencesResult:
    """label_agreement: share of pairs that agree with gold, where gold is known. gold_mean, gold_std: of the fine-tuned
    model's answers, where gold is known. What only one source of preferences can tell is None for the others: people's
    batch, num_judgements and num_skipped; a model's name (judge), num_asked and num_swayed_by_position; a file's
    formats; num_ties, which all but gold count."""

    source: str
    num_pairs: int
    num_left_out: int
    label_agreement: float | None
    gold_mean: float | None
    gold_std: float | None
    batch: str | None = None
    num_judgements: int | None = None
    num_skipped: int | None = None
    judge: str | None = None
    num_asked: int | None = None
    num_swayed_by_position: int | None = None
    num_ties: int | None = None
    formats: Mapping[str, int] | None = None
