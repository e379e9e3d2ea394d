"""The adaptive controller as a strategy, replayed over the samples that fixed strategies read of the same items."""

from __future__ import annotations

from components.reasoning.controller import Controller, Rates, climb, replay, rungs_to
from components.reasoning.strategies.adaptive import Drawn, drawn_from
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

FAMILY = "auto"


def auto(controller: Controller, rates: Rates, most: int) -> Strategy:
    """With votes of at most `most`. Outcomes are charged what the controller asked for; their details have its cost and
    the verdict and cost of every rung, for the oracle."""

    def answer(trial: Trial) -> list[Outcome]:
        return [_outcome(drawn, controller, rates, most) for drawn in drawn_from(trial)]

    return Strategy(FAMILY, FAMILY, answer, size=most)


def _outcome(drawn: Drawn, controller: Controller, rates: Rates, most: int) -> Outcome:
    decision = replay(drawn, controller)
    steps: list[Step] = []
    for record, group in zip(decision.trace, decision.requests, strict=True):
        for done in group:
            parent = len(steps) - 1 if steps else None
            steps.append(Step(parent, record["effort"], done.text, done.num_tokens, "", record["p_right"]))
    whole = climb(drawn, rungs_to(most), rates)
    details = {
        "effort": decision.trace[-1]["effort"],
        "calls": len(decision.requests),
        "seconds": sum(max(done.seconds for done in group) for group in decision.requests),
        "p_right": decision.trace[-1]["p_right"],
        "cost": sum(rates.cost(group) for group in decision.requests),
        "rungs_right": whole.right_S.tolist(),
        "rungs_cost": whole.steps_S.tolist(),
    }
    return outcome_after(drawn.item, decision.chosen, decision.requests, details, steps)
