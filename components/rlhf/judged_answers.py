"""Preferences of which answers have scores, or of which somebody says which of two is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from components.data.conversation_formats import Invalid
from components.rlhf.chosen_rejected import Line, from_turns, prompt_turns
from components.rlhf.preferences import Preference, Turn, defect, pair_id

_TEXTS = ("completions", "responses", "answers", "generations", "candidates", "outputs")
_TEXT = ("response", "text", "answer", "content", "output", "completion", "generation")
_SCORES = ("overall_score", "score", "rating", "reward", "fine-grained_score")
_NUMBERS = ("scores", "ratings", "rewards", "score", "rating")
_RANKS = ("ranks", "ranking", "rank")
_VERDICTS = ("preference", "preferred", "winner", "better_response_id", "choice", "comparison", "selected", "verdict")
_TIES = ("tie", "tie (bothbad)", "both", "equal", "same", "neither", "draw", "none")
_CANDIDATE = re.compile(
    r"(?P<stem>(?:[a-z]+[-_ ])?(?:answer|response|output|completion|text|option|candidate|ref|conversation|summary))"
    r"[-_ ]?(?P<mark>[0-9]|[ab]|left|right|first|second)",
    re.IGNORECASE,
)
_PLACES = {"left": 0, "first": 0, "right": 1, "second": 1}


# -- answers with scores ----------------------------------------------------------------------------------------------


def scored_answers(row: Mapping[str, Any]) -> list[tuple[str, float]] | None:
    """Answers with their scores; None where the row is not of this layout."""
    name = next((name for name in _TEXTS if row.get(name) is not None), None)
    if name is None:
        return _two_scored(row)
    answers = row[name]
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        raise Invalid(f"{name} is {type(answers).__name__}, not a list")
    if answers and all(isinstance(one, str) for one in answers):
        beside, sign = next(
            ((row[held], sign) for names, sign in ((_NUMBERS, 1), (_RANKS, -1)) for held in names if held in row),
            (None, 1),
        )
        if not isinstance(beside, Sequence) or len(beside) != len(answers):
            raise Invalid(
                f"{name} without a list of as many scores or ranks beside it; answers to judge are for "
                "`lifespan annotate load`"
            )
        numbers = [sign * _number(value, f"{name}[{i}]") for i, value in enumerate(beside)]
        return list(zip(answers, numbers, strict=True))
    scored = []
    for index, one in enumerate(answers):
        text = next((one[key] for key in _TEXT if key in one), None) if isinstance(one, Mapping) else None
        if not isinstance(text, str):
            raise Invalid(f"{name}[{index}] has no response as text")
        value = next((one[key] for key in _SCORES if one.get(key) is not None), None)
        if value is None and one.get("rank") is not None:
            scored.append((text, -_number(one["rank"], f"{name}[{index}]")))
        else:
            scored.append((text, _number(value, f"{name}[{index}]")))
    return scored


def _number(value: Any, where: str) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise Invalid(f"{where}: score is {value!r}, not a finite number ({', '.join((*_SCORES, 'rank'))})")
    return score


def _two_scored(row: Mapping[str, Any]) -> list[tuple[str, float]] | None:
    """answer_0, answer_1 with score_0, score_1."""
    candidates = _candidates(row)
    found = []
    for name, mark in candidates:
        value = next((row[key] for key in (f"score_{mark}", f"rating_{mark}", f"reward_{mark}") if key in row), None)
        if value is None:
            return None
        found.append((row[name], _number(value, name)))
    return found or None


def by_score(row: Mapping[str, Any], scored: list[tuple[str, float]]) -> Line:
    asked = prompt_turns(row)
    if not asked or asked[-1].role != "user":
        raise Invalid("the prompt does not end with a turn of the user" if asked else "instruction is missing")
    if len(scored) < 2:
        raise Invalid(f"{len(scored)} completion: a comparison needs two")
    if empty := [index for index, (text, _) in enumerate(scored) if not text.strip()]:
        raise Invalid(f"completions[{empty[0]}]: response is empty")
    prompt, context = asked[-1].content, asked[:-1]
    pairs, ties = [], 0
    for (a, first), (b, second) in combinations(scored, 2):
        if first == second:
            ties += 1
            continue
        (better, worse) = (a, b) if first > second else (b, a)
        if reason := defect(prompt, better, worse):
            raise Invalid(reason)
        name = pair_id(prompt, a, b, context)
        margin = abs(first - second)
        pairs.append(Preference(prompt, better, worse, name, margin=margin, source="ultrafeedback", context=context))
    return Line("ultrafeedback", tuple(pairs), ties)


# -- two answers and a verdict ----------------------------------------------------------------------------------------


def _candidates(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, mark) of the two fields that are told apart by a mark at their end alone; none where there are not two."""
    by_stem: dict[str, list[tuple[str, str]]] = {}
    for name, value in row.items():
        if isinstance(value, str) and (found := _CANDIDATE.fullmatch(name)):
            by_stem.setdefault(found["stem"].lower(), []).append((name, found["mark"].lower()))
    pairs = [sorted(names, key=lambda one: (_PLACES.get(one[1], 0), one[1])) for names in by_stem.values()]
    twos = [names for names in pairs if len(names) == 2]
    return twos[0] if len(twos) == 1 else []


