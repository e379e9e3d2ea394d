from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from components.scaling import ensemble
from components.scaling.ensemble import sample_ensembles

Array = NDArray[np.float64]
COVARIANCE = np.array([[1.0, 0.9], [0.9, 1.0]]) * np.outer([1.0, 50.0], [1.0, 50.0])
INVERSE = np.linalg.inv(COVARIANCE)


def gaussian(x: Array) -> Array:
    return np.asarray(-0.5 * np.einsum("swi,ij,swj->sw", x, INVERSE, x))


def start(walkers: int, num_params: int, problems: int = 1) -> Array:
    return np.random.default_rng(7).standard_normal((problems, walkers, num_params))


def test_draws_are_those_of_a_narrow_gaussian_however_it_is_scaled() -> None:
    drawn = sample_ensembles(gaussian, start(24, 2, problems=3), 2, 2000, seed=0)
    assert drawn.values.shape == (3, 64 * 24, 2)
    for values in drawn.values:
        assert np.cov(values.T) == pytest.approx(COVARIANCE, rel=0.25)
        assert np.quantile(values[:, 0], [0.025, 0.975]) == pytest.approx([-1.96, 1.96], abs=0.3)
    assert (drawn.r_hat < 1.15).all()


def test_a_bound_is_kept_and_what_all_walkers_share_stays_as_it_is() -> None:
    def half_normal(x: Array) -> Array:
        return np.where(x[..., 1] > 0, -0.5 * x[..., 1] ** 2, -np.inf)

    begun = np.abs(start(12, 2))
    begun[..., 0] = 5.0
    drawn = sample_ensembles(half_normal, begun, 1, 1600, seed=1).values[0]
    assert (drawn[:, 0] == 5.0).all() and (drawn[:, 1] > 0).all()
    assert np.quantile(drawn[:, 1], [0.5, 0.95]) == pytest.approx([0.674, 1.96], abs=0.15)


def needle_and_island(x: Array) -> Array:
    """A Gaussian at 0, and a small spike of lower density far away that no proposal leaves."""
    return np.logaddexp(-0.5 * (x**2).sum(axis=-1), -40.0 - 0.5 * ((x - 60.0) ** 2).sum(axis=-1) / 1e-6)


def test_stuck_walkers_begin_again_and_leave_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = start(24, 3)
    begun[:, :2] = 60.0
    drawn = sample_ensembles(needle_and_island, begun, 3, 1000, seed=2)
    assert drawn.replaced.tolist() == [2]
    assert np.abs(drawn.values).max() < 10
    # Without the replacement they stay where they are, and are a twelfth of all draws.
    monkeypatch.setattr(ensemble._Ensembles, "stuck", lambda self: np.zeros(self.density_SW.shape, dtype=bool))
    left = sample_ensembles(needle_and_island, begun, 3, 1000, seed=2).values
    assert (np.abs(left[0, :, 0]) > 10).mean() == pytest.approx(1 / 12)


def test_an_ensemble_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of at least 6 walkers, got 5"):
        sample_ensembles(gaussian, start(5, 2), 2, 200, seed=0)
    with pytest.raises(ValueError, match="at least 128 steps, got 100"):
        sample_ensembles(gaussian, start(8, 2), 2, 100, seed=0)
    with pytest.raises(ValueError, match="within the support"):
        sample_ensembles(lambda x: np.full(x.shape[:2], -np.inf), start(8, 2), 2, 200, seed=0)
