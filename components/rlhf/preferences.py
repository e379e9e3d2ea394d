"""Preferences: pairs of answers to a prompt, one better than the other; made from gold with honest noise, or read.

The plain layout of TRL is the file format: `prompt`, `chosen`, `rejected`, and what else is known of the pair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.records import Rejected, decompressed, excerpt, read_records
from components.data.tolerant_read import TolerantRead

if TYPE_CHECKING:  # a type alone: how pairs are collected stays out of the key of stages that only read them
    from components.rlhf.preferences_config import PreferencesConfig

MAX_EXCERPT = 200


@dataclass(frozen=True)
class LeftOut:
    """A pair that teaches nothing or an invalid line, with the reason: a row of the quarantine table. `line` counts
    lines of a file from 1, or prompts from 0 where the answers were sampled."""

    source: str
    file: str
    line: int
    reason: str
    excerpt: str


@dataclass(frozen=True)
class Answer:
    """A sampled answer. `finished`: it ended by itself, not at the length limit."""

    text: str
    finished: bool = True


@dataclass(frozen=True)
class Turn:
    """What was said before the prompt. `role`: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Preference:
    """`chosen` was preferred over `rejected` as an answer to `prompt`. `margin`: how much better the annotator said it
    is, 0 if not asked. `gold_margin`: gold(chosen) − gold(rejected), negative where the label contradicts gold; None
    where gold is not known. Training may use the first, never the second. `source`: who or what judged (gold, people,
    model, or the format of a file). `confidence`: how sure the annotator said to be, 0 to 1; None if not asked.
    `context`: the turns before the prompt, oldest first."""

    prompt: str
    chosen: str
    rejected: str
    pair_id: str = ""
    annotator: str = ""
    chosen_finished: bool = True
    rejected_finished: bool = True
    margin: float = 0.0
    gold_margin: float | None = None
    source: str = ""
    confidence: float | None = None
    context: tuple[Turn, ...] = ()

    @property
    def agrees_with_gold(self) -> bool | None:
        """Whether gold prefers the same answer; None where gold is not known or has no preference."""
        return self.gold_margin > 0 if self.gold_margin else None


def label_temperature(margins: Iterable[float], agreement: float) -> float:
    """Temperature τ at which a Bradley–Terry annotator, P(better) = σ(|margin|/τ), agrees with gold at the rate
    `agreement` on average over pairs with these non-zero margins. 0 for agreement 1. Raises ValueError for an
    agreement outside (0.5, 1] or no margin."""
    sizes = np.abs(np.asarray(list(margins), dtype=np.float64))
    if not 0.5 < agreement <= 1:
        raise ValueError(f"agreement is {agreement}: give a rate above 0.5, at most 1")
    if not sizes.size or not (sizes > 0).all():
        raise ValueError("a label temperature needs pairs with a gold margin other than 0")
    if agreement == 1:
        return 0.0
    low, high = 1e-6 * sizes.min(), 1e6 * sizes.max()
    for _ in range(200):
        middle = math.sqrt(low * high)
        rate = float(np.mean(1 / (1 + np.exp(-np.minimum(sizes / middle, 700)))))
        low, high = (middle, high) if rate > agreement else (low, middle)
    return math.sqrt(low * high)


def make_preferences(
    prompts: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    gold: Callable[[str, str], float],
    config: PreferencesConfig,
    seed: int,
    annotator: str = "gold",
) -> tuple[list[Preference], list[LeftOut]]:
    """Pairs of the answers to each prompt, labelled by a noisy Bradley–Terry annotator, and those left out with the
    reason (an empty answer, equal answers, equal gold). `answers[i]` belong to `prompts[i]`."""
    rng = np.random.default_rng([seed, 0x9EF])
    pairs: list[tuple[str, Answer, Answer, float]] = []
    left_out: list[LeftOut] = []
    for index, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
        every = list(combinations(range(len(group)), 2))
        chosen = rng.permutation(len(every))[: config.pairs_per_prompt]
        for first, second in (every[i] for i in sorted(chosen)):
            a, b = group[first], group[second]
            reason = defect(prompt, a.text, b.text)
            margin = 0.0 if reason else gold(prompt, a.text) - gold(prompt, b.text)
            if reason is None and margin == 0:
                reason = "gold scores the answers equally"
            if reason:
                left_out.append(LeftOut("sampled answers", "", index, reason, a.text[:MAX_EXCERPT]))
            else:
                pairs.append((prompt, a, b, margin))
    if not pairs:
        return [], left_out
    temperature = label_temperature([pair[-1] for pair in pairs], 1 - config.label_noise)
    made = []
    for prompt, a, b, margin in pairs:
        logit = margin / temperature if temperature else math.copysign(math.inf, margin)
        certainty = 1 / (1 + math.exp(-min(700.0, abs(logit))))  # of this annotator, and stated as its confidence
        if rng.random() >= (certainty if logit > 0 else 1 - certainty):
            a, b, margin = b, a, -margin
        made.append(
            Preference(
                prompt,
                a.text,
                b.text,
                pair_id(prompt, a.text, b.text),
                annotator,
                a.finished,
                b.finished,
                gold_margin=margin,
                source="gold",
                confidence=certainty,
            )
        )
    return made, left_out


