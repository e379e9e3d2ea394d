"""A life as its report tells it: the facts of every part, and the ten lines that matter first."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dashboards.blocks import Section
from dashboards.claims import Earlier, Training
from dashboards.facts.alignment import HACKING_SIGNS, PROXY_GAIN
from dashboards.facts.chosen import ChosenSetting, chosen_settings
from dashboards.facts.effects import Effect, Missing, not_measured
from dashboards.facts.reasoning import TITLES
from dashboards.facts.texts import Text, chosen_texts
from dashboards.figures.canvas import Figure
from dashboards.parts import PARTS
from dashboards.run_data import RunRows, StageRow

# The ten lines that matter first, in the order of a life, with the title of those that may not be there at all.
HEADLINES = {
    **TITLES,
    "ppo_gain": "PPO with a KL penalty raises the true preference",
    "reward_hacking": "Without a penalty the proxy is hacked",
    "grpo": "GRPO raises accuracy by exact rewards",
    "forecast": "A larger run is forecast before it is trained",
    "emergence_jump": "Exact match jumps between two neighbouring sizes",
    "moe_balance": "The balancing loss keeps the experts in use",
    "cost": "What it costs, to raise and to serve",
}
# What is said in place of a headline where nobody knows the true preference.
WITHOUT_GOLD = {"ppo_gain": PROXY_GAIN[0], "reward_hacking": HACKING_SIGNS[0]}


@dataclass(frozen=True)
class RunHead:
    """Which run it is. `seconds`: from its start to its end, or to its last stage's end while it is open."""

    run_id: str
    name: str
    profile: str
    status: str
    started_at: datetime.datetime | None
    seconds: float | None


@dataclass(frozen=True)
class LifeReport:
    """A life, part by part: one training, of which it speaks alone.

    Attributes:
        facts: by slug of `dashboards.parts.PARTS`; a part without rows is `Missing`, which says why, and one that is
            optional is then not there at all.
        training: which training it is.
        earlier: by claim what the home's trainings of other seeds said.
        chosen: settings that were chosen so that effects show.
    """

    run: RunHead
    stages: tuple[StageRow, ...]
    facts: Mapping[str, Any]
    texts: tuple[Text, ...]
    training: Training
    earlier: Mapping[str, Earlier]
    chosen: tuple[ChosenSetting, ...]

    @property
    def scope(self) -> str:
        """What the report speaks of, and what it does not."""
        said = (
            f"One training, seed {self.training.seed}. Its intervals are over items, requests or windows: they say how "
            "sure the numbers of this training are, not whether another one shows the same."
        )
        others = sorted({seed for one in self.earlier.values() for seed in one.seeds})
        if others:
            return f"{said} Beside each claim stands what seeds {', '.join(map(str, others))} said before, if anything."
        profile = f" {self.run.profile}" if self.run.profile else ""
        return f"{said} This home holds no other: `lifespan replicate{profile} --seeds 5` trains with further seeds."

    def before(self, effect: Effect) -> str:
        """What the home's other trainings said of a claim; "" where none did."""
        return str(self.earlier[effect.slug]) if effect.slug in self.earlier else ""

    @property
    def effects(self) -> dict[str, Effect]:
        """Every effect of every part, by slug."""
        claims = (getattr(facts, "effects", ()) for facts in self.facts.values())  # the data claims nothing
        return {effect.slug: effect for effects in claims for effect in effects}

    @property
    def section_of(self) -> dict[str, str]:
        """By effect: the slug of the part that tells of it."""
        return {effect.slug: slug for slug, facts in self.facts.items() for effect in getattr(facts, "effects", ())}

    @property
    def headlines(self) -> tuple[Effect, ...]:
        """The ten lines that matter first."""
        found = self.effects
        instead = {slug: found[other] for slug, other in WITHOUT_GOLD.items() if other in found}
        return tuple(
            found.get(slug) or instead.get(slug) or not_measured(slug, title, "this part is not in the run")
            for slug, title in HEADLINES.items()
        )

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What every part says, in the order of a life: the terminal and the page show the same."""
        found = []
        for part in PARTS:
            if part.slug not in self.facts:
                continue
            facts = self.facts[part.slug]
            said = Section(missing=facts.reason) if isinstance(facts, Missing) else part.section(facts)
            found.append(replace(said, slug=part.slug, title=part.title, short_title=part.short_title))
        return tuple(found)

    @cached_property  # drawing takes seconds, and the page and the tracker show the same figures
    def figures(self) -> dict[str, Figure]:
        """The figures by slug of their part, without the parts that have nothing to draw."""
        drawn = {
            part.slug: part.figure(facts)
            for part in PARTS
            if part.slug in self.facts and not isinstance(facts := self.facts[part.slug], Missing)
        }
        return {slug: figure for slug, figure in drawn.items() if figure is not None}


def build(rows: RunRows, training: Training, earlier: Mapping[str, Earlier]) -> LifeReport:
    """The report of a run from its rows, and from what other trainings said."""
    read = {part: part.facts(rows) for part in PARTS}
    facts = {part.slug: found for part, found in read.items() if not (part.optional and isinstance(found, Missing))}
    chosen = chosen_settings(rows.config, {stage.stage for stage in rows.stages})
    return LifeReport(_head(rows), rows.stages, facts, chosen_texts(rows), training, earlier, chosen)


def _head(rows: RunRows) -> RunHead:
    return RunHead(rows.run_id, rows.name, rows.profile, rows.status, rows.started_at, rows.seconds)
