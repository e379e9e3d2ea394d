"""A model as judge of two answers: asked twice with the answers swapped, because judges favour a position.

Zheng et al. 2023 (arXiv 2306.05685, §3.4): a verdict counts where both orders agree; where they contradict each other
it is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextPrompt

_VERDICT = re.compile(r"\b(1|2|tie)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """`outcome`: 1 where the first answer is better, 0 where the second is, 0.5 for a tie, None where the judge gave
    no verdict. `said`: its words for (first, second) and for (second, first)."""

    outcome: float | None
    said: tuple[str, str]

    @property
    def favours_position(self) -> bool:
        """Whether it named the same place both times."""
        first, second = (_place(text) for text in self.said)
        return first == second and first in ("1", "2")


def judge_pairs(
    pairs: Sequence[tuple[str, str, str]], generate: Generate, question: str, max_tokens: int = 8
) -> list[Verdict]:
    """Verdicts on (prompt, first answer, second answer). `question` holds {prompt}, {first} and {second}; greedy."""
    asked = [
        TextPrompt(_filled(question, {"prompt": prompt, "first": a, "second": b}))
        for prompt, first, second in pairs
        for a, b in ((first, second), (second, first))
    ]
    said = [group[0].text.strip() for group in generate(asked, SamplingParams(max_tokens=max_tokens, temperature=0.0))]
    return [Verdict(_outcome(*both), both) for both in zip(said[::2], said[1::2], strict=True)]


def _filled(question: str, texts: Mapping[str, str]) -> str:
    """In one pass: an answer that holds "{second}" stays as it is."""
    return re.sub(r"\{(prompt|first|second)\}", lambda found: texts[found[1]], question)


def _place(text: str) -> str:
    found = _VERDICT.search(text)
    return found[1].lower() if found else ""


def _outcome(straight: str, swapped: str) -> float | None:
    first, second = _place(straight), _place(swapped)
    if not first or not second:
        return None
    if (first, second) == ("1", "2"):
        return 1.0
    return 0.0 if (first, second) == ("2", "1") else 0.5
