"""The prompts of a user's own, read and split once for every policy that learns from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.data.prompt_files import PromptsConfig
from components.data.results import PromptsResult
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.evaluations import held_out_questions
from flows.stages.files import PROMPTS
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.prompt_files import Prompt


@stage(produces="prompts", group="data", seconds=3, exact=True)
def prepare_prompts(
    work: Work,
    *,
    config: tuple[PromptsConfig, ...],
    seed: int,
    raw: Mapping[str, Mapping[str, str]],
    evaluations: list[Artifact],
) -> PromptsResult:
    """Read the files, drop what stands twice or in an evaluation set, split by prompt.

    `raw`: digests of the files by source; only there so that other bytes make other prompts.
    """
    from components.data.decontaminate import EvalIndex
    from components.data.prompt_files import Prompt, held_out_of, read_prompt_files, write_prompts

    train: dict[str, Prompt] = {}
    held_out: dict[str, Prompt] = {}
    rejected, duplicates = [], 0
    for source in config:
        mine: dict[str, Prompt] = {}
        for item in read_prompt_files(source):
            if not isinstance(item, Prompt):
                rejected.append(item)
            elif item.id in mine:
                duplicates += 1
                if item.answer != mine[item.id].answer:
                    first = mine[item.id]
                    rejected.append(item.rejected(f"the prompt of {first.file}:{first.line} with another answer"))
            else:
                mine[item.id] = item
        held = held_out_of(list(mine.values()), source, seed)
        for name, prompt in mine.items():
            duplicates += name in train or name in held_out
            (held_out if name in held else train).setdefault(name, prompt)
    # A prompt that is held out anywhere is trained on nowhere.
    train = {name: prompt for name, prompt in train.items() if name not in held_out}
    contaminated = EvalIndex(held_out_questions(work, evaluations), whole_items=True).search(
        [prompt.text for prompt in train.values()]
    )
    inside = {one.document for one in contaminated}
    kept = [prompt for place, prompt in enumerate(train.values()) if place not in inside]
    work.rows("quarantine", [dataclasses.asdict(one) for one in rejected])
    write_prompts(work.out / PROMPTS, kept, list(held_out.values()))
    return PromptsResult(
        num_train=len(kept),
        num_held_out=len(held_out),
        num_answers=sum(bool(prompt.answer) for prompt in [*kept, *held_out.values()]),
        num_quarantined=len(rejected),
        num_duplicates=duplicates,
        num_contaminated=len(inside),
    )
