"""A search for an instruction that works better: the model proposes, a development split decides.

After Yang et al. 2024 (OPRO), without gradients: each round shows the best instructions so far with their accuracy and
asks for new ones. The items on which it is decided must not be those on which it is reported.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.inference.text import Generate, TextPrompt
from components.reasoning.items import Item
from components.reasoning.prompting.templates import Template, template
from components.reasoning.scoring.text import spoken
from components.reasoning.strategy import Trial
from components.reasoning.task_files.asking import as_item
from components.reasoning.task_files.reading import TaskItem

_SAID = re.compile(r"<INS>(.*?)</INS>", re.DOTALL | re.IGNORECASE)
START = ("Let's think step by step.", "Work it out carefully, and check the result.")
_EXAMPLES = 3
_MAX_CHARS = 600  # of an instruction


@dataclass(frozen=True)
class SearchConfig:
    """rounds of `candidates` new instructions each; `shown`: how many the model sees, the best ones."""

    rounds: int = 3
    candidates: int = 4
    shown: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Scored:
    """An instruction and the share of the development items that are right with it."""

    instruction: str
    accuracy: float

    @property
    def wording(self) -> Template:
        """As a template of worked answers."""
        frame = template("instructed", "instructed")
        text = frame.text.replace("{instruction}", self.instruction.replace("{", "(").replace("}", ")"))
        return Template("searched", "cot", frame.version, text)


def search_instruction(
    generate: Generate,
    items: Sequence[TaskItem],
    config: SearchConfig,
    max_tokens: int,
    examples: Callable[[TaskItem], Sequence[TaskItem]] = lambda item: (),
) -> Iterator[list[Scored]]:
    """All instructions so far, the best first, after the start and after each round; of equal ones the earlier."""
    rng = random.Random(f"instructions-{config.seed}")
    found: dict[str, Scored] = {}

    def score(instructions: Sequence[str]) -> None:
        for one in instructions:
            if one not in found:
                found[one] = Scored(one, _accuracy(generate, items, Scored(one, 0.0).wording, max_tokens, examples))

    def ranked() -> list[Scored]:
        return sorted(found.values(), key=lambda one: -one.accuracy)

    score(START)
    yield ranked()
    for turn in range(1, config.rounds + 1):
        shown = "\n\n".join(f"{one.instruction}\n({one.accuracy:.0%})" for one in ranked()[: config.shown][::-1])
        told = rng.sample(list(items), min(_EXAMPLES, len(items)))
        asked = template("instruct", "instruct").fill(
            scored=shown, examples="\n\n".join(f"{one.text}\n({one.answer})" for one in told)
        )
        trial = Trial(generate, (), temperature=1.0, max_tokens=max_tokens, seed=config.seed)
        (group,) = trial.ask([TextPrompt(asked)], turn, config.candidates, drawn=True)
        score([text for done in group if (text := instruction_in(done.text))])
        yield ranked()


def instruction_in(text: str) -> str:
    """What stands between the marks, the last time; "" where nothing does, or too much."""
    said = [" ".join(one.split()) for one in _SAID.findall(spoken(text))]
    return said[-1] if said and len(said[-1]) <= _MAX_CHARS else ""


def _accuracy(
    generate: Generate,
    items: Sequence[TaskItem],
    wording: Template,
    max_tokens: int,
    examples: Callable[[TaskItem], Sequence[TaskItem]],
) -> float:
    """Of greedy worked answers; what failed counts as not right."""
    put: list[Item] = [as_item(one, wording, wording, examples) for one in items]
    done = Trial(generate, put, max_tokens=max_tokens).worked
    return sum(item.accepts(one) for item, one in zip(put, done, strict=True)) / len(put)
