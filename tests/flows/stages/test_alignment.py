"""The alignment stages beside what their components' tests cover: stopping on an alarm, and what is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_alignment import CASES, JUDGED, JUDGING, PPO, inputs_of, make_world

import components.rlhf.grpo as grpo_module
import components.rlhf.overoptimization as watching
from components.data.prompt_files import Prompt
from components.data.tokenizer import Tokenizer
from components.inference.sampling import SamplingParams
from components.model.config import forward_flops_per_token
from components.reasoning.tasks import SuiteConfig, prompt
from components.rlhf import prompts
from components.rlhf.bench import Bench
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.overoptimization import Alarm
from components.rlhf.overoptimization_config import WatchConfig
from components.rlhf.preferences import read_preferences, write_preferences
from components.rlhf.requests import story_requests
from components.rlhf.rewards.choice import ChoiceReward
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.pattern import PatternReward
from components.rlhf.rewards.settings import RewardSettings
from components.rlhf.rollouts import Rollout, pack_responses
from components.rlhf.verifier_task_config import VerifierTaskConfig
from components.stage_results import from_facts, to_facts
from components.statistics import Interval, clustered_share_interval
from components.training.config import NonFiniteConfig, OptimizerConfig
from flows.config import load_config
from flows.engine.work import Work
from flows.lifecycle import life
from flows.stages.best_of_n import best_of_n
from flows.stages.files import GOLD_SCALE, PREFERENCES
from flows.stages.grpo import chains, passes_per_token
from storage.artifacts import Artifact, Record, Store
from storage.home import Home

ONE = Interval(1.0, 0.5, 1.5, 8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("world")
    made = make_world(folder)
    return Store(folder / "artifacts"), made


def run(case: str, folder: Path, world: tuple[Store, dict[str, Artifact]], **changed: Any) -> tuple[Work, Any]:
    store, made = world
    stage, settings, _ = CASES[case]
    (folder / "out").mkdir(parents=True)
    work = Work(folder / "out", folder / "state", store=store)
    return work, stage.fn(work, seed=3, **{**settings, **inputs_of(case, made), **changed})


def open_bench(store: Store, made: dict[str, Artifact]) -> Bench:
    sft, reward_model, preferences, tokenizer = (store.path(made[name]) for name in JUDGED)
    return Bench.of_stories(sft, reward_model, preferences / GOLD_SCALE, tokenizer)


def test_an_alarm_stops_the_run_and_the_best_policy_is_kept(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm is made up, at the fifth look; what is kept is the policy that sampled the answers of the best gold."""

    def at_five(history: Any, *_: Any) -> Alarm | None:
        return Alarm(1, history[-1].step, ONE, ONE) if history[-1].step == 5 else None

    monkeypatch.setattr(watching, "alarm_now", at_five)
    case = next(name for name in CASES if name.startswith("ppo"))
    work, result = run(case, tmp_path / "stopped", world, watch=WatchConfig(on_alarm="stop"))
    assert result.stopped and result.alarm_step == 5
    golds = {step: value for step, name, value, _ in work.metrics() if name == "gold"}
    assert sorted(golds) == [1, 2, 3, 4, 5]
    assert result.best_step == max(golds, key=lambda step: (golds[step], -step))

    # A run of just the iterations before the best look ends with the policy that sampled it.
    kept = load_file(tmp_path / "stopped" / "out" / "model.safetensors")
    before = result.best_step - 1
    if before:
        run(case, tmp_path / "shorter", world, config=dataclasses.replace(PPO, num_iterations=before))
        expected = load_file(tmp_path / "shorter" / "out" / "model.safetensors")
    else:
        store, made = world
        expected = load_file(store.path(made["sft"]) / "model.safetensors")
    assert all(torch.equal(kept[name], expected[name]) for name in expected)

    _, going_on = run(case, tmp_path / "whole", world, watch=WatchConfig())
    assert going_on.alarm and not going_on.stopped


def test_looks_come_as_often_as_they_are_asked_for(world: tuple[Store, dict[str, Artifact]], tmp_path: Path) -> None:
    case = next(name for name in CASES if name.startswith("ppo"))
    work, _ = run(case, tmp_path, world, watch=WatchConfig(every=3))
    assert [step for step, name, *_ in work.metrics() if name == "gold"] == [1, 3, 6, 8]


