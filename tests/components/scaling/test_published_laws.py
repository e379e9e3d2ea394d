"""Published coefficients and worked examples, read from a folder that does not come with the project.

It is looked for beside the project, or where LIFESPAN_REFERENCE says. The same facts that need no file are tested in
`test_laws.py` and `test_optimum.py`.
"""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import numpy as np
import pytest
from public_files import REFERENCE

from components.scaling.formula_optimum import dense_equal
from components.scaling.law_forms import cheapest, losses, losses_of, optimal
from components.scaling.laws import ChinchillaLaw
from components.scaling.optimum import flop_costs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published laws are not here"),
]


def published(name: str) -> dict[str, Any]:
    return dict(json.loads((REFERENCE / "published_laws.json").read_text(encoding="utf-8"))[name])


def coefficients(name: str) -> list[float]:
    law = published(name)
    if "logA" in law:
        law |= {k: math.exp(law[f"log{k}"]) for k in ("A", "B", "E")}
    return [law[k] for k in ("A", "B", "E", "alpha", "beta")]


@pytest.mark.parametrize(
    ("name", "ratio"), [("chinchilla_rounded", 92.6), ("chinchilla_tex", 58.9), ("besiroglu2024", 18.3)]
)
def test_tokens_per_parameter_at_chinchillas_budget(name: str, ratio: float) -> None:
    assert optimal("chinchilla", coefficients(name), 5.76e23, 6.0).tokens_per_param == pytest.approx(ratio, rel=0.006)


@pytest.mark.parametrize(("approach", "slope"), [("A1", 0.498), ("A2", 0.490), ("A3", 0.459)])
def test_slopes_of_hoffmanns_tables(approach: str, slope: float) -> None:
    with (REFERENCE / "hoffmann_table3_A3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    flops, sizes = (np.log([float(row[column]) for row in rows]) for column in (f"{approach}_C", "N"))
    assert np.polyfit(flops, sizes, 1)[0] == pytest.approx(slope, abs=0.0015)
    if approach == "A3":
        assert np.mean([6 * float(r["N"]) * float(r["A3_D"]) / float(r["A3_C"]) for r in rows]) == pytest.approx(
            1, abs=0.01
        )
        for row in rows:
            best = optimal("chinchilla", coefficients("chinchilla_tex"), float(row["A3_C"]), 6.0)
            assert best.num_params == pytest.approx(
                float(row["N"]), rel=0.1
            )  # slopes .457 and .459 part over ten decades


@pytest.mark.parametrize("example", range(3))
def test_sardanas_worked_examples(example: int) -> None:
    law = coefficients("chinchilla_sardana")
    given = json.loads((REFERENCE / "published_laws.json").read_text(encoding="utf-8"))["sardana_examples"][example]
    chinchilla = ChinchillaLaw(*(law[i] for i in (2, 0, 1, 3, 4)))
    size = given["N_chin"]
    loss = float(losses("chinchilla", law, size, chinchilla.optimal_tokens(size)))
    costs = flop_costs(given["D_inf"])
    best = cheapest("chinchilla", law, loss, costs)
    assert best.compute_optimal_params == pytest.approx(size, rel=1e-6)
    if "N_opt" in given:
        assert best.num_params == pytest.approx(given["N_opt"], rel=0.015)
        assert best.tokens / best.compute_optimal_tokens == pytest.approx(given["D_ratio"], rel=0.015)
    if "N_new" in given:  # a size that is given, not the best
        saved = costs.total(size, chinchilla.optimal_tokens(size)) - costs.total(
            given["N_new"], chinchilla.tokens_for_loss(given["N_new"], loss)
        )
        assert saved == pytest.approx(given["saving_flops"], rel=0.03)
    elif "saving_frac" in given:
        assert best.saving == pytest.approx(given["saving_frac"], abs=0.01)


def test_llama_3s_tokens_and_muennighoffs_first_epoch() -> None:
    llama = published("llama3")
    tokens = llama["D_star"]["A"] * llama["check"]["C"] ** llama["D_star"]["alpha"]
    assert tokens == pytest.approx(llama["check"]["D"], rel=0.02)
    law = published("muennighoff2023")
    a, b, e, alpha, beta = coefficients("muennighoff2023")
    values = [a, b, e, alpha, beta, law["R_D_star"], law["R_N_star"]]
    once = losses_of("repeated", values, {"params": 1e9, "tokens": 2e10, "unique": 2e10})
    assert float(once) == pytest.approx(float(losses("tied", [a, b, e, alpha, beta], 1e9, 2e10)))


@pytest.mark.parametrize("name", ["S-Base", "RL-R", "Hash"])
def test_clarks_cutoffs(name: str) -> None:
    given = published("clark2022")
    a, b, c, d, start, most = given[name]
    cutoff = given["N_cutoff"][name]
    # Where b + c log N = 0, experts no longer help. The coefficients are printed to three digits: c alone is known to
    # 5%, and so log N_cutoff to .6.
    assert math.log10(cutoff) == pytest.approx(-b / c, abs=0.75)
    at = {"params": 10 ** (-b / c), "experts": np.array([1.0, 8.0, 256.0])}
    told = losses_of("routed", [a, b, c, d, start, most], at)
    assert np.ptp(told) < 1e-12 * told[0]
    assert float(dense_equal([a, b, c, d, start, most], 1e9, 64)) > 2e9


def test_kaplans_table_by_hand() -> None:
    law = published("kaplan2020")
    n = float(losses_of("kaplan-n", [law["N_c"], law["alpha_N"]], {"params": 1e9}))
    assert n == pytest.approx((law["N_c"] / 1e9) ** law["alpha_N"])
    joint = law["joint_NS"]
    values = [joint["N_c"], joint["alpha_N"], joint["S_c"], joint["alpha_S"], law["B_star"], law["alpha_B"]]
    loss = float(losses_of("kaplan-batch", values, {"params": 1e8, "steps": 1e5, "batch": 5e5}))
    critical = law["B_star"] / loss ** (1 / law["alpha_B"])
    s_min = 1e5 / (1 + critical / 5e5)
    by_hand = (joint["N_c"] / 1e8) ** joint["alpha_N"] + (joint["S_c"] / s_min) ** joint["alpha_S"]
    assert loss == pytest.approx(by_hand, rel=1e-9)
    endless = float(losses_of("kaplan-batch", values, {"params": 1e8, "steps": 1e5, "batch": 1e15}))
    assert endless == pytest.approx(float(losses_of("kaplan-steps", values[:4], {"params": 1e8, "steps": 1e5})))
