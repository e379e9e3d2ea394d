"""What a report claims, as rows of the table `claims`: the material of `lifespan replicate` and the view `verdicts`."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from dashboards.report_model import LifeReport
from storage.fingerprint import digest
from storage.home import Home
from storage.queries import query

NOT_OF_THE_TRAINING = ("seed", "name", "compute")  # settings that replications of one life may differ in


def settings_digest(config: Mapping[str, Any]) -> str:
    """Digest of a run's settings (as in `runs.config_json`) without the seed and without how it was computed."""
    return digest(_finite({name: value for name, value in config.items() if name not in NOT_OF_THE_TRAINING}))[:16]


def write_claims(home: Home, report: LifeReport) -> None:
    """Write one row per claim of the report. Raises as `Tables.write` does."""
    home.tables.write("claims", report.run.run_id, list(claim_rows(home, report)))


def claim_rows(home: Home, report: LifeReport) -> Iterator[dict[str, Any]]:
    """Rows of `claims`."""
    run_id = report.run.run_id
    sql = "SELECT config_json FROM runs WHERE run_id = $run AND event = 'started'"
    config = json.loads(query(home, sql, {"run": run_id}).to_pylist()[0]["config_json"] or "{}")
    made = (home.store.record(stage.key) for stage in report.stages if stage.status in ("ran", "cached"))
    code = digest(sorted({f"{one.stage} {name} {sha}" for one in made if one for name, sha in one.code.items()}))
    common = {
        "run_id": run_id,
        "seed": int(config.get("seed", 0)),
        "profile": report.run.profile,
        "settings": settings_digest(config),
        "code": code[:16],
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
