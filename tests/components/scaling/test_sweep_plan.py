"""A sweep from a budget: all of it fits in, sizes rise, and a larger budget reaches further."""

from __future__ import annotations

import pytest

from components.model.config import training_flops_per_token
from components.scaling.sweep import FactsRunConfig
from components.scaling.sweep_plan import plan_sweep

RUN = FactsRunConfig(head_dim=8)


@pytest.mark.parametrize("budget", [4e11, 3e12, 5e13, 1e15])
@pytest.mark.parametrize("trainings", [1, 3])
def test_a_plan_spends_no_more_than_its_budget(budget: float, trainings: int) -> None:
    if budget / trainings < 3.2e11:
        return
    plan = plan_sweep(budget, RUN, 40, trainings)
    assert plan.flops <= budget and len(plan.seeds) == trainings and len(set(plan.seeds)) == trainings
    assert len(plan.rungs) >= 4 and plan.rungs[0].config.d_model == 8
    spent = 0.0
    for rung in plan.rungs:
        config = rung.config
        assert config.training().num_steps * config.tokens_per_step == rung.tokens == config.checkpoints[-1]
        assert rung.tokens == pytest.approx(20 * rung.num_params, rel=0.1)
        per_token = training_flops_per_token(config.model(40), config.context_length)
        assert rung.flops == pytest.approx(per_token * rung.tokens)
        spent += rung.flops * trainings
    assert spent == pytest.approx(plan.flops)
    widths = [rung.config.d_model for rung in plan.rungs]
    assert widths == sorted(set(widths))
    steps = [b.flops / a.flops for a, b in zip(plan.rungs[2:], plan.rungs[3:], strict=False)]
    assert min(steps) >= 1.6
    # The next width would not have fitted in with three smaller ones.
    assert plan_sweep(4 * budget, RUN, 40, trainings).rungs[-1].config.d_model > widths[-1]


def test_a_budget_without_room_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="has no room for 4 sizes, which take"):
        plan_sweep(1e10, RUN, 40)
    with pytest.raises(ValueError, match="finite and positive"):
        plan_sweep(float("inf"), RUN, 40)
