"""A few texts of the run, so that a reader sees what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards import formatting, labels
from dashboards.run_data import Row, RunRows, parsed

A_STAGE = 3
LONGEST = 700


@dataclass(frozen=True)
class Text:
    """A prompt and what came of it. `note`: scores or the verdict, in words."""

    stage: str
    prompt: str
    completion: str
    note: str


def chosen_texts(rows: RunRows) -> tuple[Text, ...]:
    """The latest samples of each stage, then a right and a wrong answer of each of two strategies."""
    texts = []
    for stage in rows.made():
        mine = [row for row in rows.samples if row["key"] == stage.key]
        last = max((row["step"] or 0 for row in mine), default=0)
        texts += [_sample(stage.label, row) for row in mine if (row["step"] or 0) == last][:A_STAGE]
    for strategy in ("direct", "cot"):
        texts += _answers(
            [row for row in rows.evals if row["strategy"] == strategy and row["model"] == "sft"], strategy
        )
    return tuple(texts)


def _sample(label: str, row: Row) -> Text:
    scores = parsed(row["scores_json"])
    words = [f"{name} {formatting.signed(value)}" for name, value in scores.items() if isinstance(value, float | int)]
    step = f"step {row['step']}" if row["step"] else ""
    return Text(label, _cut(row["prompt"]), _cut(row["completion"]), ", ".join([step, *words] if step else words))


def _answers(rows: Sequence[Row], strategy: str) -> list[Text]:
    found = []
    for correct, verdict in ((True, "right"), (False, "wrong")):
        of_kind = [row for row in rows if row["correct"] is correct and row["prompt"] and row["answer"]]
        if of_kind:
            row = max(of_kind, key=lambda r: r["difficulty"] or 0)
            completion = parsed(row["details_json"]).get("text") or row["answer"]
            found.append(
                Text(
                    f"{labels.label(labels.MODELS, 'sft')}, {labels.label(labels.STRATEGIES, strategy)}",
                    _cut(row["prompt"]),
                    _cut(f"\n{str(completion).lstrip()}"),
                    f"{verdict}; target {row['target']}",
                )
            )
    return found


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
