"""Zero-shot chain of thought in two passes (Kojima et al. 2022): "Let's think step by step", then the answer is drawn
out of the chain by a second request."""

from __future__ import annotations

from dataclasses import replace

from components.inference.text import TextPrompt
from components.reasoning.prompting.templates import template
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

EXTRACT_TOKENS = 32


def _answered(trial: Trial) -> list[Outcome]:
    first, second = template("kojima", "kojima"), template("kojima-extract", "extract")
    asked = [TextPrompt(first.fill(question=item.question)) for item in trial.items]
    chains = trial.ask(asked)
    drawn_out = [
        replace(prompt, user=second.fill(form=item.form), shots=((prompt.user, chain[0].text),))
        for item, prompt, chain in zip(trial.items, asked, chains, strict=True)
    ]
    answers = trial.ask(drawn_out, max_tokens=EXTRACT_TOKENS)
    return [
        outcome_after(
            item,
            answer[0],
            [chain, answer],
            {"chain": chain[0].text, "chain_finished": chain[0].finished},
            [
                Step(None, "chain", chain[0].text, chain[0].num_tokens),
                Step(0, "answer", answer[0].text, answer[0].num_tokens),
            ],
        )
        for item, chain, answer in zip(trial.items, chains, answers, strict=True)
    ]


KOJIMA = Strategy("kojima", "kojima", _answered, greedy=True)
