"""From the item of a task to what strategies ask: worded, with examples before it, and with its way to be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from components.reasoning.items import Item
from components.reasoning.prompting.templates import Template, form_of
from components.reasoning.task_files.reading import TaskItem

_NO_EXAMPLES: Callable[[TaskItem], Sequence[TaskItem]] = lambda item: ()  # noqa: E731 - a default


def as_item(
    one: TaskItem,
    direct: Template,
    worked: Template,
    examples: Callable[[TaskItem], Sequence[TaskItem]] = _NO_EXAMPLES,
) -> Item:
    """An item for strategies. Examples are worded as the question; one without a worked solution shows its answer."""
    scorer, references, form = one.scorer, (one.answer,), form_of(one.scorer.name)
    before = list(examples(one))

    def asked(template: Template, item: TaskItem) -> str:
        return template.fill(question=item.text, form=form)

    def answered(item: TaskItem) -> str:
        return f"The answer is {item.answer}."

    return Item(
        item_id=one.id,
        question=one.text,
        target=one.answer,
        difficulty=0,
        direct=asked(direct, one),
        worked=asked(worked, one),
        extract=lambda text: scorer.find(text)[0],
        verify=lambda text: scorer.judge(text, references).right,
        extract_cut=lambda text: scorer.find(text, finished=False)[0],
        verify_cut=lambda text: scorer.judge(text, references, finished=False).right,
        direct_shots=tuple((asked(direct, x), answered(x)) for x in before),
        worked_shots=tuple((asked(worked, x), x.worked or answered(x)) for x in before),
        form=form,
    )