def test_the_reward_model_reports_its_worth_and_a_row_for_each_pair_it_did_not_see(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    case = next(name for name in CASES if name.startswith("reward model"))
    work, result = run(case, tmp_path, world)
    rows, held_out = work.table_rows()["evals"], result.held_out
    requests = {row["prompt"] for row in rows}
    assert len(rows) == held_out.num_held_out > len(requests)
    assert held_out.accuracy.n == result.accuracy_by["split"]["held out"].n == len(requests) > 3
    assert sum(row["correct"] for row in rows) == round(held_out.accuracy.value * len(rows))
    prompts_of = [row["prompt"] for row in rows]
    assert held_out.accuracy == clustered_share_interval([bool(row["correct"]) for row in rows], prompts_of)
    assert result.accuracy_by["source"].keys() == {"gold"}
    assert sum(b.num_pairs for b in held_out.calibration.bins) == len(rows)
    assert result.disagreement > 0
    assert -1 <= held_out.gold.agreement_with_gold <= 1


def test_a_policy_is_judged_against_the_fine_tuned_model_on_the_same_requests(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    """Requests differ in how well they are answered to begin with; the fine-tuned model itself gains nothing."""
    bench = open_bench(*world)
    for num_eval, requests in ((4, 4), (40, len(bench.held_out))):
        judged, num_tokens = bench.judge(bench.reference, JudgingConfig(num_eval=num_eval, max_tokens=6), seed=1)
        nothing = Interval(0.0, 0.0, 0.0, requests)
        assert (judged.proxy, judged.kl, judged.gold) == (nothing, 0.0, nothing)
        assert judged.num_answers == num_eval
        assert num_tokens == 2 * round(judged.length * num_eval) > 0  # of the policy and of the fine-tuned model


def test_what_best_of_n_gains_is_over_requests_not_over_their_repeats(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    store, made = world
    requests = len(story_requests()[1])
    results = []
    for repeats in (1, 3):
        out = tmp_path / str(repeats)
        out.mkdir()
        judging = JudgingConfig(num_eval=4 * repeats * requests, max_tokens=6)
        work = Work(out, tmp_path / "state", store=store)
        inputs = inputs_of("dpo", made)
        result = best_of_n.fn(work, best_of=(1, 2, 4, 8), judging=judging, seed=3, **inputs)
        first = result.rows[0]
        for x in (first.proxy, first.gold):
            assert [x.value, x.low, x.high] == pytest.approx([0.0] * 3)
        assert {x.n for row in result.rows for x in (row.proxy, row.gold)} == {result.n} == {requests}
        assert result.law.proxy.alpha.n == requests
        results.append(result)
    assert [one.num_groups for one in results] == [requests, 3 * requests]


@pytest.fixture
def by_people(world: tuple[Store, dict[str, Artifact]], tmp_path: Path) -> tuple[Store, dict[str, Artifact]]:
    """The world, with the same pairs from people: they have no scale of gold."""
    store, made = world
    with store.writing("e" * 64) as out:
        pairs, _ = read_preferences(store.path(made["preferences"]) / PREFERENCES)
        write_preferences(out / PREFERENCES, [dataclasses.replace(p, gold_margin=None, source="people") for p in pairs])
        artifact = Artifact("preferences", "e" * 64, {})
        sealed = store.seal(out, Record(artifact, "preferences", {}, {}, {}, "toy"))
    return store, made | {"preferences": sealed}


def test_without_a_scale_of_gold_no_stage_scores_by_it(
    by_people: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    """The prompts are story requests, which the scorer could score: it is not asked."""
    for number, case in enumerate(CASES):
        if case.startswith("grpo"):
            continue
        work, result = run(case, tmp_path / str(number), by_people)
        assert not [name for _, name, *_ in work.metrics() if name.startswith("gold")]
        facts = to_facts(result)
        assert not [name for name in facts if name.startswith("gold") and facts[name] not in (None, "none")]
        assert all("gold" not in row["scores_json"] for row in work.table_rows().get("samples", []))
        if case.startswith("reward model"):
            assert (result.held_out.gold.agreement_with_gold, result.held_out.gold.best_of_four) == (None, None)
            assert result.held_out.accuracy.n > 3
        else:
            assert result.judged.gold is None and result.judged.proxy.n > 1
            assert from_facts(type(result), json.loads(json.dumps(facts))) == result
        if case.startswith("ppo"):
            assert result.law.gold is None and "gold" not in result.alarm_reason
    store, made = by_people
    work = Work(tmp_path / "best", tmp_path / "state", store=store)
    work.out.mkdir()
    judging = JudgingConfig(num_eval=64, max_tokens=6)
    best = best_of_n.fn(work, best_of=(1, 2), judging=judging, seed=3, **inputs_of("dpo", made))
    assert [row.gold for row in best.rows] == [None, None] and best.law.gold is None
    assert best.rows[1].proxy.value > 0


def test_grpo_watches_problems_of_every_difficulty(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def heard(words: Any, prompts: list[Prompt]) -> list[list[int]]:
        asked.append([one.text for one in prompts])
        return [[1, 2, 3] for _ in prompts]

    monkeypatch.setattr(prompts, "chat_prompts", heard)
    suite = SuiteConfig(difficulties=(2, 3, 4), per_difficulty=5)
    task = VerifierTaskConfig(num_problems=20, min_difficulty=2, max_difficulty=3, num_watch=4)
    run("grpo", tmp_path, world, suite=suite, task=task, config=GRPOConfig(num_iterations=1, max_tokens=6))
    level = {prompt(problem, "worked"): problem.difficulty for problem in suite.problems()}
    watched = [[level[text] for text in texts] for texts in asked if len(texts) == 4]
    assert watched == [[2, 2, 3, 3]] * 2


def test_grpo_counts_the_passes_that_it_makes() -> None:
    config = GRPOConfig(num_prompts=8, num_epochs=2, num_minibatches=4)
    all_differ = {"groups/zero_variance": 0.0, "groups/sampled": 8}
    half_equal = {"groups/zero_variance": 0.5, "groups/sampled": 12}
    # One to sample, two epochs of forward and backward, old log-probabilities of three of the four minibatches.
    assert passes_per_token(config, all_differ, routed=False) == 1 + 6 + 0.75
    assert passes_per_token(config, half_equal, routed=False) == 1.5 + 0.5 * 6.75
    assert passes_per_token(config, half_equal, routed=True) == 1.5 + 6.75
    with_kl = dataclasses.replace(config, kl_coef=0.1)
    assert passes_per_token(with_kl, half_equal, routed=False) == 1.5 + 6.75 + 1


def test_ppo_counts_the_passes_of_sampling_and_of_every_reward_model(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    case = next(name for name in CASES if name.startswith("ppo"))
    work, _ = run(case, tmp_path, world, config=dataclasses.replace(PPO, num_iterations=1, num_epochs=3))
    bench = open_bench(*world)
    (tokens,) = [value for _, name, value, _ in work.metrics() if name == "tokens"]
    forward = forward_flops_per_token(bench.reference.cfg, bench.reference.cfg.context_length)
    judging = (work.spent()["tokens"] - tokens) * forward
    # Sampling; policy, reference, critic, two reward models; and twice (forward and backward) in three epochs.
    assert work.spent()["flops"] - judging == pytest.approx(tokens * forward * (1 + 5 + 2 * 3 * 3))


def test_remedies_come_on_top_of_the_default_life_and_leave_the_rest_of_it_as_it_is() -> None:
    usual, more = (life(load_config(name), Home("no-such-home")).nodes for name in ("laptop", "remedies"))
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
    work, result = run("dpo", tmp_path, world, config=config)
    assert (result.guard.skipped_steps, result.guard.rollbacks) == (2, 1)
    metrics = {(step, name): value for step, name, value, _ in work.metrics()}
    assert [metrics[step, "policy/skipped_updates"] for step in (1, 2, 3, 4)] == [0, 1, 1, 0]
    assert [metrics[step, "policy/rolled_back"] for step in (1, 2, 3, 4)] == [0, 0, 1, 0]
    said = capsys.readouterr().out
    assert said.count("updates skipped") == 2 and "step 3: back to the last snapshot" in said
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(x.isfinite().all() for x in kept.values())


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("reward model")] + ["best of n"])
def test_an_answer_ends_at_every_token_that_ends_one(
    case: str, world: tuple[Store, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer may have several, as those of imported models do; here a common token is made one of them."""
    store, made = world
    read = Tokenizer.load

    def with_one_more(folder: Path) -> Tokenizer:
        words = read(folder)
        words.stop_ids |= {_often(words)}
        return words

    monkeypatch.setattr(Tokenizer, "load", with_one_more)
    sampled: list[SamplingParams] = []
    check = SamplingParams.__post_init__
    monkeypatch.setattr(SamplingParams, "__post_init__", lambda self: (sampled.append(self), check(self))[1])
    if case == "best of n":
        (tmp_path / "out").mkdir()
        work = Work(tmp_path / "out", tmp_path / "state", store=store)
        best_of_n.fn(work, best_of=(1, 2), judging=JUDGING, seed=3, **inputs_of("dpo", made))
    else:
        run(case, tmp_path, world)
    words = with_one_more(store.path(made["tokenizer"]))
    assert sampled and {params.stop_ids for params in sampled} == {tuple(sorted(words.stop_ids))}
    assert len(words.stop_ids) == 3


def _often(words: Tokenizer) -> int:
    return words.encode(" the")[0]


def test_a_verified_answer_may_end_with_any_of_them(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPO pays for a right answer that came to an end, by whatever token, and for no answer that was cut off."""
    paid: list[float] = []

    settings = CASES["grpo"][1]
    practised = chains(settings["task"], settings["suite"], 3).prompts[0]

    def loop(state: Any, reference: Any, reward: Any, prompts: Any, stop_ids: Any, config: Any, seed: int) -> Any:
        words = Tokenizer.load(world[0].path(world[1]["tokenizer"]))
        answer = words.encode(practised.answer)
        responses = [(*answer, *end) for end in ((), (words.end_id,), (words.eos_id,))]
        packed = pack_responses([prompts[0]] * 3, responses)
        finished_B = torch.tensor([response[-1] in stop_ids for response in responses])
        rollout = Rollout(*packed, finished_B, (0, 0, 0), tuple(responses), torch.zeros(packed[2].shape))
        paid.extend(reward(rollout).tolist())
        return iter(())

    monkeypatch.setattr(grpo_module, "grpo", loop)
    run("grpo", tmp_path, world)
    assert paid == [0.0, 1.0, 1.0]


def test_runs_without_a_penalty_are_as_long_as_it_takes_to_show_where_they_lead(tmp_path: Path) -> None:
    cfg = load_config("remedies")
    graph = life(cfg, Home(tmp_path))
    lengths = {
        label: node.bound.settings["config"].num_iterations
        for label, node in graph.nodes.items()
        if label.startswith("ppo[")
    }
    free, held = cfg.alignment.free_iterations, cfg.ppo.num_iterations
    assert free > held
    assert {label for label, length in lengths.items() if length == held} == {"ppo[kl_coef=0.1]", "ppo[kl_coef=0.4]"}
    assert {length for label, length in lengths.items() if label not in ("ppo[kl_coef=0.1]", "ppo[kl_coef=0.4]")} == {
        free
    }
    same = load_config("remedies", ["alignment.free_iterations=0"]).alignment.held(cfg.ppo, 0.0)
    assert same.num_iterations == held


OWN = RewardSettings((NumberReward(), PatternReward("[aeiou]", name="vowels", weight=0.5)))


def test_policies_are_paid_and_judged_by_rewards_of_ones_own_and_without_gold_nothing_is_said_of_it(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    _, made = world
    case = next(name for name in CASES if name.startswith("ppo"))
    own = {"reward": OWN, "prompts": [made["prompts"]], "reward_model": [], "preferences": []}
    config = dataclasses.replace(PPO, num_iterations=2, combine="mean")
    work, result = run(case, tmp_path / "ppo", world, config=config, **own)
    values = {(step, name): value for step, name, value, _ in work.metrics()}
    assert not any(name.startswith("gold") for _, name in values)
    for step in (1, 2):
        expected = values[step, "reward/number"] + 0.5 * values[step, "reward/vowels"]
        assert values[step, "objective/score"] == pytest.approx(expected)
    assert (result.judged.gold, result.judged.gold_name, result.law.gold) == (None, "none", None)
    gains = result.judged.rewards
    assert gains.keys() == {"number", "vowels", "sum"}
    assert gains["sum"].after == pytest.approx(gains["number"].after + 0.5 * gains["vowels"].after)
    assert gains["sum"].gain.value == pytest.approx(result.judged.proxy.value, abs=1e-6)
    assert gains["sum"].gain.n == 3  # held-out prompts
    assert from_facts(type(result), to_facts(result)) == result

    paid = {**inputs_of("dpo", made), **own}
    out = tmp_path / "best"
    out.mkdir()
    best = best_of_n.fn(
        Work(out, tmp_path / "s", store=world[0]), best_of=(1, 2), judging=JudgingConfig(8, 6), seed=1, **paid
    )
    assert (best.gold_name, best.n) == ("none", 3)
    assert all(row.gold is None for row in best.rows) and best.rows[1].proxy.value >= 0


def test_gold_is_watched_and_never_paid(world: tuple[Store, dict[str, Artifact]], tmp_path: Path) -> None:
    case = "grpo, rewards of one's own"
    _, watched = run(case, tmp_path / "watched", world)
    assert (watched.gold_name, watched.gold.n, watched.measure) == ("regex", 3, "reward")
    without = RewardSettings(CASES[case][1]["reward"].rewards)
    _, plain = run(case, tmp_path / "plain", world, reward=without)
    assert (plain.gold_name, plain.gold) == ("none", None)
    one, other = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("watched", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dpo_needs_neither_a_reward_model_nor_rewards(world: tuple[Store, dict[str, Artifact]], tmp_path: Path) -> None:
    _, result = run("dpo", tmp_path, world, reward_model=[])
    assert result.judged.proxy is None and result.judged.rewards is None
    assert result.judged.gold_name == "story rubric"
    assert from_facts(type(result), to_facts(result)) == result


def test_a_prompt_that_a_reward_cannot_judge_is_left_out_and_none_at_all_is_an_error(
    world: tuple[Store, dict[str, Artifact]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no prompt is left to train on: 9 cannot be used; .*is no letter"):
        run("grpo, rewards of one's own", tmp_path, world, reward=RewardSettings((ChoiceReward(),)))
