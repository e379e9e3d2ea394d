"""The alignment stages beside what their components' tests cover: stopping on an alarm, and what is reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_alignment import CASES, PPO, make_world

import components.rlhf.watch as watching
from components.rlhf.config import DPOConfig, WatchConfig
from components.rlhf.watch import Alarm
from components.statistics import Interval
from components.training.config import NonFiniteConfig, OptimizerConfig
from flows.config import load_config
from flows.graph import assemble
from flows.lifecycle import lifecycle_graph
from flows.work import Work
from storage.artifacts import Artifact, Store

ONE = Interval(1.0, 0.5, 1.5, 8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("world")
    made = make_world(folder)
    return Store(folder / "artifacts"), made


def run(case: str, folder: Path, world: tuple[Store, dict[str, Artifact]], **changed: Any) -> tuple[Work, Any]:
    store, made = world
    stage, settings, inputs = CASES[case]
    (folder / "out").mkdir(parents=True)
    work = Work(folder / "out", folder / "state", store=store)
    given = {name: made[name] for name in inputs if name != "shards"}
    if "shards" in inputs:
        given["replay"] = [made["shards"]]
    return work, stage.fn(work, seed=3, **{**settings, **changed}, **given)


def test_an_alarm_stops_the_run_and_the_best_policy_is_kept(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm is made up, at the fifth look; what is kept is the policy that sampled the answers of the best gold."""

    def at_five(history: Any, *_: Any) -> Alarm | None:
        return Alarm(1, history[-1].step, ONE, ONE) if history[-1].step == 5 else None

    monkeypatch.setattr(watching, "alarm_now", at_five)
    case = next(name for name in CASES if name.startswith("ppo"))
    work, facts = run(case, tmp_path / "stopped", world, watch=WatchConfig(on_alarm="stop"))
    assert facts["stopped"] and facts["alarm_step"] == 5
    golds = {step: value for step, name, value, _ in work.metrics() if name == "gold"}
    assert sorted(golds) == [1, 2, 3, 4, 5]
    assert facts["best_step"] == max(golds, key=lambda step: (golds[step], -step))

    # A run of just the iterations before the best look ends with the policy that sampled it.
    kept = load_file(tmp_path / "stopped" / "out" / "model.safetensors")
    before = facts["best_step"] - 1
    if before:
        run(case, tmp_path / "shorter", world, config=dataclasses.replace(PPO, num_iterations=before))
        expected = load_file(tmp_path / "shorter" / "out" / "model.safetensors")
    else:
        store, made = world
        expected = load_file(store.path(made["sft"]) / "model.safetensors")
    assert all(torch.equal(kept[name], expected[name]) for name in expected)

    _, going_on = run(case, tmp_path / "whole", world, watch=WatchConfig())
    assert going_on["alarm"] and not going_on["stopped"]


def test_looks_come_as_often_as_they_are_asked_for(world: tuple[Store, dict[str, Artifact]], tmp_path: Path) -> None:
    case = next(name for name in CASES if name.startswith("ppo"))
    work, _ = run(case, tmp_path, world, watch=WatchConfig(every=3))
    assert [step for step, name, *_ in work.metrics() if name == "gold"] == [1, 3, 6, 8]


def test_the_reward_model_reports_its_worth_and_a_row_for_each_pair_it_did_not_see(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    case = next(name for name in CASES if name.startswith("reward model"))
    work, facts = run(case, tmp_path, world)
    rows = work.table_rows()["evals"]
    assert len(rows) == facts["n"] == facts["accuracy_by"]["split"]["held out"]["n"] > 3
    assert sum(row["correct"] for row in rows) == round(facts["accuracy"] * facts["n"])
    assert facts["accuracy_by"]["source"].keys() == {"gold"}
    assert sum(b["chosen"]["n"] for b in facts["calibration"]["bins"]) == facts["n"]
    assert facts["disagreement"] > 0
    assert -1 <= facts["agreement_with_gold"] <= 1


def test_remedies_come_on_top_of_the_default_life_and_leave_the_rest_of_it_as_it_is() -> None:
    usual, more = (assemble(lifecycle_graph, load_config(name)).nodes for name in ("laptop", "remedies"))
    remedies = {"ppo[worst]", "ppo[variance]", "ppo[length]", "dpo", "finetune[replay=0]"}
    assert more.keys() - usual.keys() == remedies
    assert remedies <= {*more["measure_forgetting"].needs}
    again = {label for label, node in usual.items() if node.key != more[label].key}
    policies = {"ppo[kl_coef=0.0]", "ppo[kl_coef=0.1]", "ppo[kl_coef=0.4]", "best_of_n"}
    assert again == {"train_reward_model", "measure_forgetting", *policies}


def test_updates_that_were_not_finite_are_told_in_the_log_the_metrics_and_the_facts(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first update makes the weights infinite; the two after it are skipped, then the run goes back."""
    config = DPOConfig(
        epochs=2,
        batch_pairs=8,
        max_grad_norm=1e9,
        optimizer=OptimizerConfig(muon_lr=0.0, adamw_lr=3e38),
        non_finite=NonFiniteConfig(max_in_a_row=2, rate_factor=1e-41),
    )
    work, facts = run("dpo", tmp_path, world, config=config)
    assert (facts["skipped_steps"], facts["rollbacks"]) == (2, 1)
    metrics = {(step, name): value for step, name, value, _ in work.metrics()}
    assert [metrics[step, "policy/skipped_updates"] for step in (1, 2, 3, 4)] == [0, 1, 1, 0]
    assert [metrics[step, "policy/rolled_back"] for step in (1, 2, 3, 4)] == [0, 0, 1, 0]
    said = capsys.readouterr().out
    assert said.count("updates skipped") == 2 and "step 3: back to the last snapshot" in said
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(x.isfinite().all() for x in kept.values())
