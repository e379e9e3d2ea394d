"""What a reasoning strategy is, and what it works with.

A strategy is one file of `components/reasoning/strategies/`: a function from a `Trial` to one `Outcome` per item, and
the `Strategy` record that names it. An evaluation takes records; their fields are columns of the table `evals`.

All work on the seam of `inference.text` and ask for the completions of all items in one call. Tokens are counted as
they are computed and would be paid: a prompt once for all samples of an item that share it (the engine reads it once
and keeps it, `components.inference.slots`), again by every other kind of request, and every generated token, discarded
samples included.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.items import Item

Pool = Literal["worked", "direct"]  # samples that are worked in steps, or given at once


@dataclass(frozen=True)
class Strategy:
    """A way to answer. answer: one outcome per item, in the order of the items.

    name: unique in an evaluation, as reports and the column `strategy` show it. family: what strategies of different
    sizes have in common. size: samples per item, None where no fixed number of samples is drawn. needs_verifier: it
    asks what is right while it answers. greedy: it answers once, without sampling. pool: which samples of the trial it
    reads, where it has a size.
    """

    name: str
    family: str
    answer: Callable[[Trial], list[Outcome]] = field(repr=False, compare=False)
    size: int | None = None
    needs_verifier: bool = False
    greedy: bool = False
    pool: Pool = "worked"

    def columns(self) -> dict[str, Any]:
        """As columns of the table `evals`."""
        return {
            "strategy": self.name,
            "strategy_family": self.family,
            "strategy_size": self.size,
            "needs_verifier": self.needs_verifier,
            "greedy": self.greedy,
        }


@dataclass(frozen=True)
class Step:
    """A node of what a strategy of several requests did for an item. parent: its place in the list of steps, None for
    a root. kind: sample, critique, part, thought, … value: as the strategy valued it, None where it did not."""

    parent: int | None
    kind: str
    text: str
    tokens: int
    status: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a strategy answered to one item and what that took. completion_tokens: all that were generated for it.
    score: in [0, 1]; the verdict as a number unless a strategy says better. details: JSON values. steps: of strategies
    of several requests."""

    item_id: str
    answer: str
    correct: bool
    completion_tokens: int
    prompt_tokens: int
    score: float
    details: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Independent answers to each item; votes and choices of every size are read from them. seconds: of wall-clock that
    drawing them took."""

    items: tuple[Item, ...]
    completions: tuple[tuple[TextCompletion, ...], ...]
    seconds: float = 0.0

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated for all of them."""
        return sum(done.num_tokens for group in self.completions for done in group)

    @property
    def total_tokens(self) -> int:
        """Tokens that drawing them took, generated and read, a prompt once for its samples."""
        return self.generated_tokens + sum(group[0].prompt_tokens for group in self.completions)

    def first(self, size: int) -> list[tuple[Item, tuple[TextCompletion, ...]]]:
        """Each item with its first `size` samples. Raises ValueError where fewer were drawn."""
        drawn = len(self.completions[0]) if self.completions else 0
        if not 1 <= size <= drawn:
            raise ValueError(f"a vote or choice of {size} samples; 1 to {drawn} were drawn")
        return [(item, group[:size]) for item, group in zip(self.items, self.completions, strict=True)]


