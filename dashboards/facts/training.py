"""Data, tokenizer, pretraining and fine-tuning."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from components.data.results import (
    ConversationSourceFacts,
    ConversationsResult,
    CorpusResult,
    FunnelStep,
    ShardsResult,
    TokenizerResult,
)
from components.model.hub.results import ImportedModelResult, ImportedTokenizerResult
from components.training.results.finetuning import FinetuneResult
from components.training.results.pretraining import PretrainResult
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, not_measured, raises, readable
from dashboards.facts.scores import best, paired, scores_of
from dashboards.run_data import Row, RunRows, Series, StageRow, known, known_values


@dataclass(frozen=True)
class DataFacts:
    """duplicates: documents removed as exact or near duplicates; masked_pii: occurrences of personal data that were
    masked; quarantined: rejected records by reason. reasons: documents removed by step and
    reason. conversations: of fine-tuning, by source; read: what the sources
    of a user's own gave."""

    funnel: tuple[FunnelStep, ...]
    num_documents: int | None
    num_bytes: int | None
    duplicates: int | None
    masked_pii: int | None
    quarantined: tuple[tuple[str, int], ...]
    vocab_size: int | None
    bytes_per_token: float | None
    num_tokens: int | None
    conversations: Mapping[str, int] = field(default_factory=dict)
    read: tuple[ConversationSourceFacts, ...] = ()
    reasons: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.step for step in self.funnel))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.source for step in self.funnel))

    @property
    def removed(self) -> dict[tuple[str, str], int]:
        """Documents that a step took, by source and step."""
        left = {(step.source, step.step): step.documents for step in self.funnel}
        return {
            (source, step): left[source, before] - left[source, step]
            for source in self.sources
            for before, step in itertools.pairwise(self.steps)
            if (source, before) in left and (source, step) in left and left[source, before] > left[source, step]
        }


@readable
def data_facts(rows: RunRows) -> DataFacts | Missing:
    found = rows.find("prepare_corpus")
    corpus = rows.result(found, CorpusResult) if found else None
    shards = rows.result_of("tokenize", ShardsResult)
    trained = rows.result_of("train_tokenizer", TokenizerResult)
    imported = rows.result_of("import_tokenizer", ImportedTokenizerResult)
    tokenizer = trained or imported
    if corpus is None and tokenizer is None and shards is None:
        return Missing(rows.why_missing("data", "The data"))
    told = rows.result_of("make_conversations", ConversationsResult)
    keys = {stage.key for name in ("prepare_corpus", "make_conversations") if (stage := rows.find(name))}
    reasons = Counter(str(row["reason"]) for row in rows.quarantine if not keys or row["key"] in keys)
    return DataFacts(
        funnel=corpus.funnel if corpus else (),
        num_documents=corpus.num_documents if corpus else None,
        num_bytes=corpus.num_bytes if corpus else None,
        duplicates=corpus.num_duplicates if corpus else None,
        masked_pii=sum(corpus.masked_pii.values()) if corpus else None,
        quarantined=tuple(reasons.most_common()),
        vocab_size=tokenizer.vocab_size if tokenizer else None,
        bytes_per_token=known(trained.bytes_per_token) if trained else None,
        num_tokens=shards.num_tokens if shards else None,
        conversations=(told.conversations_by_source or {}) if told else {},
        read=(told.read or ()) if told else (),
        reasons=_reasons(rows.funnel),
    )


def _reasons(funnel: Iterable[Row]) -> dict[tuple[str, str], int]:
    """In the order of the steps, of one the most frequent first."""
    counts: Counter[tuple[int, str, str]] = Counter()
    for row in funnel:
        if row["reason"] and row["removed"]:
            counts[row["position"], row["step"], row["reason"]] += row["removed"]
    ordered = sorted(counts.items(), key=lambda pair: (pair[0][0], -pair[1]))
    return {(step, reason): count for (_, step, reason), count in ordered}


