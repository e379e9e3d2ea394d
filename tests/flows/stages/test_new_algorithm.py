"""What an RL algorithm of one's own takes: the loop, its config, a stage, and a line of the assembly, run for once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from toy_reinforce_config import ReinforceConfig
from toy_reinforce_stage import ReinforceLife, reinforce, reinforce_graph, tiny_model
from toy_run import run_assembly

from components.training.checkpoints import load_model
from flows.engine.work import Work
from flows.runs.run import RunResult
from flows.settings import ComputeConfig
from storage.artifacts import Artifact
from storage.home import Home
from storage.queries import query

LIFE = ReinforceLife(compute=ComputeConfig(workers=0))


def live(cfg: ReinforceLife, home: Home, console: Console) -> RunResult:
    return run_assembly(reinforce_graph, cfg, home=home, console=console, prefect=False, mlflow=False)


def statuses(result: RunResult) -> dict[str, str]:
    return {label: outcome.status for label, outcome in result.outcomes.items()}


def test_it_learns_is_measured_and_is_run_again_for_its_own_settings_alone(home: Home, console: Console) -> None:
    first = live(LIFE, home, console)
    assert (first.status, statuses(first)) == ("completed", {"tiny_model": "ran", "reinforce": "ran"})
    sql = "SELECT value FROM metrics WHERE stage = 'reinforce' AND name = 'objective/reward' ORDER BY step"
    rewards = [row["value"] for row in query(home, sql).to_pylist()]
    assert len(rewards) == 30
    assert rewards[0] < 0.6 and first.outcomes["reinforce"].artifact.facts["reward"] == rewards[-1] > 0.9

    changed = LIFE.model_copy(update={"reinforce": replace(LIFE.reinforce, num_iterations=2)})
    assert statuses(live(changed, home, console)) == {"tiny_model": "cached", "reinforce": "ran"}
    assert statuses(live(LIFE, home, console)) == {"tiny_model": "cached", "reinforce": "cached"}


def test_resumed_from_any_state_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    class Folders:
        """Stands in for the store: an artifact's key is the name of its folder."""

        def path(self, artifact: Artifact) -> Path:
            return tmp_path / artifact.key

    def train(name: str, num_iterations: int, state: str) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        out.mkdir()
        execution = ComputeConfig(checkpoint_seconds=0.0)  # a state after every step
        work = Work(out, tmp_path / state, execution, store=Folders())  # type: ignore[arg-type]
        config = ReinforceConfig(num_iterations=num_iterations, batch_size=8)
        reinforce.fn(work, config=config, seed=3, start=Artifact("checkpoint", "start"))
        return load_model(out).state_dict()

    (tmp_path / "start").mkdir()
    tiny_model.fn(Work(tmp_path / "start", tmp_path / "none"), seed=0)
    whole = train("whole", 6, "state-a")
    train("cut", 4, "state-b")  # leaves the state of its third step
    resumed = train("resumed", 6, "state-b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
