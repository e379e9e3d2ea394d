"""A setting of one algorithm is in the key of that algorithm alone: a field added to one config re-runs one stage."""

from __future__ import annotations

import importlib
import pkgutil

import flows.stages
from flows.engine.stage import Stage
from storage.fingerprint import code_fingerprint

# Every config module of alignment and reasoning that a stage's key holds. `judging_config`: how the policies of an
# alignment are judged, alike for all. `preferences_config`: answers are sampled as preferences will need them.
# `puzzle_study_config` with its `tree_config`: the study trains on puzzles that it does not search, so both know both.
EXPECTED = {
    "sample_answers": {"rlhf.preferences_config"},
    "collect_preferences": {"rlhf.preferences_config"},
    "train_reward_model": {"rlhf.reward_model_config"},
    "ppo": {"rlhf.ppo_config", "rlhf.overoptimization_config", "rlhf.judging_config"},
    "dpo": {"rlhf.dpo_config", "rlhf.judging_config"},
    "best_of_n": {"rlhf.judging_config"},
    "grpo": {"rlhf.grpo_config", "rlhf.verifier_task_config"},
    "evaluate_reasoning": {"reasoning.reasoning_config", "reasoning.adaptive_config"},
    "evaluate_set": {"reasoning.reasoning_config"},
    "make_puzzles": {"reasoning.puzzle_study_config", "reasoning.tree_config"},
    "search_puzzles": {"reasoning.puzzle_study_config", "reasoning.tree_config"},
    "measure_forgetting": {"reasoning.forgetting_config"},
}


def stages() -> list[Stage]:
    modules = [
        importlib.import_module(f"flows.stages.{found.name}") for found in pkgutil.iter_modules(flows.stages.__path__)
    ]
    return [one for module in modules for one in vars(module).values() if isinstance(one, Stage)]


def modules_in_key(stage: Stage, package: str) -> set[str]:
    covered = {name.partition(":")[0].removeprefix("components.") for name in code_fingerprint(stage.fn)}
    return {name for name in covered if name.startswith(package)}


def test_a_setting_of_one_algorithm_is_in_the_key_of_that_algorithm_alone() -> None:
    held = {stage.name: {name for name in modules_in_key(stage, "r") if name.endswith("_config")} for stage in stages()}
    assert {name: configs for name, configs in held.items() if configs} == EXPECTED


def test_a_strategy_is_in_the_key_of_the_evaluations_that_use_it() -> None:
    held = {stage.name: modules_in_key(stage, "reasoning.strategies.") for stage in stages()}
    users = {name: {one.rpartition(".")[2] for one in strategies} for name, strategies in held.items() if strategies}
    assert users == {
        "evaluate_reasoning": {
            "direct",
            "direct_vote",
            "chain_of_thought",
            "self_consistency",
            "best_of_k",
            "until_right",
            "adaptive",
        },
        "search_puzzles": {"greedy", "self_consistency", "best_of_k", "until_right", "tree_of_thought"},
        "evaluate_set": {"greedy", "self_consistency", "best_of_k"},
        "measure_forgetting": {"direct", "chain_of_thought", "greedy"},
    }


def test_what_analyses_a_sweep_is_not_in_the_key_of_its_trainings() -> None:
    held = {stage.name: modules_in_key(stage, "scaling.") for stage in stages()}
    assert "scaling.emergence" in held["analyse_emergence"] and "scaling.emergence" not in held["train_on_chains"]
    assert "scaling.posterior" in held["fit_scaling_law"] and "scaling.posterior" not in held["train_on_facts"]
