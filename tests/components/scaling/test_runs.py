from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.model.config import count_params
from components.model.transformer import Transformer
from components.reasoning.tasks import extract_answer
from components.scaling.facts import SEPARATOR, FactsConfig, facts_stream, irreducible_loss
from components.scaling.runs import (
    ALPHABET,
    FactsRun,
    chain_batches,
    computed_tokens,
    emergence_model,
    evaluation_chains,
    held_out_losses_by_window,
    score_chains,
)
from components.scaling.sweep import EmergenceConfig, FactsRunConfig, MoEComparisonConfig, ScalingConfig
from components.training.config import TrainConfig
from components.training.state import load_state_tensors, state_tensors

FACTS = FactsConfig(num_facts=16, num_symbols=8, key_length=2)
RUN = FactsRunConfig(
    d_model=16, num_layers=1, checkpoints=(1920, 9600), batch_size=16, context_length=60, eval_tokens=3000
)


def test_a_run_learns_down_to_the_floor_that_is_known_and_not_below() -> None:
    run = FactsRun(replace(RUN, d_model=32, num_layers=2, checkpoints=(384_000,)), FACTS, 0)
    *_, (_, last) = run.records()
    assert last is not None
    assert run.oracle_loss == pytest.approx(irreducible_loss(FACTS), rel=0.1)
    assert run.oracle_loss - 1e-3 < last < 1.3 * run.oracle_loss
    assert np.mean(held_out_losses_by_window(run)) == pytest.approx(last, rel=1e-4)


def test_checkpoints_are_read_once_each_and_resuming_gives_the_same_losses() -> None:
    whole = FactsRun(RUN, FACTS, 0)
    read = {r.step * RUN.tokens_per_step: loss for r, loss in whole.records() if loss is not None}
    assert list(read) == [1920, 9600]
    first = FactsRun(RUN, FACTS, 0)
    for _ in itertools.islice(first.records(), 5):
        pass
    saved = {n: t.clone() for n, t in (state_tensors(first.model, first.optimizer) | first.average_tensors()).items()}
    again = FactsRun(RUN, FACTS, 0)
    load_state_tensors(again.model, again.optimizer, saved)
    again.load_average(saved)
    assert [loss for _, loss in again.records(5) if loss is not None] == [read[9600]]


def test_routing_counts_every_token_once_and_a_dense_run_has_none() -> None:
    variants = MoEComparisonConfig(run=RUN, num_experts=4).variants()
    dense, experts = (count_params(variants[name].model(9)) for name in ("dense", "moe_balanced"))
    router = RUN.num_layers * RUN.d_model * 4
    assert experts.active - router == dense.active  # equal compute a token but for the router
    assert experts.total > 2 * dense.total
    assert FactsRun(variants["dense"], FACTS, 0).routing() == {}
    routing = FactsRun(variants["moe_balanced"], FACTS, 0).routing()
    assert np.sum(routing["load"], axis=1) == pytest.approx(1.0)
    assert routing["max_share"] == max(map(max, routing["load"]))
    assert 0 <= routing["specialization"] <= np.log(4) + 1e-9


def test_chains_of_the_sweep_are_solved_right_and_never_evaluation_items() -> None:
    config = EmergenceConfig(num_items=20, train=TrainConfig(num_steps=5, batch_size=8, context_length=48))
    items = evaluation_chains(config)
    assert len({question for question, _ in items}) == 20
    for question, worked in items:
        assert eval(question.removesuffix("=?")) == int(extract_answer(worked))
    text = "".join(ALPHABET[token] for token in chain_batches(config, 0).flatten().tolist())
    asked = {line.split("=?")[0] + "=?" for line in text.split("\n")}
    assert len(asked) > 20
    assert not asked & {question for question, _ in items}


def test_only_what_is_calculated_counts_as_computed() -> None:
    worked = "37+8-6=45-6=39"
    marked = "".join(c if mark else "." for c, mark in zip(worked + "\n", computed_tokens(worked), strict=True))
    assert marked == ".......45...39."


def test_scores_of_an_untrained_model_are_about_chance() -> None:
    config = EmergenceConfig(num_items=10)
    model = Transformer(emergence_model(config, 16), 0).eval()
    exact, log_probs = score_chains(model, evaluation_chains(config))
    assert sum(exact) == 0
    mean = np.mean([x for answer in log_probs for x in answer])
    assert mean == pytest.approx(-np.log(len(ALPHABET)), abs=0.3)
    assert all(len(p) == len(worked) + 1 for p, (_, worked) in zip(log_probs, evaluation_chains(config), strict=True))


@pytest.mark.parametrize("study", [EmergenceConfig, MoEComparisonConfig])
def test_lives_share_no_training_of_a_study_with_several(study: type[EmergenceConfig | MoEComparisonConfig]) -> None:
    config = study(trainings=3)
    seeds = [seed for life in range(4) for seed in config.seeds(life)]
    assert sorted(seeds) == list(range(12))
    with pytest.raises(ValueError, match="trainings is 0"):
        study(trainings=0)


def test_one_size_is_no_sweep() -> None:
    with pytest.raises(ValueError, match="at least two sizes"):
        EmergenceConfig(widths=(8,))


def test_a_width_that_heads_do_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="width 24"):
        ScalingConfig(widths=(16, 24))
    with pytest.raises(ValueError, match="growing order"):
        FactsRunConfig(checkpoints=(200, 100))


def test_rows_never_use_a_part_of_the_stream_twice_and_each_starts_at_a_record() -> None:
    run = FactsRun(RUN, FACTS, 0)
    num_steps = RUN.training().num_steps
    rows = torch.cat([run._batch(step).tokens_BT for step in range(num_steps)])
    assert (rows[:, 0] == SEPARATOR).all()  # to the last step: rows of a stream that has run out start within a record
    needed = num_steps * RUN.batch_size
    assert len(rows) == needed
    # 61 tokens take 16 records of 4: the last row is a stretch of its own of the stream, not its beginning again.
    stream = torch.from_numpy(facts_stream(FACTS, needed * 64, 1))
    assert torch.equal(rows, torch.stack([stream[64 * row : 64 * row + 60] for row in range(needed)]))


def test_values_of_the_sweep_stay_within_its_bound() -> None:
    config = EmergenceConfig(
        max_value=19, num_items=50, train=TrainConfig(num_steps=2, batch_size=8, context_length=48)
    )
    text = "".join(ALPHABET[token] for token in chain_batches(config, 0).flatten().tolist())
    values = [int(number) for number in re.findall(r"(?<![+\-\d])\d+", text.rpartition("\n")[0])]
    values += [
        int(number) for _, worked in evaluation_chains(config) for number in re.findall(r"(?<![+\-\d])\d+", worked)
    ]
    assert max(values) == 19 and min(values) == 0
    with pytest.raises(ValueError, match="max_value is 100"):
        EmergenceConfig(max_value=100)
