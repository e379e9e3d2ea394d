"""A backend behind the seam of strategies, `Generate`: what is kept is read, the rest is asked for and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.endpoints.backend import Ask, Backend
from components.reasoning.endpoints.store import SampleStore, key_of


@dataclass
class Recorded:
    """A `Generate`. run: the evaluation that uses the samples. asked, found: samples that were drawn now, and that were
    there. fresh_tokens, cpu_seconds: tokens of what was drawn now, prompts as billed, and the processor time of this
    process that drawing took. told: called with the number of samples as they arrive."""

    backend: Backend
    store: SampleStore
    run: str
    told: Callable[[int], None] = lambda count: None
    asked: int = 0
    found: int = 0
    fresh_tokens: int = 0
    cpu_seconds: float = 0.0

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        count = params.num_samples
        keys = [key_of(self.backend.identity, prompt, params) for prompt in prompts]
        unique = dict(zip(keys, prompts, strict=True))  # the same question twice is asked once
        kept = self.store.found(list(unique), count)
        asks, owners = [], []
        for key, prompt in unique.items():
            for first, length in _gaps(set(kept[key]), count):
                asks.append(Ask(prompt, replace(params, num_samples=length), first))
                owners.append(key)
        self.store.begin(self.backend.identity, unique, params)
        self.found += sum(map(len, kept.values()))
        began = time.process_time()
        for batch in self.backend.complete(asks) if asks else ():
            self.store.put([(owners[one.ask], one.sample, one.completion) for one in batch])
            for one in batch:
                kept[owners[one.ask]][one.sample] = one.completion
                self.fresh_tokens += one.completion.num_tokens + billed(one.completion)
            self.asked += len(batch)
            self.told(len(batch))
        self.cpu_seconds += time.process_time() - began
        self.store.use(self.run, [(key, sample) for key in unique for sample in range(count)])
        return [[kept[key][sample] for sample in range(count)] for key in keys]


def _gaps(there: set[int], count: int) -> list[tuple[int, int]]:
    """Runs of numbers below `count` that are not there: first and length."""
    runs: list[tuple[int, int]] = []
    for number in range(count):
        if number in there:
            continue
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


@dataclass
class Meter:
    """A `Generate` that counts what passes: requests and prompt tokens as billed, generated tokens, and the latency,
    the mean time of a request in each round, one after another."""

    generate: Generate
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency: float = 0.0
    rounds: int = 0

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        groups = self.generate(prompts, params)
        done = [one for group in groups for one in group]
        self.calls += sum(one.billed_prompt_tokens is None or one.billed_prompt_tokens > 0 for one in done)
        self.prompt_tokens += sum(billed(one) for one in done)
        self.completion_tokens += sum(one.num_tokens for one in done)
        self.latency += sum(max((one.seconds for one in group), default=0.0) for group in groups)
        self.rounds += 1
        return groups


def billed(one: TextCompletion) -> int:
    """Prompt tokens that were paid for a completion; where nobody bills, all that were read."""
    return one.prompt_tokens if one.billed_prompt_tokens is None else one.billed_prompt_tokens
