"""A few texts of the run, so that a reader sees what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dashboards import formatting, labels
from dashboards.facts.scores import Score
from dashboards.run_data import Row, RunRows, parsed

A_STAGE, RIGHT = 3, 2  # texts of a stage or strategy; right answers among them
MOST_VOTES = 4
LONGEST = 700


@dataclass(frozen=True)
class Text:
    """A prompt and what came of it. `note`: scores or the verdict, in words."""

    stage: str
    prompt: str
    completion: str
    note: str


def chosen_texts(rows: RunRows) -> tuple[Text, ...]:
    """The latest samples of each stage."""
    texts = []
    for stage in rows.made():
        mine = [row for row in rows.samples if row["key"] == stage.key]
        last = max((row["step"] or 0 for row in mine), default=0)
        texts += [_sample(stage.label, row) for row in mine if (row["step"] or 0) == last][:A_STAGE]
    return tuple(texts)


def _sample(label: str, row: Row) -> Text:
    scores = parsed(row["scores_json"])
    words = [f"{name} {formatting.signed(value)}" for name, value in scores.items() if isinstance(value, float | int)]
    step = f"step {row['step']}" if row["step"] else ""
    return Text(label, _cut(row["prompt"]), _cut(row["completion"]), ", ".join([step, *words] if step else words))


def worked(rows: RunRows, strategies: Iterable[Score]) -> tuple[Text, ...]:
    """Three answers of each strategy with the text that led to them: the first two right ones and the first wrong one
    by item, whatever they look like; more of the other kind where there are fewer."""
    texts = []
    for score in strategies:
        named = score.suite, score.model, score.strategy
        mine = [row for row in rows.evals if (row["suite"], row["model"], row["strategy"]) == named]
        right = [row for row in mine if row["correct"]]
        wrong = [row for row in mine if row["correct"] is False]
        num_right = max(RIGHT, A_STAGE - len(wrong))
        shown = right[:num_right] + wrong[: A_STAGE - len(right[:num_right])]
        name = f"{labels.heading(labels.MODELS, score.model)}, {score.label}"
        texts += [_answer(name, row) for row in shown]
    return tuple(texts)


def _answer(name: str, row: Row) -> Text:
    details = parsed(row["details_json"])
    completion = str(details.get("text") or row["answer"] or "")
    verdict = "right" if row["correct"] else f"wrong: answered {row['answer'] or 'nothing'}, right is {row['target']}"
    notes = [verdict, *_votes(details.get("votes"))]
    if "expansions" in details:
        notes.append(f"{details['expansions']} states expanded")
    return Text(name, _cut(row["prompt"]), _cut(f"\n{completion.lstrip()}"), "; ".join(notes))


def _votes(votes: object) -> Iterator[str]:
    """ "votes of 16: 6 9, 8 4": answers and how often, the most frequent first; nothing where there was no vote."""
    if isinstance(votes, Mapping) and votes:
        most = sorted(votes.items(), key=lambda pair: -pair[1])[:MOST_VOTES]
        told = ", ".join(f"{_cut(name, 20) or 'no answer'} {count}" for name, count in most)
        yield f"votes of {sum(votes.values())}: {told}"


def _cut(text: str | None, longest: int = LONGEST) -> str:
    text = text or ""
    return text if len(text) <= longest else text[: longest - 1] + "…"
