"""A reward that is a command of the user's: one JSON line an answer in, one JSON line an answer out.

In: {"prompt", "messages", "completion", "answer", "finished", "metadata"}. Out, in the same order: a number, or an
object with "score" (a number, or null with "error": why there is none).
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.rlhf.rewards.answers import RewardError, Sample, Score, Scorer
from components.rlhf.rewards.python_function import as_score


@dataclass(frozen=True)
class CommandReward:
    """command: program and arguments as a shell would split them; no shell runs it. It is started once for each batch
    of answers. seconds: limit of a batch, past which all its scores have failed. Files among its words are part of the
    key.
    """

    command: str
    kind: Literal["command"] = "command"
    name: str = ""
    weight: float = 1.0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ValueError(f"command {self.command!r}: {error}") from None
        if not words:
            raise ValueError("command is empty: give a program and its arguments")
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}: give a number above 0")

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the command names; their bytes are part of what it is."""
        return tuple(word for word in shlex.split(self.command) if Path(word).is_file())

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """The command decides for itself."""
        return ""


def open_command(config: CommandReward) -> Scorer:
    """Raises RewardError where there is no such program."""
    words = shlex.split(config.command)
    if shutil.which(words[0]) is None:
        raise RewardError(f"rewards: {config.command!r}: there is no program {words[0]!r}")

    def score(samples: Sequence[Sample]) -> list[Score]:
        lines = [
            json.dumps(
                {
                    "prompt": sample.prompt,
                    "messages": [dict(message) for message in sample.messages],
                    "completion": sample.completion,
                    "answer": sample.answer,
                    "finished": sample.finished,
                    "metadata": dict(sample.metadata),
                },
                ensure_ascii=False,
                default=str,
            )
            for sample in samples
        ]
        try:
            done = subprocess.run(
                words, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=config.seconds
            )
        except subprocess.TimeoutExpired:
            return [Score.failed(f"the command took longer than {config.seconds:g} s")] * len(samples)
        except (OSError, UnicodeDecodeError) as error:
            return [Score.failed(f"the command failed: {error}")] * len(samples)
        said = [line for line in done.stdout.splitlines() if line.strip()]
        if done.returncode or len(said) != len(samples):
            reason = done.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
            what = f"{len(said)} lines for {len(samples)} answers, exit status {done.returncode}: {reason[0][:200]}"
            return [Score.failed(f"the command gave {what}")] * len(samples)
        return [_parsed(line) for line in said]

    return score


def _parsed(line: str) -> Score:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Score.failed(f"the command said {line[:80]!r}, which is no JSON")
    if not isinstance(value, Mapping):
        return as_score(value)
    if value.get("score") is None:
        return Score.failed(str(value.get("error") or f"the command said {line[:80]!r}, without a score"))
    return as_score(value["score"])
