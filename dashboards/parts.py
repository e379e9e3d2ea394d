"""The parts of a report, in the order of a life: the one list that names them all.

A new part is a function in `facts/`, one in `sections/`, one in `figures/`, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dashboards.blocks import Section
from dashboards.facts.alignment import alignment_facts
from dashboards.facts.cost import cost_facts
from dashboards.facts.effects import Missing
from dashboards.facts.evaluations import evaluation_facts
from dashboards.facts.experts import moe_facts
from dashboards.facts.forgetting import forgetting_facts
from dashboards.facts.grpo import grpo_facts
from dashboards.facts.in_context import in_context_facts
from dashboards.facts.reasoning import reasoning_facts, tree_facts
from dashboards.facts.recurrent import recurrent_facts
from dashboards.facts.scaling import emergence_facts, scaling_facts
from dashboards.facts.training import data_facts, finetuning_facts, pretraining_facts
from dashboards.figures.alignment import alignment_figure
from dashboards.figures.canvas import Figure
from dashboards.figures.cost import cost_figure
from dashboards.figures.evaluations import evaluation_figure
from dashboards.figures.experts import moe_figure
from dashboards.figures.forgetting import forgetting_figure
from dashboards.figures.grpo import grpo_figure
from dashboards.figures.in_context import in_context_figure
from dashboards.figures.reasoning import reasoning_figure, tree_figure
from dashboards.figures.recurrent import recurrent_figure
from dashboards.figures.scaling import emergence_figure, scaling_figure
from dashboards.figures.training import data_figure, finetuning_figure, pretraining_figure
from dashboards.run_data import RunRows
from dashboards.sections.alignment import alignment_section
from dashboards.sections.cost import cost_section
from dashboards.sections.evaluations import evaluation_section
from dashboards.sections.experts import moe_section
from dashboards.sections.forgetting import forgetting_section
from dashboards.sections.grpo import grpo_section
from dashboards.sections.in_context import in_context_section
from dashboards.sections.reasoning import reasoning_section, tree_section
from dashboards.sections.recurrent import recurrent_section
from dashboards.sections.scaling import emergence_section, scaling_section
from dashboards.sections.training import data_section, finetuning_section, pretraining_section

F = TypeVar("F")


@dataclass(frozen=True)
class Part(Generic[F]):
    """One part of the life.

    Attributes:
        slug: its name in links, and the key of its facts, section and figure.
        title, short_title: its heading, and its name in the page's contents.
        facts: what the rows of a run say about it, or why they say nothing. Facts with a field `effects` put claims on
            trial; `report_model.HEADLINES` picks those that come first.
        section: its sentence and tables from its facts.
        figure: its panels from its facts; None where there is nothing to draw.
        optional: a life that does not have it is none the less whole, and its report does not name it.
    """

    slug: str
    title: str
    short_title: str
    facts: Callable[[RunRows], F | Missing]
    section: Callable[[F], Section]
    figure: Callable[[F], Figure | None]
    optional: bool = False


PARTS: tuple[Part[Any], ...] = (
    Part("data", "Data and tokenizer", "Data", data_facts, data_section, data_figure),
    Part("pretraining", "Pretraining", "Pretraining", pretraining_facts, pretraining_section, pretraining_figure),
    Part("finetuning", "Fine-tuning", "Fine-tuning", finetuning_facts, finetuning_section, finetuning_figure),
    Part(
        "rlhf",
        "RLHF: preferences and their reward",
        "RLHF",
        alignment_facts,
        alignment_section,
        alignment_figure,
    ),
    Part("grpo", "GRPO: rewards that can be checked", "GRPO", grpo_facts, grpo_section, grpo_figure),
    Part("forgetting", "Forgetting", "Forgetting", forgetting_facts, forgetting_section, forgetting_figure),
    Part("scaling", "Scaling law", "Scaling", scaling_facts, scaling_section, scaling_figure),
    Part("emergence", "Emergence", "Emergence", emergence_facts, emergence_section, emergence_figure),
    Part("moe", "Mixture of experts", "Experts", moe_facts, moe_section, moe_figure),
    Part(
        "recurrent",
        "A recurrent net beside the transformer",
        "Recurrent",
        recurrent_facts,
        recurrent_section,
        recurrent_figure,
    ),
    Part(
        "in_context",
        "What models do with their context",
        "Context",
        in_context_facts,
        in_context_section,
        in_context_figure,
        optional=True,
    ),
    Part("reasoning", "Reasoning at inference", "Reasoning", reasoning_facts, reasoning_section, reasoning_figure),
    Part(
        "evaluations",
        "Your own evaluation sets",
        "Your sets",
        evaluation_facts,
        evaluation_section,
        evaluation_figure,
        optional=True,
    ),
    Part("tree", "Tree of Thought at equal dollars", "Tree of Thought", tree_facts, tree_section, tree_figure),
    Part("cost", "Cost of training and of serving", "Cost", cost_facts, cost_section, cost_figure),
)
