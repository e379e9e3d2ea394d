"""Settings of how preferences are collected; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

PreferenceSource = Literal["gold", "people", "file", "model"]
ModelName = Literal["sft", "base"]
JUDGE_QUESTION = (
    "A user asked:\n{prompt}\n\nAnswer 1:\n{first}\n\nAnswer 2:\n{second}\n\nWhich answer is better? Say 1, 2, or tie."
)


@dataclass(frozen=True)
class AnswersConfig:
    """Which answers are sampled; see `PreferencesConfig`."""

    num_prompts: int
    num_answers: int
    max_tokens: int
    temperatures: tuple[float, ...]
    models: tuple[ModelName, ...]

    def shares(self) -> list[tuple[ModelName, float, int]]:
        """(model, temperature, number of answers per prompt): even, the first get what is left over."""
        each = [(model, temperature) for model in self.models for temperature in self.temperatures]
        whole, rest = divmod(self.num_answers, len(each))
        return [(model, temperature, whole + (i < rest)) for i, (model, temperature) in enumerate(each)]


@dataclass(frozen=True)
class PreferencesConfig:
    """num_prompts requests with num_answers sampled answers each, of at most max_tokens, shared out evenly among
    `models` (sft, base) and `temperatures`.

    source: who judges. gold: the scorer, on pairs_per_prompt of the pairs, with the share label_noise of the labels
    flipped; model: `judge` is asked judge_question about as many, twice with the answers swapped, or instead of it
    judge_model of the OpenAI-compatible server at judge_url ("": the one model that it has); people: every prompt waits
    for `overlap` annotators of `lifespan annotate`; file: `path`, in a format of `components/rlhf/formats.py`.
    """

    source: PreferenceSource = "gold"
    num_prompts: int = 400
    num_answers: int = 4
    pairs_per_prompt: int = 3
    label_noise: float = 0.18
    max_tokens: int = 64
    temperatures: tuple[float, ...] = (1.0,)
    models: tuple[ModelName, ...] = ("sft",)
    overlap: int = 2
    path: str = ""
    judge: ModelName = "sft"
    judge_url: str = ""
    judge_model: str = ""
    judge_question: str = JUDGE_QUESTION

    @property
    def answers(self) -> AnswersConfig:
        """The part that decides which answers there are: what is judged how comes later and makes no others."""
        return AnswersConfig(self.num_prompts, self.num_answers, self.max_tokens, self.temperatures, self.models)

    def __post_init__(self) -> None:
        if (self.source == "file") != bool(self.path):
            raise ValueError('path names the file of preferences: give it with source = "file", and only then')
        if self.judge_url and (self.source != "model" or not self.judge_url.startswith(("http://", "https://"))):
            raise ValueError(
                f"judge_url is {self.judge_url!r}: give the address of a server (http://127.0.0.1:8000/v1) with "
                'source = "model", and only then'
            )
        if self.judge_model and not self.judge_url:
            raise ValueError("judge_model names a model of the server at judge_url: give both")
        if self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}: each prompt needs at least 1 annotator")
        if missing := [name for name in ("{prompt}", "{first}", "{second}") if name not in self.judge_question]:
            raise ValueError(f"judge_question lacks {', '.join(missing)}")
        if not self.temperatures or min(self.temperatures) < 0 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures is {self.temperatures}: give numbers from 0 up, each once")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models is {self.models}: name each model once")
        if len(self.models) * len(self.temperatures) > self.num_answers:
            raise ValueError(
                f"num_answers is {self.num_answers}: {len(self.models)} models at {len(self.temperatures)} "
                "temperatures need one answer each"
            )
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(f"label_noise is {self.label_noise}: give a share from 0 to below 0.5")
        if self.num_answers < 2:
            raise ValueError(f"num_answers is {self.num_answers}: a pair needs at least 2")
        most = math.comb(self.num_answers, 2)
        if not 1 <= self.pairs_per_prompt <= most:
            raise ValueError(
                f"pairs_per_prompt is {self.pairs_per_prompt}: {self.num_answers} answers have 1 to {most} pairs"
            )
