from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from components.scaling.chinchilla_fit import ChinchillaFit, ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint, point_arrays
from components.scaling.posterior import central_draw, log_posterior

LAW = ChinchillaLaw(E=0.72, A=9.6, B=7200.0, alpha=0.31, beta=0.81)
SIZES, TOKENS = (10_192, 40_256, 83_376, 151_072), (142e3, 200e3, 283e3, 400e3, 566e3)


def sweep(seed: int, noise: float = 0.01) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    points = []
    for run, n in enumerate(SIZES):
        luck = noise * rng.standard_normal()
        for d in TOKENS:
            loss = float(LAW.loss(n, d)) * math.exp(luck + noise * rng.standard_normal())
            points.append(ScalingPoint(n, d, loss, f"run-{run}"))
    return points


@pytest.mark.parametrize("fixed_E", [None, 0.7])
def test_the_density_is_that_of_the_model_written_out(fixed_E: float | None) -> None:
    """Against scipy's multivariate normal and priors, up to one constant, with the run effects as a covariance."""
    points = sweep(0)
    arrays = point_arrays(points, 5, "test")
    x, y = (np.log(column) - np.log(column).mean() for column in (arrays.num_params, arrays.tokens))
    same_run = np.array([[p.run == q.run for q in points] for p in points], dtype=float)

    def written_out(e: float, alpha: float, beta: float, a: float, b: float, sigma: float, tau: float) -> float:
        mean = np.log(e + a * np.exp(-alpha * x) + b * np.exp(-beta * y))
        covariance = sigma**2 * np.eye(len(points)) + tau**2 * same_run
        likelihood = stats.multivariate_normal(mean, covariance).logpdf(np.log(arrays.loss))
        centre = math.log(0.3 * arrays.loss.mean())
        prior = sum(stats.norm(math.log(0.25), 1.5).logpdf(math.log(v)) for v in (alpha, beta))
        prior += sum(stats.norm(centre, 3.0).logpdf(math.log(v)) for v in (a, b))
        ratio = tau / sigma
        return float(likelihood + prior + stats.halfcauchy.logpdf(ratio) + math.log(ratio))

    told = [(0.7, 0.3, 0.8, 0.4, 0.3, 0.012, 0.008), (0.7, 0.5, 0.4, 0.2, 0.6, 0.03, 0.002)]
    at = np.array(
        [[e if fixed_E else e + a + b, *np.log([al, be, al * a, be * b, s, t / s])] for e, al, be, a, b, s, t in told]
    )
    density = log_posterior(arrays, arrays.loss[None], fixed_E)(at[None])[0]
    assert density[0] - density[1] == pytest.approx(written_out(*told[0]) - written_out(*told[1]), rel=1e-9)
    if fixed_E is None:  # no floor below zero, and none above all losses
        outside = at.copy()
        outside[0, 0], outside[1, 0] = 0.2, 3.0
        assert np.isneginf(log_posterior(arrays, arrays.loss[None])(outside[None])).all()


def test_few_runs_get_a_posterior_that_holds_the_truth_and_is_read_back_as_it_was() -> None:
    fit = fit_chinchilla(sweep(1), ChinchillaFitConfig(walkers=32, steps=1500))
    assert fit.config.method == "posterior" and fit.num_runs == 4
    for name in ("E", "alpha", "beta"):
        interval = fit.intervals[name]
        assert interval.contains(getattr(LAW, name)) and interval.low < interval.value < interval.high
    assert fit.params_exponent().contains(LAW.params_exponent)
    assert len(fit.noise) == len(fit.samples) and 0.003 < np.median(fit.noise[:, 1]) < 0.03
    again = ChinchillaFit.from_json(fit.to_json())
    assert again.law == fit.law and again.intervals == fit.intervals and (again.noise == fit.noise).all()
    assert (
        fit_chinchilla(sweep(1), ChinchillaFitConfig(walkers=32, steps=1500)).samples.tolist() == fit.samples.tolist()
    )


def test_a_known_floor_is_kept_by_every_draw() -> None:
    fit = fit_chinchilla(sweep(2), ChinchillaFitConfig(fixed_E=0.72, walkers=32, steps=1000))
    assert fit.samples[:, 2] == pytest.approx(0.72)
    assert fit.intervals["alpha"].contains(LAW.alpha)


def test_the_central_draw_is_one_of_the_draws_and_in_their_middle() -> None:
    arrays = point_arrays(sweep(0), 5, "test")
    rng = np.random.default_rng(0)
    truth = np.array([LAW.A, LAW.B, LAW.E, LAW.alpha, LAW.beta])
    laws = truth * np.exp(0.05 * rng.standard_normal((200, 5)))
    laws[17] = truth
    assert central_draw(laws, arrays).tolist() == truth.tolist()


def test_many_runs_get_a_bootstrap_and_the_choice_can_be_made() -> None:
    config = ChinchillaFitConfig()
    assert [config.method_for(runs) for runs in (4, 9, 10, 50)] == ["posterior", "posterior", "bootstrap", "bootstrap"]
    assert ChinchillaFitConfig(method="bootstrap").method_for(4) == "bootstrap"
    plain = fit_chinchilla(sweep(0), ChinchillaFitConfig(method="none"))
    assert plain.samples.shape == (0, 5) and plain.intervals["E"].high == math.inf
    with pytest.raises(ValueError, match="method is 'bayes': takes one of"):
        ChinchillaFitConfig(method="bayes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='resamples must be at least 1, got 0: method = "none"'):
        ChinchillaFitConfig(resamples=0)
