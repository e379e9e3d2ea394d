"""Pairs of answers as an evaluation: which of both a model itself finds more probable, per token.

Per token, since a longer answer is less probable as a whole (the margin of both is kept). A tie is no preference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.data.files import Quarantined, SourceError
from components.data.tokenizer import Tokenizer
from components.model.transformer import Transformer
from components.reasoning.question_files import Question
from components.rlhf.formats import PreferenceFileError, read_file
from components.rlhf.pairs import encode_pairs
from components.rlhf.preferences import Preference, Turn
from components.rlhf.rollouts import pack_responses, token_stats

STRATEGY = "log_probability"
_BATCH = 16


@dataclass(frozen=True)
class Ranked:
    """margin: mean log-probability per token of the chosen answer minus that of the rejected one, nats; sum_margin: of
    the whole answers. tokens: of both with their prompts."""

    question: Question
    margin: float
    sum_margin: float
    tokens: int

    @property
    def correct(self) -> bool:
        """The chosen answer is the more probable one."""
        return self.margin > 0


def read_pairs(name: str, path: str, max_items: int = 0) -> tuple[list[Question], list[Quarantined]]:
    """The pairs of a file in any format of `components/rlhf/formats.py`, and the lines that hold none.

    Raises SourceError for a file without a pair.
    """
    try:
        found = read_file(Path(path))
    except PreferenceFileError as error:
        raise SourceError(f"evaluation {name!r}: {error}") from None
    questions = [
        Question(
            name,
            p.pair_id or f"{name}:{line}",
            p.prompt,
            p.prompt,
            p.chosen,
            {"rejected": p.rejected, "context": [dataclasses.asdict(turn) for turn in p.context]},
            path,
            line,
        )
        for p, line in zip(found.preferences, found.lines, strict=True)
    ]
    left_out = [Quarantined(name, path, bad.line or 0, bad.reason, bad.excerpt) for bad in found.left_out]
    return questions[:max_items] if max_items else questions, left_out


@torch.no_grad()
def rank_pairs(
    model: Transformer, words: Tokenizer, questions: Sequence[Question]
) -> tuple[list[Ranked], list[tuple[int, str]]]:
    """Every pair that fits the model's context, and (place, reason) of those that do not."""
    preferences = [
        Preference(
            q.question,
            q.answer,
            str(q.metadata["rejected"]),
            context=tuple(Turn(turn["role"], turn["content"]) for turn in q.metadata.get("context", ())),
        )
        for q in questions
    ]
    pairs, too_long = encode_pairs(preferences, words, model.cfg.context_length)
    ranked = []
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        prompts = [list(p.chosen[: p.num_prompt]) for p in batch] * 2
        answers = [list(p.chosen[p.num_prompt :]) for p in batch] + [list(p.rejected[p.num_prompt :]) for p in batch]
        tokens_BT, lengths_B, mask_BA = pack_responses(prompts, answers)
        sums_B = token_stats(model, tokens_BT, mask_BA).log_probs_BA.double().sum(1)
        means_B = sums_B / mask_BA.sum(1)
        for place, pair in enumerate(batch):
            other = place + len(batch)
            ranked.append(
                Ranked(
                    questions[pair.index],
                    float(means_B[place] - means_B[other]),
                    float(sums_B[place] - sums_B[other]),
                    int(lengths_B[place] + lengths_B[other]),
                )
            )
    return ranked, too_long
