"""Laws with further variables: values by hand and from papers, fits that give them back, optima, and bad tables."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from components.scaling import newton
from components.scaling.downstream_fit import fit_downstream
from components.scaling.fit_runs import fit_table
from components.scaling.formula_fit import FormulaProblem, fit_formula
from components.scaling.formula_optimum import dense_equal, optima
from components.scaling.law_fitters import FitOptions
from components.scaling.law_forms import NEEDS, PARAMETERS, losses_of
from components.scaling.law_formulas import FORMULA_LAWS, FORMULAS_BY_LAW, FormulaLaw
from components.scaling.run_columns import RunTableError
from components.scaling.run_table import TableOptions, run_table
from components.scaling.table_fit import TableFit, best_at_budget, predict

# Of the papers: Kaplan et al. 2020 (tables 2 and 3), Muennighoff et al. 2023 (appendix A), Clark et al. 2022 (table 3),
# Krajewski et al. 2024 (table 1), Abnar et al. 2025 (table 2).
PUBLISHED: dict[FormulaLaw, list[float]] = {
    "kaplan-n": [8.8e13, 0.076],
    "kaplan-d": [5.4e13, 0.095],
    "kaplan-steps": [6.5e13, 0.077, 2.1e3, 0.76],
    "kaplan-batch": [6.5e13, 0.077, 2.1e3, 0.76, 2.1e8, 0.21],
    "repeated": [520.825, 1487.716, 1.86914, 0.3526596, 0.3526596, 15.387756, 5.309743],
    "routed": [-0.082, -0.108, 0.009, 1.104, 1.847, 314.478],
    "granularity": [18.1, 0.115, 30.8, 0.147, 2.1, 0.58, 0.47],
    "sparsity": [16612.5, 5455.67, 0.4598, 17.26, 0.94, 0.5962, 0.3954, -0.1666, 0.1603, 0.1595],
}


def cells(law: FormulaLaw, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """A table that follows the published law: every size with every number of tokens, the rest drawn."""
    rng = np.random.default_rng(seed)
    sizes, lengths = np.geomspace(1e7, 3e9, 9), np.geomspace(1e9, 1e11, 8)
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, lengths))
    columns = {
        "params": n,
        "tokens": d,
        "unique": np.minimum(d, rng.choice([1e9, 4e9, 2e10], len(n))),
        "experts": rng.choice([1.0, 2, 4, 8, 32, 128, 512], len(n)),
        "granularity": rng.choice([1.0, 2, 4, 8, 16], len(n)),
        "sparsity": rng.choice([0.0, 0.25, 0.5, 0.75, 0.9, 0.98], len(n)),
        "steps": rng.choice(np.geomspace(1e3, 1e6, 9), len(n)),
        "batch": rng.choice(np.geomspace(1e4, 3e6, 5), len(n)),
    }
    columns = {name: columns[name] for name in NEEDS[law]}
    loss = losses_of(law, PUBLISHED[law], columns) * np.exp(noise * rng.standard_normal(len(n)))
    return {name: column.tolist() for name, column in columns.items()} | {"loss": loss.tolist()}


def fit(law: FormulaLaw, table: dict[str, Any], **wanted: Any) -> TableFit:
    options = FitOptions(**{"law": law, "method": "none", **wanted})
    return fit_table(run_table(table, "t", TableOptions(needs=NEEDS[law])), options)


@pytest.mark.parametrize("law", FORMULA_LAWS)
def test_every_law_gives_back_its_coefficients(law: FormulaLaw) -> None:
    found = fit(law, cells(law))
    assert found.values == pytest.approx(PUBLISHED[law], rel=1e-3)
    assert found.gradient < 1e-6 and not found.unidentified
    noisy = fit(law, cells(law, 0.002), method="bootstrap", resamples=20)
    again = TableFit.from_json(json.loads(json.dumps(noisy.to_json(), allow_nan=False)))
    assert again.coefficients == noisy.coefficients and dict(again.extra) == dict(noisy.extra)
    at: dict[str, float] = {name: 1.5 * max(noisy.ranges[name]) if name != "sparsity" else 0.8 for name in NEEDS[law]}
    truth = float(losses_of(law, PUBLISHED[law], at))
    said = predict(again, at)
    assert said.low < said.law.value < said.high and said.law.value == pytest.approx(truth, rel=0.02)
    assert any("times the largest" in words for words in said.reach)


@pytest.mark.parametrize("law", ["repeated", "routed", "sparsity", "kaplan-batch"])
def test_derivatives_are_those_of_the_objective(law: FormulaLaw) -> None:
    columns = {name: np.array(column)[::5] for name, column in cells(law, 0.02).items()}
    problem = FormulaProblem.of(FORMULAS_BY_LAW[law], columns, penalty=3.0)
    theta, weights, delta, h = problem.starts()[:1], np.ones((1, len(columns["loss"]))), 0.5, 1e-5
    weights[0, ::2] = 2.0
    gradient, hessian = problem.derivatives(theta, weights, delta)
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, i] = h
        up, down = (problem.objective(theta + s, weights, delta)[0] for s in (step, -step))
        assert gradient[0, i] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-5)
        up_g, down_g = (problem.derivatives(theta + s, weights, delta)[0][0] for s in (step, -step))
        np.testing.assert_allclose(hessian[0, i], (up_g - down_g) / (2 * h), rtol=2e-3, atol=2e-3)


def test_a_formula_of_chinchilla_ends_where_the_other_optimiser_does() -> None:
    # Without repeats and with all models small, the law of repeated data is Chinchilla's.
    table = cells("repeated", 0.01)
    table["unique"] = table["tokens"]
    columns = {name: np.array(column) for name, column in table.items()}
    keep = columns["params"] < 1e8
    columns = {name: column[keep] for name, column in columns.items()}
    ours = fit_formula("repeated", columns | {"unique": columns["tokens"] * 0.999999}, [""] * int(keep.sum()), 1e-3)
    points = run_table({n: c.tolist() for n, c in columns.items()}, "t").points()
    problem = newton.Problem.of(newton_arrays(points), None)
    _, objective, _ = newton.minimise(problem, newton.grid_starts(problem, 8), np.ones((8, len(points))), 1e-3)
    assert ours.objective <= objective.min() * 1.001 + 1e-9


def newton_arrays(points: Any) -> Any:
    from components.scaling.points import point_arrays

    return point_arrays(points, 5, "test")


def test_repeated_data_by_hand() -> None:
    a, b, e, alpha, beta, *_ = PUBLISHED["repeated"]

    def plain(n: float, d: float) -> float:
        return e + a * n**-alpha + b * d**-beta

    def repeated(n: float, d: float, unique: float) -> float:
        return float(losses_of("repeated", PUBLISHED["repeated"], {"params": n, "tokens": d, "unique": unique}))

    assert repeated(1e8, 1e10, 1e10) == pytest.approx(plain(1e8, 1e10), rel=1e-9)
    # Four epochs, a model no larger than the unique data deserve: three repeats are worth 15.39 (1 - e^(-3/15.39)).
    worth = 1e9 * (1 + 15.387756 * (1 - math.exp(-3 / 15.387756)))
    assert worth == pytest.approx(3.7258e9, rel=1e-3)  # "up to 4 epochs nearly as good as new data"
    assert repeated(1e7, 4e9, 1e9) == pytest.approx(plain(1e7, worth), rel=1e-12)
    assert repeated(1e7, 1e15, 1e9) == pytest.approx(plain(1e7, 1e9 * 16.387756), rel=1e-9)
    # A larger model than the data deserve counts for less than itself: U_N by eq. 6 of Hoffmann et al. 2022.
    base = (alpha * a / (beta * b) * 1e9**beta) ** (1 / alpha)
    excess = base * (1 + 5.309743 * (1 - math.exp(-(1e10 / base - 1) / 5.309743)))
    assert repeated(1e10, 1e9, 1e9) == pytest.approx(plain(excess, 1e9), rel=1e-9)


def test_experts_by_hand() -> None:
    routed = PUBLISHED["routed"]
    cutoff = 10 ** (0.108 / 0.009)  # b + c log10 N = 0: where effective parameters meet N
    assert float(dense_equal(routed, cutoff, 64)) == pytest.approx(cutoff, rel=1e-6)
    assert cutoff == pytest.approx(937e9, rel=0.08)  # the published coefficients are rounded to three digits
    assert float(dense_equal(routed, 1e9, 64)) > 2e9
    by_hand = 0.47 + (2.1 / 8**0.58 + 18.1) / 1e9**0.115 + 30.8 / 2e10**0.147
    at = {"params": 1e9, "tokens": 2e10, "granularity": 8.0}
    assert float(losses_of("granularity", PUBLISHED["granularity"], at)) == pytest.approx(by_hand)
    a, b, c, d, e, alpha, beta, lambda_, delta, gamma = PUBLISHED["sparsity"]
    by_hand = e + a / 1e9**alpha + b / 2e10**beta + c / 0.2**lambda_ + d / (0.2**delta * 1e9**gamma)
    at = {"params": 1e9, "tokens": 2e10, "sparsity": 0.8}
    assert float(losses_of("sparsity", PUBLISHED["sparsity"], at)) == pytest.approx(by_hand)


def test_what_no_row_shows_is_not_identified() -> None:
    table = cells("repeated")
    table["unique"] = table["tokens"]
    found = fit("repeated", table)
    assert "R_D_star" in found.unidentified and math.isinf(found.coefficients["R_D_star"].high)
    assert any("R_D_star is not identified" in words for words in found.warnings)


def test_optima_along_a_budget_are_lowest_there() -> None:
    unlimited = optima("repeated", PUBLISHED["repeated"], 1e21, 6.0, {"unique": 1e15}, (1e7, 1e10))
    few = optima("repeated", PUBLISHED["repeated"], 1e21, 6.0, {"unique": 1e9}, (1e7, 1e10))
    assert few["loss"][0] > unlimited["loss"][0]
    # alpha = beta: N* of new data has a closed form; with few of them more epochs are worth more than more parameters.
    a, b, _, alpha, beta, *_ = PUBLISHED["repeated"]
    closed = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (1e21 / 6) ** (beta / (alpha + beta))
    assert unlimited["params"][0] == pytest.approx(closed, rel=0.02)
    assert few["params"][0] * few["tokens"][0] * 6 == pytest.approx(1e21)
    assert few["tokens"][0] / 1e9 > 10
    sparse = optima("sparsity", PUBLISHED["sparsity"], 1e21, 6.0, {}, (1e8, 1e10))
    dense = optima("sparsity", PUBLISHED["sparsity"], 1e21, 6.0, {"sparsity": 0.0}, (1e8, 1e10))
    assert sparse["loss"][0] < dense["loss"][0] and sparse["sparsity"][0] > 0.5
    active = sparse["params"][0] * (1 - sparse["sparsity"][0])
    assert 6 * active * sparse["tokens"][0] == pytest.approx(1e21)
    fine = optima("granularity", PUBLISHED["granularity"], 1e21, 6.0, {}, (1e7, 1e10))
    coarse = optima("granularity", PUBLISHED["granularity"], 1e21, 6.0, {"granularity": 1.0}, (1e7, 1e10))
    assert fine["granularity"][0] > 1 and fine["loss"][0] < coarse["loss"][0]
    for law in ("routed", "kaplan-n"):
        with pytest.raises(ValueError, match="no optimum at a budget"):
            optima(law, PUBLISHED[law], 1e21, 6.0, {}, (1e7, 1e10))
    with pytest.raises(ValueError, match="give --unique"):
        best_at_budget(fit("repeated", cells("repeated")), 1e21)


def test_accuracy_from_loss_in_two_steps() -> None:
    rng = np.random.default_rng(0)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 3e9, 7), np.geomspace(1e9, 1e11, 6)))
    loss = (1.8 + 400 * n**-0.34 + 1500 * d**-0.36) * np.exp(0.002 * rng.standard_normal(len(n)))
    accuracy = 1 - (0.85 - 6.0 * np.exp(-1.2 * loss)) + 0.005 * rng.standard_normal(len(n))
    table = {"params": n.tolist(), "tokens": d.tolist(), "loss": loss.tolist(), "accuracy": accuracy.tolist()}
    options = FitOptions(law="downstream", method="bootstrap", resamples=40)
    found = fit_table(run_table(table, "t", TableOptions(needs=NEEDS["downstream"])), options)
    assert found.samples.shape == (40, len(PARAMETERS["downstream"]))
    said = predict(found, {"params": 7e9, "tokens": 2e11})
    truth = 1 - (0.85 - 6.0 * math.exp(-1.2 * (1.8 + 400 * 7e9**-0.34 + 1500 * 2e11**-0.36)))
    assert said.accuracy is not None and said.accuracy_of_runs is not None
    assert said.accuracy.value == pytest.approx(truth, abs=0.02)
    assert said.accuracy_of_runs[0] < said.accuracy.low <= said.accuracy.high < said.accuracy_of_runs[1]
    points = run_table(table, "t").points()
    with pytest.raises(ValueError, match="cannot be told from the loss"):
        fit_downstream(points, np.full(len(points), 0.25), options_config(), 0)


def options_config() -> Any:
    from components.scaling.chinchilla_fit import ChinchillaFitConfig

    return ChinchillaFitConfig(method="none")


def test_losses_of_two_tokenizers_meet_in_bits_per_byte() -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 3e9, 6), np.geomspace(1e9, 1e11, 6)))
    rng = np.random.default_rng(0)
    per_token = rng.choice([3.2, 4.4], len(n))
    bits = 0.6 + 90 * n**-0.34 + 300 * d**-0.36
    table = {"params": n.tolist(), "tokens": d.tolist(), "bytes": per_token.tolist()}
    table["loss"] = (bits * math.log(2) * per_token).tolist()
    reading = TableOptions(columns={"bytes_per_token": "bytes"})
    found = fit_table(run_table(table, "t", reading), FitOptions(method="none"))
    assert found.loss_unit == "bits per byte"
    assert found.coefficients["E"].value == pytest.approx(0.6, rel=1e-4)
    apart = fit_table(run_table(table, "t"), FitOptions(method="none"))
    assert apart.loss_unit == "nats per token" and np.abs(apart.residuals).max() > 0.05


def test_columns_that_can_be_computed_are_and_missing_ones_are_named() -> None:
    table = cells("repeated")
    epochs = [d / u for d, u in zip(table["tokens"], table.pop("unique"), strict=True)]
    found = fit("repeated", {**table, "epochs": epochs})
    assert any("unique = tokens / epochs" in words for words in found.shown)
    assert found.values == pytest.approx(PUBLISHED["repeated"], rel=1e-3)
    with pytest.raises(RunTableError, match=r"no column is known to be unique.*--unique COLUMN"):
        fit("repeated", table)
    with pytest.raises(RunTableError, match="no column is known to be params"):
        fit("kaplan-n", {"tokens": table["tokens"], "loss": table["loss"]})
    torn = cells("sparsity")
    torn["sparsity"][2] = 1.0
    assert "a share between 0 and 1" in fit("sparsity", torn).left_out[0][1]
    flat = cells("routed")
    flat["experts"] = [8.0] * len(flat["loss"])
    with pytest.raises(ValueError, match="one value of experts"):
        fit("routed", flat)
    with pytest.raises(ValueError, match="needs experts: give --experts"):
        predict(fit("routed", cells("routed")), {"params": 1e9})
    with pytest.raises(ValueError, match="it takes no tokens"):
        predict(fit("kaplan-n", cells("kaplan-n")), {"params": 1e9, "tokens": 1e9})