@dataclass
class Trial:
    """Items that strategies answer, and how a model is asked. Completions that several strategies read are generated
    once, when the first of them asks.

    num_samples, temperature, seed: of `samples`; num_direct_samples: of `direct_samples`; max_attempts: of `attempts`.
    max_tokens: limit of a worked answer; max_direct_tokens: of an answer given at once.
    """

    generate: Generate
    items: Sequence[Item]
    num_samples: int = 1
    temperature: float = 1.0
    max_tokens: int = 96
    max_direct_tokens: int = 8
    seed: int = 0
    num_direct_samples: int = 1
    max_attempts: int = 0

    @cached_property
    def direct(self) -> list[TextCompletion]:
        """The greedy answer to each item, given at once."""
        return self._greedy([item.direct_prompt for item in self.items], self.max_direct_tokens)

    @cached_property
    def worked(self) -> list[TextCompletion]:
        """The greedy answer to each item, worked in steps."""
        return self._greedy([item.worked_prompt for item in self.items], self.max_tokens)

    @cached_property
    def samples(self) -> Samples:
        """`num_samples` answers to each item, worked in steps."""
        return self._drawn([item.worked_prompt for item in self.items], self.num_samples, self.max_tokens)

    @cached_property
    def direct_samples(self) -> Samples:
        """`num_direct_samples` answers to each item, given at once."""
        return self._drawn([item.direct_prompt for item in self.items], self.num_direct_samples, self.max_direct_tokens)

    @cached_property
    def attempts(self) -> Samples:
        """The samples, and to items that none of them answers rightly further ones, a round of as many again at a time,
        until one is right or an item has `max_attempts`."""
        began = time.perf_counter()
        drawn = [list(group) for group in self.samples.completions]
        for turn in itertools.count(1):
            short = [
                (item, group)
                for item, group in zip(self.items, drawn, strict=True)
                if len(group) < self.max_attempts and not any(item.accepts(done) for done in group)
            ]
            if not short:
                break
            params = self._sampling(self.num_samples, self.max_tokens, self.seed * 1009 + turn)
            found = self.generate([item.worked_prompt for item, _ in short], params)
            for (_, group), more in zip(short, found, strict=True):
                group += more
        seconds = self.samples.seconds + time.perf_counter() - began
        return Samples(self.samples.items, tuple(tuple(group) for group in drawn), seconds)

    def ask(
        self, prompts: Sequence[TextPrompt], turn: int = 0, count: int = 1, max_tokens: int = 0, drawn: bool = False
    ) -> list[list[TextCompletion]]:
        """`count` completions of each prompt; none of none. drawn: at the trial's temperature, with a seed that belongs
        to this turn of a strategy, else greedy."""
        if not prompts:
            return []
        limit = max_tokens or self.max_tokens
        if not drawn:
            greedy = SamplingParams(max_tokens=limit, temperature=0.0)
            return [list(group) for group in self.generate(prompts, greedy)]
        return self.generate(prompts, self._sampling(count, limit, self.seed * 1009 + turn))

    def pool(self, name: Pool) -> Samples:
        """The samples of that name."""
        return self.samples if name == "worked" else self.direct_samples

    def _drawn(self, prompts: list[TextPrompt], count: int, max_tokens: int) -> Samples:
        began = time.perf_counter()
        groups = self.generate(prompts, self._sampling(count, max_tokens, self.seed))
        return Samples(tuple(self.items), tuple(tuple(group) for group in groups), time.perf_counter() - began)

    def _sampling(self, count: int, max_tokens: int, seed: int) -> SamplingParams:
        return SamplingParams(max_tokens=max_tokens, temperature=self.temperature, num_samples=count, seed=seed)

    def _greedy(self, prompts: list[TextPrompt], max_tokens: int) -> list[TextCompletion]:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        return [group[0] for group in self.generate(prompts, params)]


def outcome_of(
    item: Item, chosen: TextCompletion, spent: Sequence[TextCompletion], details: Mapping[str, Any]
) -> Outcome:
    """The item answered by `chosen`, which was picked from all that were generated for it: `spent`, of one prompt."""
    correct = item.accepts(chosen)
    return Outcome(
        item_id=item.item_id,
        answer=item.answer_of(chosen),
        correct=correct,
        completion_tokens=sum(done.num_tokens for done in spent),
        prompt_tokens=chosen.prompt_tokens,
        score=float(correct),
        details={"text": chosen.text, "status": item.status_of(chosen), **details},
    )


def outcome_after(
    item: Item,
    chosen: TextCompletion,
    requests: Sequence[Sequence[TextCompletion]],
    details: Mapping[str, Any],
    steps: Sequence[Step] = (),
) -> Outcome:
    """The item answered by `chosen` after several requests, each with its completions: a prompt is counted once for
    those of a request."""
    one = outcome_of(item, chosen, [done for group in requests for done in group], details)
    prompts = sum(group[0].prompt_tokens for group in requests if group)
    return replace(one, prompt_tokens=prompts, steps=tuple(steps))


def greedy_outcomes(items: Sequence[Item], completions: Sequence[TextCompletion]) -> list[Outcome]:
    """Each item answered by its one greedy completion; the log-probability is in nats."""
    return [
        outcome_of(item, done, [done], {"log_prob": done.log_prob, "finished": done.finished})
        for item, done in zip(items, completions, strict=True)
    ]
