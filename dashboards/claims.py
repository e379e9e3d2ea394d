"""What a report claims, as rows of the table `claims`: the material of `lifespan replicate` and the view `verdicts`."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashboards.facts.effects import BORNE_OUT
from dashboards.run_data import RunRows
from storage.fingerprint import digest
from storage.home import Home
from storage.queries import query

if TYPE_CHECKING:
    from dashboards.report_model import LifeReport

# Settings that replications of one life may differ in, and what is only told about the others.
NOT_OF_THE_TRAINING = ("seed", "name", "compute", "chosen", "budget", "tags")


def settings_digest(config: Mapping[str, Any]) -> str:
    """Digest of a run's settings (as in `runs.config_json`) without the seed and without how it was computed."""
    return digest(_finite({name: value for name, value in config.items() if name not in NOT_OF_THE_TRAINING}))[:16]


@dataclass(frozen=True)
class Training:
    """Which training a run is: trainings of equal settings and code differ in the seed alone."""

    seed: int
    settings: str
    code: str


def training_of(home: Home, rows: RunRows) -> Training:
    """Of a run. Its code is that of the artifacts which it made or found."""
    made = [record for stage in rows.made() if (record := home.store.record(stage.key)) is not None]
    code = digest(sorted({f"{one.stage} {name} {sha}" for one in made for name, sha in one.code.items()}))
    return Training(rows.seed, settings_digest(rows.config), code[:16])


@dataclass(frozen=True)
class Earlier:
    """What other trainings of a home said of a claim: the seeds that put it on trial, and those that showed it."""

    seeds: tuple[int, ...]
    seen: tuple[int, ...]

    def __str__(self) -> str:
        """ "seen in 3 of 4 earlier trainings: seeds 0, 1, 3"; "seen in 0 of 1 earlier training: not in seed 2"."""
        number = len(self.seeds)
        where = _seeds(self.seen) if self.seen else f"not in {_seeds(self.seeds)}"
        return f"seen in {len(self.seen)} of {number} earlier training{'s' if number > 1 else ''}: {where}"


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


_EARLIER = """
    SELECT claim, seed, verdict FROM verdicts
    WHERE settings = $settings AND code = $code AND seed <> $seed AND side IS NOT NULL AND verdict <> 'not measured'
    ORDER BY claim, seed"""


def earlier_verdicts(home: Home, training: Training) -> dict[str, Earlier]:
    """By claim what the home's trainings of other seeds said, with the same settings and code."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for row in query(home, _EARLIER, vars(training)).to_pylist():
        found.setdefault(row["claim"], []).append((row["seed"], row["verdict"] in BORNE_OUT))
    return {
        claim: Earlier(tuple(seed for seed, _ in said), tuple(seed for seed, seen in said if seen))
        for claim, said in found.items()
    }


def write_claims(home: Home, report: LifeReport) -> None:
    """Write one row per claim of the report. Raises as `Tables.write` does."""
    home.tables.write("claims", report.run.run_id, list(claim_rows(report)))


def claim_rows(report: LifeReport) -> Iterator[dict[str, Any]]:
    """Rows of `claims`."""
    common = {
        "run_id": report.run.run_id,
        "profile": report.run.profile,
        **vars(report.training),
        "time": datetime.datetime.now(datetime.UTC),
    }
    for effect in report.effects.values():
        x = effect.interval
        yield common | {
            "claim": effect.slug,
            "title": effect.title,
            "verdict": effect.verdict,
            "value": x.value if x else None,
            "low": x.low if x else None,
            "high": x.high if x else None,
            "n": x.n if x else None,
            "unit": effect.unit or None,
            "side": effect.side or None,
            "margin": effect.margin if effect.side else None,
            "numbers": effect.numbers,
        }


def _finite(value: Any) -> Any:
    """Settings may hold infinities, which a digest refuses: spelled out."""
    if isinstance(value, Mapping):
        return {str(name): _finite(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
