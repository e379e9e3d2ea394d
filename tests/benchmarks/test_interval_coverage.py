"""That the intervals of a small sweep hold what they promise; takes about a minute."""

from __future__ import annotations

import pytest

from tests.benchmarks.interval_coverage import DESIGNS, bootstrap_coverage, posterior_coverage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_runs", [4, 8])
def test_the_posterior_of_few_runs_holds_the_truth_and_the_run_to_come(num_runs: int) -> None:
    held = posterior_coverage(100, 0.01, num_runs, DESIGNS["life"])
    assert min(x.held.value for x in held.values()) >= 0.88, held  # P(fewer of 100 | 0.95) = 0.1%


@pytest.mark.parametrize(("num_runs", "per_run", "noise"), [(10, 5, 0.01), (20, 1, 0.01), (30, 1, 0.003)])
def test_of_more_runs_the_posterior_holds_and_is_narrower_than_the_bootstrap(
    num_runs: int, per_run: int, noise: float
) -> None:
    design = DESIGNS["chinchilla"]
    held = posterior_coverage(100, noise, num_runs, design, per_run)
    drawn = bootstrap_coverage(40, noise, num_runs, design, per_run)
    assert min(x.held.value for x in held.values()) >= 0.88, held
    assert max(x.width for x in held.values()) < 4 / 3, held
    assert all(held[name].width < drawn[name].width for name in ("E", "alpha", "beta")), drawn


def test_a_flat_law_ten_times_out_is_its_limit() -> None:
    held = posterior_coverage(100, 0.01, 4, DESIGNS["flat"])
    assert held["next run"].held.value >= 0.9
    assert held["far run"].held.value >= 0.75, held


def test_a_bootstrap_over_so_few_runs_is_too_narrow() -> None:
    held = bootstrap_coverage(40, 0.01, 4, DESIGNS["life"])
    assert min(x.held.high for x in held.values()) < 0.95, held
