"""Given answers as an evaluation: which of them a model itself finds the most probable; nothing is generated.

Of a pair per token, since a longer answer is less probable as a whole (the margin of both is kept). Of the options of a
multiple choice as a whole, as lm-evaluation-harness's `acc` has it. A tie is no preference.
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
from components.reasoning.lm_eval_verifier import OPTIONS
from components.reasoning.question_files import Question
from components.rlhf.formats import PreferenceFileError, read_file
from components.rlhf.pairs import encode_pairs
from components.rlhf.preferences import Preference, Turn
from components.rlhf.rollouts import pack_responses, token_stats

STRATEGY = "log_probability"
_BATCH = 16


@dataclass(frozen=True)
class Ranked:
    """margin: what decides, log-probability of the right answer minus that of the best other one, nats; of a pair the
    mean per token. sum_margin: of the whole answers. picked: the most probable answer. tokens: of all with their
    prompts."""

    question: Question
    margin: float
    sum_margin: float
    picked: str
    tokens: int

    @property
    def target(self) -> str:
        """The right answer."""
        options = self.question.metadata.get(OPTIONS)
        return str(options[int(self.question.answer)]) if options else self.question.answer

    @property
    def correct(self) -> bool:
        """The right answer is the most probable one."""
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
                    str(
                        questions[pair.index].answer
                        if means_B[place] > means_B[other]
                        else preferences[pair.index].rejected
                    ),
                    int(lengths_B[place] + lengths_B[other]),
                )
            )
    return ranked, too_long


@torch.no_grad()
def rank_options(
    model: Transformer, words: Tokenizer, questions: Sequence[Question]
) -> tuple[list[Ranked], list[tuple[int, str]]]:
    """Every multiple choice whose options all fit the model's context, and (place, reason) of the rest."""
    ranked, too_long = [], []
    for index, question in enumerate(questions):
        options = [str(option) for option in question.metadata[OPTIONS]]
        prompt, _ = words.render_chat([{"role": "user", "content": question.prompt}], add_generation_prompt=True)
        answers = [words.encode(option) for option in options]
        longest = len(prompt) + max(map(len, answers))
        if longest > model.cfg.context_length or not all(answers):
            reason = f"{longest} tokens; the model's context holds {model.cfg.context_length}"
            too_long.append((index, reason if all(answers) else "an option is empty"))
            continue
        tokens_BT, lengths_B, mask_BA = pack_responses([prompt] * len(answers), answers)
        sums = token_stats(model, tokens_BT, mask_BA).log_probs_BA.double().sum(1).tolist()
        right = int(question.answer)
        margin = sums[right] - max(value for place, value in enumerate(sums) if place != right)
        picked = options[max(range(len(sums)), key=sums.__getitem__)]
        ranked.append(Ranked(question, margin, margin, picked, int(lengths_B.sum())))
    return ranked, too_long