def pair_id(prompt: str, a: str, b: str, context: Sequence[Turn] = ()) -> str:
    """Name of a comparison, whichever answer won."""
    said = [part for turn in context for part in (turn.role, turn.content)]
    spelled = "\0".join([*said, prompt, *sorted((a, b))])
    return hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def defect(prompt: str, chosen: str, rejected: str) -> str | None:
    """Why a pair teaches nothing, or None."""
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            return f"{name} is empty"
    return "chosen and rejected are equal" if chosen.strip() == rejected.strip() else None


# -- files ---------------------------------------------------------------------------------------------------------


def write_preferences(path: Path, preferences: Iterable[Preference]) -> None:
    """Write `.jsonl` or `.parquet`, by the name's ending."""
    rows = [dataclasses.asdict(p) for p in preferences]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)
    else:
        raise ValueError(f"{path}: preferences are written as .jsonl or .parquet, not {path.suffix or 'no ending'}")


def read_preferences(path: Path) -> tuple[list[Preference], list[LeftOut]]:
    """The preferences of a file that `write_preferences` wrote, and the lines (from 1) that are none, with the reason.

    Needs the fields prompt, chosen and rejected as text; fields it does not know are ignored. Raises ValueError when
    the file as a whole cannot be read.
    """
    good: list[Preference] = []
    bad: list[LeftOut] = []
    reading = TolerantRead()
    with path.open("rb") as stream:
        for item in reading.through(read_records(decompressed(stream), path.name)):
            found = item.reason if isinstance(item, Rejected) else preference_from_row(item.value)
            if isinstance(found, Preference):
                good.append(found)
            elif item.number:
                shown = item.excerpt if isinstance(item, Rejected) else excerpt(item.value, MAX_EXCERPT)
                bad.append(LeftOut("preferences", str(path), item.number, found, shown))
            else:
                raise ValueError(f"{path} cannot be read: {found}")
    if reading.reason:
        raise ValueError(f"{path} cannot be read: {reading.reason}")
    return good, bad


_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("pair_id", pa.string()),
        ("annotator", pa.string()),
        ("chosen_finished", pa.bool_()),
        ("rejected_finished", pa.bool_()),
        ("margin", pa.float64()),
        ("gold_margin", pa.float64()),
        ("source", pa.string()),
        ("confidence", pa.float64()),
        ("context", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)


def preference_from_row(row: object) -> Preference | str:
    """The preference of a parsed row, or why it is none."""
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}, not an object with prompt, chosen and rejected"
    for name in ("prompt", "chosen", "rejected"):
        if row.get(name) is None:
            return f"{name} is missing"
        if not isinstance(row[name], str):
            return f"{name} is {type(row[name]).__name__}, not text"
    reason = defect(row["prompt"], row["chosen"], row["rejected"])
    if reason:
        return reason
    optional: dict[str, Any] = {}
    kinds = {"pair_id": str, "annotator": str, "source": str, "chosen_finished": bool, "rejected_finished": bool}
    for name, kind in kinds.items():
        if row.get(name) is not None:
            if not isinstance(row[name], kind):
                return f"{name} is {type(row[name]).__name__}, not {kind.__name__}"
            optional[name] = row[name]
    for name in ("margin", "gold_margin", "confidence"):
        number = row.get(name)
        if number is not None:
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                return f"{name} is {number!r}, not a finite number"
            optional[name] = float(number)
    turns = turns_from(row.get("context") or [], "context")
    if isinstance(turns, str):
        return turns
    made = Preference(row["prompt"], row["chosen"], row["rejected"], **optional, context=turns)
    if not made.pair_id:
        made = dataclasses.replace(made, pair_id=pair_id(made.prompt, made.chosen, made.rejected, turns))
    return made


ROLES = ("system", "user", "assistant")


def turns_from(messages: object, name: str) -> tuple[Turn, ...] | str:
    """Messages {"role", "content"} as turns, or what is wrong with the field `name`."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return f"{name} is {type(messages).__name__}, not a list of messages"
    turns = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            return f"{name}[{index}] is {type(message).__name__}, not a message with role and content"
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            return f"{name}[{index}]: unknown role {role!r}; it takes {', '.join(ROLES)}"
        if not isinstance(content, str):
            return f"{name}[{index}]: content is {'missing' if content is None else type(content).__name__}, not text"
        turns.append(Turn(role, content))
    return tuple(turns)
