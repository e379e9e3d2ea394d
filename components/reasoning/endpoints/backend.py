"""What answers questions, whatever it is: asked for samples by number, it yields each as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt


class EndpointError(ValueError):
    """Nothing can be asked there: no server, a key that is refused, a model that is not there."""


@dataclass(frozen=True)
class Ask:
    """Samples `first` to `first + params.num_samples - 1` of a prompt. What a sample is depends on the prompt, the
    parameters, the seed and its number, not on what else is asked."""

    prompt: TextPrompt
    params: SamplingParams
    first: int = 0

    @property
    def samples(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.params.num_samples)


@dataclass(frozen=True)
class Arrived:
    """Sample number `sample` of `asks[ask]`."""

    ask: int
    sample: int
    completion: TextCompletion


class Backend(Protocol):
    """identity: what tells its answers from those of another model, part of every key.

    `complete` yields what has arrived since it was last looked at. A sample that cannot be had arrives with `problem`
    set, so that every sample arrives once. It raises EndpointError where nothing more can be asked.
    """

    identity: str

    def complete(self, asks: Sequence[Ask]) -> Iterator[list[Arrived]]: ...
