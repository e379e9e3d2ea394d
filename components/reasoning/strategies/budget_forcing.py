"""Budget forcing (Muennighoff et al. 2025, "s1"): an answer that ends early is told to wait and check, `rounds` times;
one that the limit cuts is told to give its answer now. By turns of a conversation, which any endpoint takes."""

from __future__ import annotations

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.items import Item
from components.reasoning.prompting.templates import template
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

ANSWER_TOKENS = 32


def budget_forcing(rounds: int) -> Strategy:
    """`rounds` times "wait"; 0 only forces an end."""
    return Strategy(f"budget_forcing@{rounds}", "budget_forcing", lambda trial: _forced(trial, rounds), greedy=True)


def _forced(trial: Trial, rounds: int) -> list[Outcome]:
    wait, end = template("wait", "wait"), template("time-is-up", "time-is-up")
    requests: list[list[list[TextCompletion]]] = [[[done]] for done in trial.worked]
    told: list[list[tuple[str, str]]] = [
        [*item.worked_shots, (item.worked, done.text)] for item, done in zip(trial.items, trial.worked, strict=True)
    ]
    places = [place for place, done in enumerate(trial.worked) if not done.problem]

    def go_on(some: list[int], wording: str, max_tokens: int = 0) -> None:
        prompts = [TextPrompt(_said(wording, trial.items[p]), shots=tuple(told[p])) for p in some]
        for place, prompt, said in zip(some, prompts, trial.ask(prompts, max_tokens=max_tokens), strict=True):
            requests[place].append(said)
            told[place].append((prompt.user, said[0].text))

    for _ in range(rounds):
        go_on([p for p in places if requests[p][-1][0].finished and not requests[p][-1][0].problem], wait.text)
    go_on([p for p in places if not trial.items[p].answer_of(requests[p][-1][0])], end.text, ANSWER_TOKENS)
    return [_outcome(item, asked) for item, asked in zip(trial.items, requests, strict=True)]


def _said(wording: str, item: Item) -> str:
    return wording.replace("{form}", item.form)


def _outcome(item: Item, asked: list[list[TextCompletion]]) -> Outcome:
    """The last turn with an answer answers."""
    chosen = next((group[0] for group in reversed(asked) if item.answer_of(group[0])), asked[-1][0])
    steps = [
        Step(place - 1 if place else None, "turn", group[0].text, group[0].num_tokens)
        for place, group in enumerate(asked)
    ]
    return outcome_after(item, chosen, asked, {"turns": len(asked)}, steps)