@dataclass(frozen=True)
class TrainingFacts:
    """One training stage. Losses are in nats per token. loss: on test conversations, where fine-tuning measured it;
    training_loss: of the last steps, where pretraining noted it; losses_by_source and bits_per_byte: on held-out text;
    curve: the training loss by step.

    `tokens_per_second` and `mfu` are medians over the steps. skipped_steps, rollbacks: what non-finite losses did.
    early_stop: best_step, best_loss, last_step, last_loss and overfitting, where validation conversations were watched.
    """

    label: str
    num_params: int | None
    num_tokens: int | None
    loss: float | None
    training_loss: float | None
    losses_by_source: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    curve: Series
    gradient_norm: Series
    tokens_per_second: float | None
    mfu: float | None
    skipped_steps: int
    rollbacks: int
    early_stop: Mapping[str, float]


def _training(rows: RunRows, stage: StageRow, result: PretrainResult | FinetuneResult) -> TrainingFacts:
    speed, used = rows.metric(stage, "tokens_per_second"), rows.metric(stage, "mfu")
    tuned = isinstance(result, FinetuneResult)
    watched = result.early_stop if isinstance(result, FinetuneResult) else None
    return TrainingFacts(
        label=stage.label,
        num_params=result.num_params,
        num_tokens=result.num_tokens,
        loss=known(result.loss) if tuned else None,
        training_loss=None if tuned else known(result.loss),
        losses_by_source=known_values(result.losses_by_source),
        bits_per_byte=known_values(result.bits_per_byte),
        curve=rows.metric(stage, "loss"),
        gradient_norm=rows.metric(stage, "grad_norm"),
        tokens_per_second=statistics.median(speed.values) if speed else None,
        mfu=statistics.median(used.values) if used else None,
        skipped_steps=result.guard.skipped_steps,
        rollbacks=result.guard.rollbacks,
        early_stop=vars(watched) if watched else {},
    )


@readable
def pretraining_facts(rows: RunRows) -> TrainingFacts | Missing:
    stage, imported = rows.find("pretrain"), rows.result_of("import_model", ImportedModelResult)
    if stage is None and imported is not None:
        return Missing(f"The base model was not trained here: it was imported from {imported.source}")
    if stage is None:
        return Missing(rows.why_missing("pretraining", "Pretraining"))
    return _training(rows, stage, rows.result(stage, PretrainResult))


@dataclass(frozen=True)
class FinetuningFacts:
    """`before`: held-out losses by source of the base model, to show what was forgotten. `conversations`: of training,
    validation and test, no two of which share a prompt."""

    training: TrainingFacts
    before: Mapping[str, float]
    conversations: Mapping[str, int]
    effects: tuple[Effect, ...]


@readable
def finetuning_facts(rows: RunRows) -> FinetuningFacts | Missing:
    stage = rows.find("finetune")
    if stage is None:
        return Missing(rows.why_missing("sft", "Fine-tuning"))
    result = rows.result(stage, FinetuneResult)
    before = known_values(result.losses_by_source_before)
    effects = (_finetuning_effect(rows),)
    return FinetuningFacts(_training(rows, stage, result), before, result.num_conversations, effects)


def _finetuning_effect(rows: RunRows) -> Effect:
    slug, title = "finetuning", "Fine-tuning teaches the task"
    scores = scores_of(rows, "chains")
    base, tuned = best(scores, "base"), best(scores, "sft", greedy=True)
    if base is None or tuned is None:
        return not_measured(slug, title, "needs answers of the base and of the fine-tuned model to the same items")
    gap = paired(tuned, base)
    if gap is None:
        return not_measured(slug, title, "the base and the fine-tuned model answered no common items")
    return raises(
        slug,
        title,
        gap,
        "points",
        f"base {formatting.percent(base.accuracy.value)} ({base.label}) → "
        f"fine-tuned {formatting.percent(tuned.accuracy.value)} ({tuned.label})",
        "paired items, Tango's 95% interval; seen when it lies above 0",
    )
