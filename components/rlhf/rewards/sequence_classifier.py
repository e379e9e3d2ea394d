"""A reward that is a published reward model: a sequence-classification model with one label, by path or hub name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.model.hub.source import BaseConfig, locate
from components.rlhf.rewards.answers import RewardError, Sample, Score, Scorer

BATCH = 16  # sequences of like length that are scored together


@dataclass(frozen=True)
class ClassifierReward:
    """The score of the conversation, with the answer as its last turn, in the chat template and the unit of the model
    itself. model: a folder with config.json and safetensors, `package:NAME`, or `owner/model` of the hub. revision:
    commit of a hub model, 40 hex digits. context_length: of the model at most (0: its own); a longer conversation is a
    failed score."""

    model: str
    kind: Literal["sequence_classifier"] = "sequence_classifier"
    name: str = ""
    weight: float = 1.0
    revision: str = ""
    context_length: int = 0

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model is empty: give a folder, or owner/model of the hub")
        _ = self.base

    @property
    def base(self) -> BaseConfig:
        """Where the model is, checked as `[base]` is."""
        return BaseConfig(self.model, self.revision, self.context_length)

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """It needs no reference."""
        return ""


def open_classifier(config: ClassifierReward) -> Scorer:
    """Raises RewardError for a model that cannot be read, or not be equal here, naming the field or tensor."""
    from components.model.hub.errors import UnsupportedModel
    from components.model.hub.imports import import_tokenizer
    from components.model.hub.sequence_classifier import import_classifier
    from components.native.fuse import fuse
    from components.rlhf.reward_model import RewardModel, score_sequences

    try:
        source = locate(config.model, config.revision)
        found = import_classifier(source, context_length=config.context_length)
        words = import_tokenizer(source, found.trunk.cfg.vocab_size)
    except UnsupportedModel as error:
        raise RewardError(f"rewards: {config.kind}: {error}") from None
    model = RewardModel.from_head(found.trunk, found.head)
    fuse(model)
    longest = found.trunk.cfg.context_length

    def tokens_of(sample: Sample) -> list[int]:
        turns = [*({**message} for message in sample.messages), {"role": "assistant", "content": sample.completion}]
        tokens, _ = words.render_chat(turns)
        return _unpadded(tokens, found.pad_id)

    def score(samples: Sequence[Sample]) -> list[Score]:
        scores: list[Score] = []
        sequences: list[list[int]] = []
        for sample in samples:
            try:
                tokens = tokens_of(sample)
            except ValueError as error:
                scores.append(Score.failed(str(error)))
                continue
            if len(tokens) > longest:
                scores.append(Score.failed(f"{len(tokens)} tokens; the reward model takes {longest}"))
                continue
            sequences.append(tokens)
            scores.append(Score(0.0))
        values = iter(score_sequences(model, sequences, BATCH).tolist() if sequences else [])
        return [Score(next(values)) if one.status == "answered" else one for one in scores]

    return score


def _unpadded(tokens: Sequence[int], pad_id: int | None) -> list[int]:
    """Up to the last token that is not padding, which is where transformers reads the score: also where a text ends
    with the padding token itself, as one whose end of turn is used for padding does."""
    last = max((place for place, token in enumerate(tokens) if token != pad_id), default=0)
    return list(tokens[: last + 1])
