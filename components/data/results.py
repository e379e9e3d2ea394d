"""What the stages of data return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FunnelStep:
    """What was left of a source after a step of `components.data.pipeline.STEPS`."""

    source: str
    step: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class SourceFacts:
    """What is left of a source: a data card.

    num_whole: whole documents, of which num_documents counts the passages; num_valid: of these, for validation.
    lengths: documents of at most 250, 500, 1,000, … 32,000 characters, and of more.
    """

    name: str
    kind: str
    licence: str
    weight: float
    num_documents: int
    num_whole: int
    num_bytes: int
    num_valid: int
    languages: Mapping[str, int]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class CorpusResult:
    """num_duplicates: documents removed as exact or near duplicates; num_contaminated: those removed because they hold
    an evaluation prompt. masked_pii: kind of personal data -> occurrences that were masked."""

    num_documents: int
    num_bytes: int
    num_quarantined: int
    num_contaminated: int
    num_duplicates: int
    masked_pii: Mapping[str, int]
    funnel: tuple[FunnelStep, ...]
    sources: tuple[SourceFacts, ...] = ()


@dataclass(frozen=True)
class TokenizerResult:
    """bytes_per_token: on held-out documents."""

    vocab_size: int
    bytes_per_token: float


@dataclass(frozen=True)
class ShardsResult:
    """num_tokens and tokens_by_source: of the training split."""

    num_tokens: int
    num_valid_tokens: int
    tokens_by_source: Mapping[str, int]


@dataclass(frozen=True)
class ConversationSourceFacts:
    """What one source of a user's gave. num_records: that its files hold; layouts: conversations by the layout that was
    detected; rejected: records by the reason why they were not taken."""

    name: str
    num_files: int
    num_records: int
    num_conversations: int
    layouts: Mapping[str, int]
    rejected: Mapping[str, int]


@dataclass(frozen=True)
class ConversationsResult:
    num_conversations: int
    conversations_by_source: Mapping[str, int] | None = None  # None: they all have one source
    read: tuple[ConversationSourceFacts, ...] | None = None  # None: they are all generated


@dataclass(frozen=True)
class PromptsResult:
    """Prompts of the user's own. num_answers: those with a reference. num_duplicates: prompts that stood before;
    num_contaminated: training prompts that hold a question of an evaluation set and were left out."""

    num_train: int
    num_held_out: int
    num_answers: int
    num_quarantined: int
    num_duplicates: int
    num_contaminated: int
