"""What several trainings of one life say of each claim.

A life's own intervals are over items, requests or windows: they say how sure the numbers of *this* model are. Whether a
claim holds for the recipe is a question about trainings: here lives that differ in the seed alone are the sample, and
each interval is over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components.statistics import Interval, mean_interval
from dashboards import formatting
from dashboards.facts.effects import BORNE_OUT, Effect, Side, Unit
from storage.home import Home
from storage.queries import query

FEWEST = 2  # trainings, below which nothing can be said about trainings


class NothingToCompare(ValueError):
    """The home does not hold what a replication needs."""


@dataclass(frozen=True)
class Training:
    """What one training said of a claim; its interval is over what was evaluated."""

    seed: int
    run_id: str
    verdict: str
    interval: Interval | None


@dataclass(frozen=True)
class ReplicatedClaim:
    """One claim over trainings, by rising seed."""

    slug: str
    title: str
    unit: Unit
    side: Side
    margin: float
    trainings: tuple[Training, ...]

    @property
    def seen(self) -> int:
        """How many trainings showed it, each by its own interval."""
        return sum(training.verdict in BORNE_OUT for training in self.trainings)

    @property
    def interval(self) -> Interval | None:
        """Mean over trainings with Student's t interval over them; None where fewer than two measured it."""
        values = [training.interval.value for training in self.trainings if training.interval]
        return mean_interval(values) if len(values) >= FEWEST else None

    @property
    def verdict(self) -> str:
        """What the interval over trainings says; "" for what claims nothing or cannot be put on trial so."""
        x = self.interval
        if not self.side:
            return ""
        if x is None:
            return "too few trainings"
        if (
            self.side == "covers"
        ):  # no bias over trainings, and most of them as narrow and as good as their own test asks
            return "held" if x.contains(self.margin) and 2 * self.seen > len(self.trainings) else "not seen"
        return "seen" if (x.low > self.margin if self.side == "above" else x.high < self.margin) else "not seen"

    @property
    def evidence(self) -> str:
        """The mean with its interval and unit."""
        return shown(self.interval, self.unit)


@dataclass(frozen=True)
class Replication:
    """Lives of one profile and one state of the code that differ in the seed alone."""

    profile: str
    settings: str
    code: str
    seeds: tuple[int, ...]
    claims: tuple[ReplicatedClaim, ...]


def shown(x: Interval | None, unit: Unit) -> str:
    """A difference with interval and unit, as everywhere in the report; the dash where there is none."""
    return Effect("", "", "measured", x, unit).difference or formatting.MISSING


_NEWEST = """
    SELECT profile, settings, code FROM claims
    WHERE settings = $settings ORDER BY time DESC, run_id DESC LIMIT 1"""
_VERDICTS = """
    SELECT * FROM verdicts WHERE settings = $settings AND code = $code AND list_contains($seeds::INTEGER[], seed)
    ORDER BY claim, seed"""


def replication(home: Home, settings: str, seeds: Sequence[int]) -> Replication:
    """The newest lives of these settings, by claim.

    Args:
        settings: as `dashboards.claims.settings_digest` has it.
        seeds: which trainings to take.

    Raises:
        NothingToCompare: no life of these settings has written its claims.
    """
    newest = query(home, _NEWEST, {"settings": settings}).to_pylist()
    if not newest:
        raise NothingToCompare("no life of these settings has ended with a report: there is nothing to compare")
    (row,) = newest
    found = query(home, _VERDICTS, {"settings": settings, "code": row["code"], "seeds": list(seeds)}).to_pylist()
    by_claim: dict[str, list[dict[str, object]]] = {}
    for verdict in found:
        by_claim.setdefault(str(verdict["claim"]), []).append(verdict)
    claims = tuple(_claim(slug, rows) for slug, rows in by_claim.items())
    taken = tuple(sorted({int(verdict["seed"]) for verdict in found}))
    return Replication(row["profile"] or "", settings, row["code"], taken, claims)


def _claim(slug: str, rows: list[dict[str, object]]) -> ReplicatedClaim:
    first = next((row for row in rows if row["value"] is not None), rows[0])
    return ReplicatedClaim(
        slug,
        title=str(first["title"]),
        unit=first["unit"] or "",  # type: ignore[arg-type]
        side=first["side"] or "",  # type: ignore[arg-type]
        margin=float(first["margin"] or 0.0),  # type: ignore[arg-type]
        trainings=tuple(
            Training(
                int(row["seed"]),  # type: ignore[call-overload]
                str(row["run_id"]),
                str(row["verdict"]),
                None if row["value"] is None else Interval(row["value"], row["low"], row["high"], row["n"] or 0),  # type: ignore[arg-type]
            )
            for row in rows
        ),
    )


def render_terminal(found: Replication) -> RenderableType:
    """One row per claim; the trainings one by one are in the Markdown."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name, side in (("claim", "left"), ("mean over trainings [95%]", "right"), ("", "left"), ("seen in", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for claim in found.claims:
        style = {"seen": "green", "held": "green", "not seen": "yellow"}.get(claim.verdict, "")
        counted = f"{claim.seen} of {len(claim.trainings)}" if claim.side else ""
        table.add_row(Text(claim.title), Text(claim.evidence), Text(claim.verdict, style), counted)
    return Group(Text(_head(found), "bold"), table)


def _head(found: Replication) -> str:
    seeds = ", ".join(map(str, found.seeds))
    return (
        f"{len(found.seeds)} trainings of the profile {found.profile} (seeds {seeds}); intervals are Student's t over "
        "trainings"
    )


def render_markdown(found: Replication, command: str) -> str:
    """The table for a document: every claim over trainings, and each training beside it with its own interval."""
    columns = ["claim", "over trainings [95%]", "verdict", "seen in", *(f"seed {seed}" for seed in found.seeds)]
    lines = [
        "# Replication",
        "",
        f"`{command}` wrote this page: {_head(found)}, while the intervals in the columns of the seeds are over items, "
        "requests or windows within that one training. Settings and code were the same "
        f"(`{found.settings}`, `{found.code}`).",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for claim in found.claims:
        of_seed = {training.seed: training for training in claim.trainings}
        cells = [_cell(of_seed.get(seed), claim.unit) for seed in found.seeds]
        counted = f"{claim.seen} of {len(claim.trainings)}" if claim.side else ""
        lines.append(f"| {' | '.join([claim.title, claim.evidence, claim.verdict, counted, *cells])} |")
    return "\n".join(lines) + "\n"


def _cell(training: Training | None, unit: Unit) -> str:
    if training is None:
        return formatting.MISSING
    marks = {"held": "✓ ", "seen": "✓ ", "not seen": "✗ ", "not identified": "? "}
    mark = marks.get(training.verdict, "")
    return mark + (shown(training.interval, unit) if training.interval else training.verdict)