def compared(row: Mapping[str, Any]) -> Line | None:
    candidates = _candidates(row)
    if not candidates:
        return None
    if "preference_strength" in row:  # HelpSteer: below 0 the first is better
        strength = _number(row["preference_strength"], "preference_strength")
        better = None if strength == 0 else int(strength > 0)
    elif "labels" in row and candidates[0][0].lower() == "human_ref_a":  # SHP: 1 says that A is better
        better = _index({1: "a", 0: "b"}.get(row["labels"], row["labels"]), "labels", candidates)
    else:
        flat = [str(name) for name, value in row.items() if str(name).endswith(".responses") and value]
        name = next((name for name in (*_VERDICTS, *flat) if row.get(name) is not None), "")
        if isinstance(row.get(name), list):  # Argilla's flat records
            return argilla(row, {name: row[name]})
        if not name:
            held = " and ".join(name for name, _ in candidates)
            raise Invalid(f"{held} without a verdict: it takes {', '.join(_VERDICTS)}, or a score for each")
        better = _index(row[name], name, candidates)
    return _judged(row, candidates, [(better, str(row.get("annotator") or ""))], "compared")


def _index(value: Any, name: str, candidates: Sequence[tuple[str, str]]) -> int | None:
    """Which of the two a verdict means; None for a tie."""
    if isinstance(value, Mapping):  # Label Studio's smallest export
        value = value.get("selected")
    said = str(value).strip().lower() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    mark = re.sub(r"^(model|response|answer|option|candidate|output|completion|text)[-_ ]?", "", said)
    for index, (held, marked) in enumerate(candidates):
        if said == held.lower() or mark == marked:
            return index
    if mark in _PLACES:
        return _PLACES[mark]
    if said in _TIES:
        return None
    raise Invalid(f"{name} is {value!r}: neither of {' and '.join(held for held, _ in candidates)}, nor a tie")


def _judged(
    row: Mapping[str, Any],
    candidates: Sequence[tuple[str, str]],
    verdicts: Sequence[tuple[int | None, str]],
    layout: str,
) -> Line:
    asked = prompt_turns(row)
    if not asked:
        raise Invalid("prompt is missing")
    pairs: list[Preference] = []
    for better, annotator in verdicts:
        if better is not None:
            sides = [(Turn("assistant", row[candidates[i][0]]),) for i in (better, 1 - better)]
            pairs += from_turns(layout, asked, sides[0], sides[1], {"annotator": annotator}).pairs
    return Line(layout, tuple(pairs), len(verdicts) - len(pairs))


# -- exports of annotation tools --------------------------------------------------------------------------------------


def _two_answers(row: Mapping[str, Any], tool: str) -> list[tuple[str, str]]:
    if candidates := _candidates(row):
        return candidates
    held = ", ".join(sorted(map(str, row))[:8]) or "nothing"
    raise Invalid(f"{tool}: two answers are looked for (answer1, answer2), the task has {held}")


def label_studio(data: Mapping[str, Any], annotations: Sequence[Any]) -> Line:
    candidates = _two_answers(data, "Label Studio")
    verdicts: list[tuple[int | None, str]] = []
    other: set[str] = set()
    for annotation in annotations:
        results = annotation.get("result") if isinstance(annotation, Mapping) else None
        if not isinstance(results, list) or annotation.get("was_cancelled"):
            continue
        person = _person(annotation.get("completed_by"))
        ratings: dict[str, float] = {}
        for one in results:
            value = one.get("value") if isinstance(one, Mapping) else None
            said = value.get("selected", value.get("choices")) if isinstance(value, Mapping) else None
            if isinstance(said, list) and len(said) == 1:
                said = said[0]
            if said is not None:
                verdicts.append((_index(said, "selected", candidates), person))
            elif isinstance(value, Mapping) and "rating" in value:
                ratings[str(one.get("to_name"))] = _number(value["rating"], str(one.get("to_name")))
            else:
                other.add(str(one.get("type")) if isinstance(one, Mapping) else type(one).__name__)
        if scores := [ratings[name] for name, _ in candidates if name in ratings]:
            better = None if scores[0] == scores[-1] else int(scores[0] < scores[-1])
            verdicts += [(better, person)] if len(scores) == 2 else []
    if not verdicts:
        read = f"; results of type {', '.join(sorted(other))} are not read" if other else ""
        raise Invalid(f"Label Studio: nobody has judged this task{read}")
    return _judged(data, candidates, verdicts, "label-studio")


def argilla(fields: Mapping[str, Any], responses: Mapping[str, Any]) -> Line:
    candidates = _two_answers(fields, "Argilla")
    verdicts: list[tuple[int | None, str]] = []
    for question, given in responses.items():
        for one in given if isinstance(given, list) else []:
            value = one.get("value") if isinstance(one, Mapping) else one
            if isinstance(value, list):  # a ranking: {"value", "rank"}, best first
                value = _best(value, question)
            if isinstance(value, str):
                person = _person(one.get("user_id")) if isinstance(one, Mapping) else ""
                verdicts.append((_index(value, question, candidates), person))
    if not verdicts:
        raise Invalid("Argilla: no response says which answer is better")
    return _judged(fields, candidates, verdicts, "argilla")


def _best(ranking: Sequence[Any], question: str) -> str:
    ranked = [
        (one["rank"], one["value"]) for one in ranking if isinstance(one, Mapping) and {"rank", "value"} <= {*one}
    ]
    ranked = sorted((_number(rank, question), str(value)) for rank, value in ranked)
    if len(ranked) < 2:
        raise Invalid(f"{question}: a ranking of {len(ranked)} answers")
    return "tie" if ranked[0][0] == ranked[1][0] else ranked[0][1]


def _person(identity: Any) -> str:
    if isinstance(identity, Mapping):
        identity = identity.get("email") or identity.get("id")
    return "" if identity is None else str(identity)
