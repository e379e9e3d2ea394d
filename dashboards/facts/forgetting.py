"""What every training stage did to what the model could do before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.statistics import Interval
from components.training.results.finetuning import FinetuneResult
from dashboards import formatting
from dashboards.facts.effects import Effect, Missing, difference, raises, readable
from dashboards.run_data import RunRows, finite


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one evaluation. change: against the first checkpoint, with its interval; None for that one.
    worse, better: the interval lies wholly on that side."""

    value: float
    unit: str
    change: Interval | None

    @property
    def gain(self) -> Interval | None:
        """The change, turned so that more is better."""
        x = self.change
        if x is None or self.unit != "bits_per_byte":
            return x
        return Interval(-x.value, -x.high, -x.low, x.n)

    @property
    def worse(self) -> bool:
        return self.gain is not None and self.gain.high < 0

    @property
    def better(self) -> bool:
        return self.gain is not None and self.gain.low > 0


@dataclass(frozen=True)
class ForgettingFacts:
    """The matrix. checkpoints: in the order of the life, the first is what all are compared with; evaluations: name to
    unit, those in bits per byte first. replays: fine-tunings of the same conversations as (share of pretraining text
    that is replayed, checkpoint), by share; effects: what replay did, where there are several."""

    checkpoints: tuple[str, ...]
    evaluations: Mapping[str, str]
    cells: Mapping[tuple[str, str], Cell]
    replays: tuple[tuple[float, str], ...] = ()
    effects: tuple[Effect, ...] = ()


@readable
def forgetting_facts(rows: RunRows) -> ForgettingFacts | Missing:
    found = sorted(rows.forgetting, key=lambda row: (row["position"], row["unit"] != "bits_per_byte"))
    if not found:
        return Missing(rows.why_missing("report", "The matrix of forgetting"))
    matrix = ForgettingFacts(
        checkpoints=tuple(dict.fromkeys(str(row["checkpoint"]) for row in found)),
        evaluations={str(row["evaluation"]): str(row["unit"]) for row in found},
        cells={(str(row["checkpoint"]), str(row["evaluation"])): _cell(row) for row in found},
    )
    stages = [s for s in rows.all("finetune") if s.label == "finetune" or s.label.startswith("finetune[replay=")]
    measured = [(rows.result(s, FinetuneResult).replay, s.label) for s in stages]
    replays = tuple(sorted(one for one in measured if one[1] in matrix.checkpoints))
    return replace(matrix, replays=replays, effects=_replay_effects(matrix, replays))


def _replay_effects(matrix: ForgettingFacts, replays: tuple[tuple[float, str], ...]) -> tuple[Effect, ...]:
    """What the largest share of replay saved of each source, against the smallest; none where there is one share."""
    if len(replays) < 2:
        return ()
    (less, without), (more, kept) = replays[0], replays[-1]
    found = []
    for source, unit in matrix.evaluations.items():
        lost, held = (matrix.cells.get((name, source)) for name in (without, kept))
        if unit != "bits_per_byte" or lost is None or held is None or lost.change is None or held.change is None:
            continue
        found.append(
            raises(
                f"replay_{source}",
                f"Replay of pretraining text keeps {source}",
                difference(lost.change, held.change),
                "bits",
                f"{formatting.decimal(lost.value, 2)} bits per byte with {formatting.percent(less, 0)} replayed, "
                f"{formatting.decimal(held.value, 2)} with {formatting.percent(more, 0)}",
                "what fine-tuning cost less with replay, two 95% intervals taken as independent (Newcombe); seen when "
                "the difference lies above 0",
            )
        )
    return tuple(found)


def _cell(row: Mapping[str, Any]) -> Cell:
    change, low, high = row["change"], row["change_low"], row["change_high"]
    measured = change is not None and low is not None and high is not None
    interval = finite(Interval(change, low, high, row["n"] or 0)) if measured else None
    return Cell(float(row["value"]), str(row["unit"]), interval)
