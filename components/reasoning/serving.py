"""The adaptive controller behind a server: how it words a question, and what its completions are limited to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from components.reasoning.controller import Controller, Thought, think
from components.reasoning.evaluation import EvaluationSettings
from components.reasoning.items import Item
from components.reasoning.prompting.templates import Template, form_of
from components.reasoning.scoring.scorers import SCORERS, Scorer


@dataclass(frozen=True)
class ServedController:
    """A `components.inference.reasoned.Reasoner`. scorer: the name of the one that finds and compares answers."""

    controller: Controller
    scorer: str
    direct: Template
    worked: Template
    settings: EvaluationSettings

    @cached_property
    def _scorer(self) -> Scorer:
        return SCORERS[self.scorer]

    def think(self, question: str) -> Thought:
        """Asks for completions; nobody knows what is right."""
        scorer = self._scorer
        item = Item(
            item_id=question,
            question=question,
            target="",
            difficulty=0,
            direct=self.wording(question, "direct"),
            worked=self.wording(question, "worked"),
            extract=lambda text: scorer.find(text)[0],
            verify=lambda text: False,
            extract_cut=lambda text: scorer.find(text, finished=False)[0],
        )
        return think(item, self.controller)

    def wording(self, question: str, effort: str) -> str:
        """As it was asked when the controller was tuned."""
        template = self.direct if effort == "direct" else self.worked
        return template.fill(question=question, form=form_of(self.scorer))

    def limits(self, effort: str) -> tuple[float, int]:
        """Temperature and most tokens of a completion."""
        most = self.settings.max_direct_tokens if effort == "direct" else 0
        return (self.settings.temperature if effort == "sample" else 0.0), most or self.settings.max_tokens
