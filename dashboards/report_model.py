"""A life as its report tells it: the facts of every part, and the ten lines that matter first."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.facts.alignment import AlignmentFacts, GrpoFacts, alignment_facts, grpo_facts
from dashboards.facts.cost import CostFacts, cost_facts
from dashboards.facts.effects import Effect, Missing, not_measured
from dashboards.facts.experts import MoeFacts, moe_facts
from dashboards.facts.forgetting import ForgettingFacts, forgetting_facts
from dashboards.facts.reasoning import ReasoningFacts, TreeFacts, reasoning_facts, tree_facts
from dashboards.facts.recurrent import RecurrentFacts, recurrent_facts
from dashboards.facts.scaling import EmergenceFacts, ScalingFacts, emergence_facts, scaling_facts
from dashboards.facts.texts import Text, chosen_texts
from dashboards.facts.training import (
    DataFacts,
    FinetuningFacts,
    TrainingFacts,
    data_facts,
    finetuning_facts,
    pretraining_facts,
)
from dashboards.run_data import RunRows, StageRow

# The ten lines that matter first, in the order of a life, with the title of those that may not be there at all.
HEADLINES = {
    "chain_of_thought": "Chain of thought beats a direct answer",
    "self_consistency": "A vote of samples beats one sample",
    "tree_of_thought": "Tree of Thought beats sampling at equal tokens",
    "ppo_gain": "PPO with a KL penalty raises the true preference",
    "reward_hacking": "Without a penalty the proxy is hacked",
    "grpo": "GRPO raises accuracy by exact rewards",
    "forecast": "A larger run is forecast before it is trained",
    "emergence": "Exact match jumps where log-probability moves smoothly",
    "moe_balance": "The balancing loss keeps the experts in use",
    "cost": "What it costs, to raise and to serve",
}


@dataclass(frozen=True)
class RunHead:
    """Which run it is. `seconds`: from its start to its end, or to its last stage's end while it is open."""

    run_id: str
    name: str
    profile: str
    status: str
    started_at: datetime.datetime | None
    seconds: float | None


@dataclass(frozen=True, eq=False)  # a report is known by itself, so that its figures are drawn once
class LifeReport:
    """A life, part by part; a part without rows says why it is missing."""

    run: RunHead
    stages: tuple[StageRow, ...]
    data: DataFacts | Missing
    pretraining: TrainingFacts | Missing
    finetuning: FinetuningFacts | Missing
    alignment: AlignmentFacts | Missing
    grpo: GrpoFacts | Missing
    forgetting: ForgettingFacts | Missing
    scaling: ScalingFacts | Missing
    emergence: EmergenceFacts | Missing
    moe: MoeFacts | Missing
    recurrent: RecurrentFacts | Missing
    reasoning: ReasoningFacts | Missing
    tree: TreeFacts | Missing
    cost: CostFacts | Missing
    texts: tuple[Text, ...]

    @property
    def effects(self) -> dict[str, Effect]:
        """Every effect of every part, by slug."""
        parts = (
            self.finetuning,
            self.alignment,
            self.grpo,
            self.forgetting,
            self.scaling,
            self.emergence,
            self.moe,
            self.recurrent,
            self.reasoning,
            self.tree,
            self.cost,
        )
        return {effect.slug: effect for part in parts if not isinstance(part, Missing) for effect in part.effects}

    @property
    def headlines(self) -> tuple[Effect, ...]:
        """The ten lines that matter first."""
        found = self.effects
        return tuple(
            found.get(slug) or not_measured(slug, title, "this part is not in the run")
            for slug, title in HEADLINES.items()
        )


def build(rows: RunRows) -> LifeReport:
    """The report of a run from its rows."""
    return LifeReport(
        run=_head(rows),
        stages=rows.stages,
        data=data_facts(rows),
        pretraining=pretraining_facts(rows),
        finetuning=finetuning_facts(rows),
        alignment=alignment_facts(rows),
        grpo=grpo_facts(rows),
        forgetting=forgetting_facts(rows),
        scaling=scaling_facts(rows),
        emergence=emergence_facts(rows),
        moe=moe_facts(rows),
        recurrent=recurrent_facts(rows),
        reasoning=reasoning_facts(rows),
        tree=tree_facts(rows),
        cost=cost_facts(rows),
        texts=chosen_texts(rows),
    )


def _head(rows: RunRows) -> RunHead:
    end = rows.ended_at or _latest(stage.ended_at for stage in rows.stages)
    seconds = (end - rows.started_at).total_seconds() if end and rows.started_at else None
    return RunHead(rows.run_id, rows.name, rows.profile, rows.status, rows.started_at, seconds)


def _latest(times: Iterable[datetime.datetime | None]) -> datetime.datetime | None:
    return max((time for time in times if time is not None), default=None)
