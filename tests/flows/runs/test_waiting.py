from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from toy_people import PeopleConfig, life
from toy_run import run_assembly

from flows.settings import ComputeConfig
from storage.home import Home


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stage_that_needs_people_waits_and_the_next_run_goes_on(
    home: Home, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    said = tmp_path / "judgements"
    monkeypatch.setenv("TOY_JUDGEMENTS", str(said))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    cfg = PeopleConfig(compute=ComputeConfig(workers=workers))

    def run() -> tuple[str, dict[str, str], dict[str, str]]:
        result = run_assembly(life, cfg, home=home, console=console, prefect=False, mlflow=False)
        rows = home.tables.read("stages").to_pylist()
        states = {row["label"]: row["status"] for row in rows if row["run_id"] == result.run_id}
        assert result.failures == {}
        return result.status, dict(result.waiting), states

    status, waiting, states = run()
    assert status == "waiting"
    assert waiting == {"judged": "judged waits for people: nobody judged yet: write the file"}
    assert states == {"answers": "ran", "judged": "waiting"}
    ends = home.tables.read("runs").to_pylist()
    assert [row["status"] for row in ends if row["event"] == "ended"] == ["waiting"]
    said.write_text("b is better")
    status, waiting, states = run()
    assert (status, waiting) == ("completed", {})
    assert states == {"answers": "cached", "judged": "ran", "trained": "ran"}
