"""The answer is a program that passes tests, run apart from everything (`sandbox.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from components.reasoning.scoring.text import code_block, spoken
from components.rlhf.rewards.answers import Sample, Score, missing, verdict
from components.rlhf.rewards.sandbox import run_program

_AT_ONCE = 4


@dataclass(frozen=True)
class UnitTestsReward:
    """1 where the answer's program (its last fenced block, else all of it) and then the tests run without an exception.

    tests: the column of the prompts with the tests, as Python text or a list of such; "answer" is the reference.
    seconds and megabytes: limits of one program. isolation: `required` refuses to run where network and files cannot be
    cut off. packages: programs may import installed packages, not only Python's own.
    """

    kind: Literal["unit_tests"] = "unit_tests"
    name: str = ""
    weight: float = 1.0
    tests: str = "tests"
    seconds: float = 5.0
    megabytes: int = 512
    isolation: Literal["best effort", "required"] = "best effort"
    packages: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds < 3600:
            raise ValueError(f"seconds is {self.seconds}: give a number above 0 and below 3600")
        if self.megabytes < 64:
            raise ValueError(f"megabytes is {self.megabytes}: Python itself needs 64")

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt cannot be judged; "" where it can."""
        return "" if self._tests(answer, metadata).strip() else f"no tests in {self.tests!r}"

    def _tests(self, answer: str, metadata: Mapping[str, Any]) -> str:
        found = answer if self.tests == "answer" else metadata.get(self.tests, "")
        return "\n".join(map(str, found)) if isinstance(found, (list, tuple)) else str(found or "")

    def score(self, sample: Sample) -> Score:
        text = spoken(sample.completion)
        block = code_block(text, "python", "py")
        if block is None and (not sample.finished or not text.strip()):
            return missing(sample)
        program = text if block is None else block
        required = self.isolation == "required"
        tests = self._tests(sample.answer, sample.metadata)
        ran = run_program(program, tests, self.seconds, self.megabytes, required, self.packages)
        return verdict(ran.passed, ran.error or "passed")

    def scores(self, samples: Sequence[Sample]) -> list[Score]:
        """Several at once: each waits for a process."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.score, samples))
