"""Data, tokenizer, pretraining and fine-tuning."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, not_measured, raises
from dashboards.facts.scores import best, paired, scores_of
from dashboards.run_data import RunRows, Series, StageRow, listed, number, numbers, whole


@dataclass(frozen=True)
class FunnelStep:
    """What was left of a source after a step."""

    source: str
    step: str
    documents: int | None
    bytes: int | None


@dataclass(frozen=True)
class DataFacts:
    """`quarantined`: rejected records by reason."""

    funnel: tuple[FunnelStep, ...]
    num_documents: int | None
    num_bytes: int | None
    duplicates: int | None
    masked_pii: int | None
    quarantined: tuple[tuple[str, int], ...]
    vocab_size: int | None
    bytes_per_token: float | None
    num_tokens: int | None

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.step for step in self.funnel))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.source for step in self.funnel))


def data_facts(rows: RunRows) -> DataFacts | Missing:
    corpus, shards = rows.find("prepare_corpus"), rows.find("tokenize")
    tokenizer = rows.find("train_tokenizer", "import_tokenizer")
    if corpus is None and tokenizer is None and shards is None:
        return Missing(rows.why_missing("data", "The data"))
    facts = corpus.facts if corpus else {}
    reasons = Counter(str(row["reason"]) for row in rows.quarantine if corpus is None or row["key"] == corpus.key)
    return DataFacts(
        funnel=tuple(
            FunnelStep(
                str(entry.get("source", "?")),
                str(entry.get("step", "?")),
                whole(entry, "documents"),
                whole(entry, "bytes"),
            )
            for entry in listed(facts, "funnel")
        ),
        num_documents=whole(facts, "num_documents"),
        num_bytes=whole(facts, "num_bytes"),
        duplicates=whole(facts, "duplicates"),
        masked_pii=whole(facts, "masked_pii"),
        quarantined=tuple(reasons.most_common()),
        vocab_size=whole(tokenizer.facts, "vocab_size") if tokenizer else None,
        bytes_per_token=number(tokenizer.facts, "bytes_per_token") if tokenizer else None,
        num_tokens=whole(shards.facts, "num_tokens") if shards else None,
    )


EARLY_STOP = ("best_step", "best_loss", "last_step", "last_loss", "overfitting")


@dataclass(frozen=True)
class TrainingFacts:
    """One training stage. Losses are nats a token on held-out text; `curve` is the training loss by step.

    `tokens_per_second` and `mfu` are medians over the steps. skipped_steps, rollbacks: what non-finite losses did.
    early_stop: best_step, best_loss, last_step, last_loss and overfitting, where held-out text was watched.
    """

    label: str
    num_params: int | None
    num_tokens: int | None
    loss: float | None
    losses_by_source: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    curve: Series
    gradient_norm: Series
    tokens_per_second: float | None
    mfu: float | None
    skipped_steps: int
    rollbacks: int
    early_stop: Mapping[str, float]


def _training(rows: RunRows, stage: StageRow) -> TrainingFacts:
    speed, used = rows.metric(stage, "tokens_per_second"), rows.metric(stage, "mfu")
    watched = {name: value for name in EARLY_STOP if (value := number(stage.facts, name)) is not None}
    by_source = stage.facts.get("bits_per_byte")
    overall = number(stage.facts, "bits_per_byte")
    return TrainingFacts(
        label=stage.label,
        num_params=whole(stage.facts, "num_params"),
        num_tokens=whole(stage.facts, "num_tokens"),
        loss=number(stage.facts, "loss"),
        losses_by_source=numbers(stage.facts, "losses_by_source"),
        bits_per_byte={"all": overall} if overall is not None else numbers({"b": by_source}, "b"),
        curve=rows.metric(stage, "loss"),
        gradient_norm=rows.metric(stage, "grad_norm"),
        tokens_per_second=statistics.median(speed.values) if speed else None,
        mfu=statistics.median(used.values) if used else None,
        skipped_steps=whole(stage.facts, "skipped_steps") or 0,
        rollbacks=whole(stage.facts, "rollbacks") or 0,
        early_stop=watched if len(watched) == len(EARLY_STOP) else {},
    )


def pretraining_facts(rows: RunRows) -> TrainingFacts | Missing:
    stage, imported = rows.find("pretrain"), rows.find("import_model")
    if stage is None and imported is not None:
        return Missing(f"The base model was not trained here: it was imported from {imported.facts.get('source', '?')}")
    return _training(rows, stage) if stage else Missing(rows.why_missing("pretraining", "Pretraining"))


@dataclass(frozen=True)
class FinetuningFacts:
    """`before`: held-out losses by source of the base model, to show what was forgotten."""

    training: TrainingFacts
    before: Mapping[str, float]
    effects: tuple[Effect, ...]


def finetuning_facts(rows: RunRows) -> FinetuningFacts | Missing:
    stage, base = rows.find("finetune", "sft"), rows.find("pretrain")
    if stage is None:
        return Missing(rows.why_missing("sft", "Fine-tuning"))
    before = numbers(base.facts, "losses_by_source") if base else numbers(stage.facts, "losses_by_source_before")
    return FinetuningFacts(_training(rows, stage), before, (_finetuning_effect(rows),))


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
        f"base {formatting.percent(base.accuracy.value)} ({base.strategy}) → "
        f"fine-tuned {formatting.percent(tuned.accuracy.value)} ({tuned.strategy})",
        "paired items, Tango's 95% interval; seen when it lies above 0",
    )
