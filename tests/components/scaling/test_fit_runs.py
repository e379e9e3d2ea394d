"""Every law fitted to tables that follow it gives it back; what a table does not identify has no bound and is told."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from public_files import REFERENCE
from run_tables import LAW, grid
from scipy import optimize

from components.scaling import newton
from components.scaling.fit_runs import best_of_each_size, fit_table
from components.scaling.law_fitters import FitOptions
from components.scaling.law_forms import LawName, losses, optimal
from components.scaling.laws import KaplanLaw
from components.scaling.points import point_arrays
from components.scaling.run_files import read_file
from components.scaling.run_table import TableOptions, run_table
from components.scaling.table_fit import TableFit, best_at_budget, best_when_served, flops_of_life, predict

# Public tables of runs, which do not come with the project: beside it, or where LIFESPAN_REFERENCE says.
RUNS = REFERENCE / "runs"


def fit(
    cells: dict[str, Any], law: LawName = "chinchilla", reading: TableOptions | None = None, **wanted: Any
) -> TableFit:
    return fit_table(run_table(cells, "t", reading), FitOptions(**{"law": law, "method": "none", **wanted}))


def at(params: float, tokens: float) -> dict[str, float]:
    return {"params": params, "tokens": tokens}


def with_loss(predicted: np.ndarray, noise: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    cells = grid(0.0)
    cells["loss"] = (predicted * np.exp(noise * rng.standard_normal(len(predicted)))).tolist()
    return cells


def sizes() -> tuple[np.ndarray, np.ndarray]:
    cells = grid(0.0)
    return np.array(cells["params"]), np.array(cells["tokens"])


def test_chinchilla_gives_back_its_law() -> None:
    found = fit(grid(0.0))
    for name in ("A", "B", "E", "alpha", "beta"):
        assert found.coefficients[name].value == pytest.approx(getattr(LAW, name), rel=1e-4)
    assert found.share_of_starts == 1 and found.gradient < 1e-6 and not found.warnings and not found.unidentified
    assert best_at_budget(found, 1e23)["params"].value == pytest.approx(LAW.optimal(1e23).num_params, rel=1e-3)
    assert predict(found, at(7e9, 1.4e11)).law.value == pytest.approx(float(LAW.loss(7e9, 1.4e11)), rel=1e-5)


def test_tied_exponents_are_one_number_and_no_worse_than_scipy_finds() -> None:
    n, d = sizes()
    found = fit(with_loss(1.9 + 400 * n**-0.34 + 900 * d**-0.34), "tied")
    assert found.coefficients["alpha"].value == found.coefficients["beta"].value == pytest.approx(0.34, rel=1e-5)
    noisy = with_loss(1.9 + 400 * n**-0.34 + 900 * d**-0.34, 0.01)
    ours = fit(noisy, "tied")
    target = np.log(noisy["loss"])

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha = theta
        size = np.abs(np.log(np.exp(a - alpha * np.log(n)) + np.exp(b - alpha * np.log(d)) + np.exp(e)) - target) / 1e-3
        return float(np.where(size <= 1, 0.5 * size**2, size - 0.5).sum()) * 1e-3

    ends = [optimize.minimize(objective, [5, 6, 0.5, a], method="L-BFGS-B").fun for a in (0.2, 0.3, 0.4, 0.6)]
    assert ours.objective <= min(ends) + 1e-9
    assert ours.objective >= fit(noisy, "chinchilla").objective - 1e-9


def test_gamma_gives_back_its_law_and_is_never_worse_than_chinchilla() -> None:
    n, d = sizes()
    cells = with_loss(1.2 + (4e3 * n**-0.5 + 3e4 * d**-0.5) ** 0.4)
    found = fit(cells, "gamma")
    assert found.coefficients["gamma"].value == pytest.approx(0.4, rel=0.02)
    assert found.coefficients["E"].value == pytest.approx(1.2, rel=0.02)
    assert np.abs(found.residuals).max() < 1e-4
    noisy = grid(0.01)
    assert fit(noisy, "gamma").objective <= fit(noisy).objective + 1e-9


def test_derivatives_with_gamma_are_those_of_the_objective() -> None:
    arrays = point_arrays(run_table(grid(0.02, sizes=4, lengths=4), "t").points(), 5, "test")
    problem = newton.Problem.of(arrays, None, penalty=3.0, gamma=True)
    theta, delta, h = np.array([[-0.3, -0.5, 0.6, 0.3, 0.4, 0.7]]), 0.05, 1e-6
    weights = np.arange(16.0)[None] / 8
    gradient, hessian = newton.derivatives(problem, theta, weights, delta)
    for i in range(6):
        step = np.zeros((1, 6))
        step[0, i] = h
        up, down = (newton.objective_of(problem, theta + s, weights, delta)[0] for s in (step, -step))
        assert gradient[0, i] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)
        up_g, down_g = (newton.derivatives(problem, theta + s, weights, delta)[0][0] for s in (step, -step))
        np.testing.assert_allclose(hessian[0, i], (up_g - down_g) / (2 * h), rtol=1e-4, atol=1e-4)


def test_kaplan_gives_back_its_law_and_its_optimum_is_one() -> None:
    n, d = sizes()
    law = KaplanLaw(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)  # Kaplan et al. 2020, table 2
    cells = with_loss(law.loss(n, d))
    cells["nonemb_params"] = cells.pop("params")
    found = fit(cells, "kaplan")
    assert found.convention == "non_embedding"
    for name in ("alpha_N", "alpha_D"):
        assert found.coefficients[name].value == pytest.approx(getattr(law, name), rel=1e-4)
    best = optimal("kaplan", found.values, 1e21, 6.0)
    around = best.num_params * np.linspace(0.8, 1.25, 201)
    assert best.loss <= law.loss(around, 1e21 / 6 / around).min() + 1e-9


def test_isoflop_by_nominal_budgets_where_flops_were_counted_otherwise() -> None:
    cells: dict[str, list[float]] = {"N": [], "D": [], "loss": [], "budget": []}
    even = {"E": 1.8, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.34}
    rng = np.random.default_rng(0)
    for budget in (1e19, 1e20, 1e21):
        for n in (math.sqrt(budget / 6) * np.geomspace(0.3, 3.3, 9)).tolist():
            d = budget / 6 / n
            loss = float(losses("chinchilla", [even[k] for k in ("A", "B", "E", "alpha", "beta")], n, d))
            for name, value in zip(cells, (n, d * rng.uniform(0.8, 1.25), loss, budget), strict=True):
                cells[name].append(value)
    found = fit(cells, "isoflop")
    assert found.coefficients["a"].value == pytest.approx(0.5, abs=0.005) and len(found.optima) == 3
    with pytest.raises(ValueError, match="no loss"):
        predict(found, at(1e9, 1e10))
    del cells["budget"]
    apart = fit(cells, "isoflop")
    assert any("no column of nominal budgets" in warning for warning in apart.warnings)
    assert abs(apart.coefficients["a"].value - 0.5) > 0.005


def test_envelope_takes_the_column_of_flops() -> None:
    cells = grid(0.0, sizes=14, lengths=30)
    runs = [f"r{i // 30}" for i in range(14 * 30)]
    flops = [7.0 * n * d for n, d in zip(cells["params"], cells["tokens"], strict=True)]
    found = fit({**cells, "run": runs, "flops": flops}, "envelope")
    assert found.coefficients["a"].value == pytest.approx(LAW.params_exponent, abs=0.05)
    shift = best_at_budget(found, 1e21)["tokens"].value * best_at_budget(found, 1e21)["params"].value
    assert 7 * shift == pytest.approx(1e21, rel=0.3)
    with pytest.raises(ValueError, match=r"needs a column of runs \(--run COLUMN\)"):
        fit(cells, "envelope")


def test_one_line_of_tokens_identifies_no_exponent() -> None:
    found = fit(grid(ratio=20.0), method="bootstrap", resamples=20)
    assert found.unidentified == ("A", "B", "alpha", "beta")
    assert found.coefficients["alpha"].low == 0 and math.isinf(found.coefficients["alpha"].high)
    assert any("D = 20 N in all rows" in warning for warning in found.warnings)
    on, off = predict(found, at(1e9, 2e10)), predict(found, at(1e9, 2e11))
    assert math.isfinite(on.law.low) and on.law.contains(float(LAW.loss(1e9, 2e10)))
    assert math.isinf(off.law.high) and any("off the line" in words for words in off.reach)
    with pytest.raises(ValueError, match=r"all fitted runs lie on D = 20 N"):
        best_at_budget(found, 1e22)
    assert fit(grid(ratio=20.0), "tied").unidentified == ("A", "B")


def test_a_floor_that_is_not_identified_has_no_lower_end() -> None:
    n, d = sizes()
    found = fit(with_loss(20 * n**-0.1 + 30 * d**-0.1, 0.02), method="bootstrap", resamples=40)
    assert found.coefficients["E"].low == 0


@pytest.mark.parametrize("law", ["chinchilla", "gamma"])
def test_one_size_is_refused_with_its_rows(law: LawName) -> None:
    cells = grid(sizes=1, lengths=12)
    cells["params"] = [n * (1 + 1e-6 * i) for i, n in enumerate(cells["params"])]  # computed back from FLOPs
    with pytest.raises(ValueError, match=r"rows 1 to 12 have only 1 distinct N"):
        fit(cells, law)


def test_a_sweep_over_rates_is_told_and_its_frontier_fitted() -> None:
    cells = {name: column * 4 for name, column in grid(0.001).items()}
    rng = np.random.default_rng(0)
    cells["loss"] = [x * (1 + rng.exponential(0.05)) for x in cells["loss"]]
    every = fit(cells)
    told = "\n".join(every.warnings)
    assert "192 rows share their N and D" in told and "one-sided" in told and "--frontier best" in told
    truth = float(LAW.loss(1e10, 3e11))
    miss = {
        frontier: predict(fit(cells, frontier=frontier), at(1e10, 3e11)).law.value - truth
        for frontier in ("all", "best", "penalty")
    }
    assert miss["all"] > 2 * abs(miss["best"]) and miss["all"] > 2 * abs(miss["penalty"])
    best = best_of_each_size(run_table(cells, "t"))
    assert len(best) == 48 and len(best.left_out) == 144
    lowest = {(n, d): min(x for m, e, x in zip(*cells.values(), strict=True) if (m, e) == (n, d)) for n, d in zip(
        cells["params"], cells["tokens"], strict=True)}  # fmt: skip
    assert sorted(best.loss.tolist()) == sorted(lowest.values())


def test_exponents_that_depend_on_the_range_are_told_and_others_not() -> None:
    n, d = sizes()
    bent = with_loss(1.2 + (4e3 * n**-0.5 + 3e4 * d**-0.5) ** 0.4, 0.001)
    assert any("exponents depend on the range" in warning for warning in fit(bent).warnings)
    assert not any("depend" in warning for seed in range(5) for warning in fit(grid(0.01, seed)).warnings)


@pytest.mark.parametrize("law", ["chinchilla", "tied", "gamma", "kaplan"])
def test_a_bootstrap_over_few_runs_is_told_to_be_narrow(law: LawName) -> None:
    cells = {**grid(0.01, sizes=5, lengths=6), "run": [f"r{i // 6}" for i in range(30)]}
    assert any("only 5 runs" in w for w in fit(cells, law, method="bootstrap", resamples=20).warnings)


def test_outliers_are_named() -> None:
    cells = grid()
    cells["loss"][6] *= 1.3
    assert any("outliers: row 7 lie" in warning for warning in fit(cells).warnings)


def test_predictions_hold_new_runs() -> None:
    held = total = 0
    rng = np.random.default_rng(5)
    for seed in range(8):
        found = fit(grid(0.01, seed), method="bootstrap", resamples=40)
        for n, d in ((3e9, 6e10), (4e10, 8e11)):
            said = predict(found, at(n, d), seed)
            assert said.low < said.law.low < said.law.high < said.high
            total += 1
            held += said.low <= float(LAW.loss(n, d)) * math.exp(0.01 * rng.standard_normal()) <= said.high
    assert held >= total - 3  # P(fewer of 16 | 0.95) = 0.007


def test_served_models_are_smaller_and_cheaper() -> None:
    found = fit(grid(0.002), method="bootstrap", resamples=30)
    best = best_at_budget(found, 1e22)
    life, intervals = best_when_served(found, best["loss"].value, flops_of_life(found, 1e13))
    assert life.num_params < best["params"].value and life.saving > 0
    assert life.compute_optimal_params == pytest.approx(best["params"].value, rel=1e-6)
    assert intervals["params"].low < life.num_params < intervals["params"].high
    with pytest.raises(ValueError, match="no model reaches it"):
        best_when_served(found, 1.0, flops_of_life(found, 1e13))


@pytest.mark.parametrize("law", ["chinchilla", "tied", "gamma", "kaplan", "isoflop", "envelope"])
def test_fits_go_through_json(law: LawName) -> None:
    cells = {**grid(sizes=8, lengths=8), "run": [f"r{i // 8}" for i in range(64)]}
    if law == "isoflop":
        cells = {k: [x for i, x in enumerate(v) if i < 60] for k, v in cells.items()}
        cells["budget"] = [
            float(10 ** round(math.log10(6 * n * d))) for n, d in zip(cells["params"], cells["tokens"], strict=True)
        ]
    found = fit(cells, law, method="bootstrap", resamples=20)
    found = replace(found, noise=np.full((len(found.samples), 2), 0.01))  # of a posterior
    again = TableFit.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert (
        again.coefficients == found.coefficients and again.optima == found.optima and again.warnings == found.warnings
    )
    assert {k: v.value for k, v in best_at_budget(again, 1e22).items()} == {
        k: v.value for k, v in best_at_budget(found, 1e22).items()}  # fmt: skip
    for broken in ({}, [], {"format": 1}, {**found.to_json(), "law": "x"}, {**found.to_json(), "format": 9}):
        with pytest.raises(ValueError, match=r"not a fit|not known here"):
            TableFit.from_json(broken)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"law": "power"}, "law 'power' is none of chinchilla"),
        ({"frontier": "low"}, "frontier 'low' is none of"),
        ({"confidence": 1.0}, "confidence"),
        ({"law": "kaplan", "frontier": "penalty"}, "take 'best'"),
        ({"law": "tied", "method": "posterior"}, "'posterior' is for the law chinchilla"),
    ],
)
def test_options_that_do_not_go_together_are_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FitOptions(**wrong)


@pytest.mark.slow
@pytest.mark.skipif(not RUNS.is_dir(), reason="the public tables of runs are not here")
@pytest.mark.parametrize(
    ("name", "law", "where", "delta", "expected"),
    [
        ("marin_isoflop_comma", "isoflop", (), 1e-3, {"a": 0.405}),
        ("marin_isoflop_dclm", "isoflop", (), 1e-3, {"a": 0.424}),
        ("marin_isoflop_comma", "chinchilla", (), 1e-3, {"params_exponent": 0.345}),
        ("marin_isoflop_dclm", "chinchilla", (), 1e-3, {"params_exponent": 0.371}),
        ("sardana_47_runs", "chinchilla", (), 1e-3, {"alpha": 0.179, "beta": 0.232, "E": 1.463}),
        ("sardana_47_runs", "chinchilla", ("ratio<=100",), 1e-3, {"alpha": 0.077, "beta": 0.126, "E": 0.153}),
        ("gemstones_slim", "chinchilla", (), 1e-4, {"params_exponent": 0.722}),
    ],
)
def test_public_runs(name: str, law: LawName, where: tuple[str, ...], delta: float, expected: dict[str, float]) -> None:
    found = fit(read_file(RUNS / f"{name}.csv"), law, TableOptions(where=where), delta=delta)
    values = {key: c.value for key, c in found.coefficients.items()}
    if law == "chinchilla":
        values["params_exponent"] = values["beta"] / (values["alpha"] + values["beta"])
        assert found.gradient < 1e-6
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, abs=6e-4)
    if name == "sardana_47_runs" and not where:
        assert any("exponents depend on the range" in warning for warning in found.warnings)
