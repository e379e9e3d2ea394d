"""A loss or gradient that is not finite: skipped, counted, gone back from, and never a reason to differ on resume."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import NonFiniteConfig, OptimizerConfig, TrainConfig
from components.training.guard import Guard, TrainingDiverged
from components.training.language_model import LMBatch, StepRecord, summed_loss, train
from components.training.optimizers import Optimizer
from components.training.results.guard import GuardCounts
from components.training.schedules import ScheduleConfig
from components.training.state import load_state_tensors, state_tensors

MODEL = ModelConfig(vocab_size=16, d_model=16, num_layers=1, num_heads=1, context_length=8)
CONFIG = TrainConfig(
    num_steps=40,
    batch_size=4,
    context_length=8,
    schedule=ScheduleConfig("constant", 0),
    non_finite=NonFiniteConfig(max_in_a_row=3, max_rollbacks=2, snapshot_every=5),
)


def batch_at(step: int) -> LMBatch:
    rows = torch.randint(0, 16, (4, 9), generator=torch.Generator().manual_seed(step))
    return LMBatch(rows[:, :-1], rows[:, 1:])


def poison(steps: set[int]) -> Callable[[int], LMBatch]:
    """Batches whose loss is not finite at these 0-based steps."""

    def poisoned(step: int) -> LMBatch:
        batch = batch_at(step)
        weights = torch.ones(4, 8)
        if step in steps:
            weights[1, 2] = math.nan
        return replace(batch, weights_BT=weights)

    return poisoned


def weights_of(model: Transformer) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(config: TrainConfig, batches: Callable[[int], LMBatch]) -> tuple[Transformer, Guard, list[dict[str, float]]]:
    model = Transformer(MODEL, 0)
    guard = Guard(config.non_finite)
    records = list(train(model, Optimizer(model, config.optimizer), config, batches, guard=guard))
    return model, guard, records


def test_a_bad_step_leaves_the_weights_alone_and_is_counted() -> None:
    model = Transformer(MODEL, 0)
    optimizer = Optimizer(model, CONFIG.optimizer)
    guard = Guard(CONFIG.non_finite)
    steps = train(model, optimizer, CONFIG, poison({4}), guard=guard)
    for _ in range(4):
        next(steps)
    before = weights_of(model)
    record = next(steps)
    assert record.skipped
    assert same(before, weights_of(model))
    assert not any(other.skipped or other.incidents for other in steps)
    assert guard.counts() == GuardCounts(1, 0, 1.0)


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is() -> None:
    def steep(model: Transformer, batch: LMBatch) -> tuple[Tensor, Tensor, Tensor]:
        # The value of √ at 0 is 0, its slope infinite.
        cross_entropy, z, auxiliary = summed_loss(model, batch)
        return cross_entropy + (model.embedding.weight.sum() * 0).abs().sqrt(), z, auxiliary

    model = Transformer(MODEL, 0)
    record = next(train(model, Optimizer(model, CONFIG.optimizer), CONFIG, batch_at, loss=steep))
    assert math.isfinite(record.loss)
    assert record.skipped


def test_a_run_of_bad_steps_goes_back_to_the_snapshot_at_half_the_rate() -> None:
    good = Transformer(MODEL, 0)
    snapshot: list[Tensor] = []
    for record in train(good, Optimizer(good, CONFIG.optimizer), CONFIG, poison(set())):
        if record.step == 10:
            snapshot = weights_of(good)

    model = Transformer(MODEL, 0)
    guard = Guard(CONFIG.non_finite)
    after: list[StepRecord] = []
    for record in train(model, Optimizer(model, CONFIG.optimizer), CONFIG, poison({12, 13, 14}), guard=guard):
        after.append(record)
        if record.step == 15:
            assert record.restored_step == 10
            assert same(weights_of(model), snapshot)
    assert [r.step for r in after] == list(range(1, 41))
    assert [r.lr_factor for r in after] == [1.0] * 15 + [0.5] * 25
    assert sum("restored_step" in r.incidents for r in after) == 1
    assert guard.counts() == GuardCounts(3, 1, 0.5)


def test_weights_that_blew_up_are_replaced_by_good_ones() -> None:
    # The update itself makes the weights infinite: no later batch is to blame, and only going back helps.
    config = replace(CONFIG, optimizer=OptimizerConfig(muon_lr=0.0, adamw_lr=3e38), max_grad_norm=1e9)
    config = replace(config, non_finite=replace(CONFIG.non_finite, rate_factor=1e-41))
    model, guard, records = run(config, batch_at)
    assert guard.rollbacks == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert math.isfinite(records[-1].loss)


def test_rollbacks_are_bounded_and_the_error_says_what_to_do() -> None:
    bad = set(range(6, 40))
    with pytest.raises(TrainingDiverged, match=r"step 15 had.*after 2 rollbacks, at 0\.25 of the rate.*lower the"):
        run(CONFIG, poison(bad))
    with pytest.raises(TrainingDiverged, match="3 steps in a row up to step 9 had"):
        run(replace(CONFIG, non_finite=replace(CONFIG.non_finite, max_rollbacks=0)), poison(bad))


def test_before_the_first_good_step_it_stays_at_the_start() -> None:
    model, guard, records = run(CONFIG, poison({0, 1, 2}))
    assert records[2].restored_step == 0
    later = Transformer(MODEL, 0)
    half = replace(CONFIG, optimizer=replace(CONFIG.optimizer, muon_lr=0.01, adamw_lr=1.5e-3))
    list(train(later, Optimizer(later, half.optimizer), half, poison(set()), start_step=3))
    assert guard.rate == 0.5
    assert same(weights_of(model), weights_of(later))


@pytest.mark.parametrize("kill_at", [3, 11, 13, 14, 15, 16, 29, 33])
def test_a_run_with_rollbacks_resumes_bit_for_bit(kill_at: int) -> None:
    batches = poison({12, 13, 14, 20, 30, 31, 32})
    whole, guard, records = run(CONFIG, batches)
    assert guard.rollbacks == 2

    first = Transformer(MODEL, 0)
    stopped, guarded = Optimizer(first, CONFIG.optimizer), Guard(CONFIG.non_finite)
    for _ in itertools.islice(train(first, stopped, CONFIG, batches, guard=guarded), kill_at):
        pass
    saved = {n: t.clone() for n, t in (state_tensors(first, stopped) | guarded.tensors()).items()}
    resumed = Transformer(MODEL, 7)
    again, guarded_again = Optimizer(resumed, CONFIG.optimizer), Guard(CONFIG.non_finite)
    load_state_tensors(resumed, again, saved)
    guarded_again.load_tensors(saved)
    rest = list(train(resumed, again, CONFIG, batches, kill_at, guard=guarded_again))
    assert same(weights_of(resumed), weights_of(whole))
    assert guarded_again.counts() == guard.counts()
    assert [r.lr_factor for r in rest] == [r.lr_factor for r in records[kill_at:]]
