"""Whether a life has become dearer than it used to be."""

from __future__ import annotations

from dataclasses import dataclass

from storage.home import Home
from storage.queries import query

FEWEST_RUNS = 3  # before that there is nothing to compare with
TOLERANCE = 0.25

# A stage is paid for by the run that executed it; what it cost then is compared with the median of what the same
# label cost the same profile before, so that neither cached stages nor another choice of stages counts as drift.
_SQL = """
WITH paid AS (
    SELECT r.profile, r.started_at, c.run_id, c.label, c.usd
    FROM run_costs c JOIN latest_runs r USING (run_id)
    WHERE c.status = 'ran' AND r.status <> 'running'),
usual AS (
    SELECT label, median(usd) AS usd, count(*) AS n FROM paid
    WHERE run_id <> $run_id AND profile = (SELECT profile FROM latest_runs WHERE run_id = $run_id)
    GROUP BY label HAVING count(*) >= $fewest)
SELECT sum(p.usd) AS paid, sum(u.usd) AS usual, count(*) AS stages, min(u.n) AS runs
FROM paid p JOIN usual u USING (label) WHERE p.run_id = $run_id"""


@dataclass(frozen=True)
class Drift:
    """A run's dollars over the median of earlier runs, for the stages that all of them ran."""

    ratio: float
    paid: float
    usual: float
    num_stages: int

    @property
    def text(self) -> str:
        return f"{self.num_stages} stages cost ${self.paid:.4f}, {self.ratio:.2f} times the usual ${self.usual:.4f}"


def cost_drift(home: Home, run_id: str, tolerance: float = TOLERANCE, fewest: int = FEWEST_RUNS) -> Drift | None:
    """The drift of a run that was dearer than the tolerance allows; None when it was not, or nothing compares."""
    (row,) = query(home, _SQL, {"run_id": run_id, "fewest": fewest}).to_pylist()
    if not row["stages"] or not row["usual"]:
        return None
    drift = Drift(row["paid"] / row["usual"], row["paid"], row["usual"], row["stages"])
    return drift if drift.ratio > 1 + tolerance else None
