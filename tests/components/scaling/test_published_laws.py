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

from components.scaling.law_forms import cheapest, losses, optimal
from components.scaling.laws import ChinchillaLaw, DataConstrainedLaw
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
    base = ChinchillaLaw(E=e, A=a, B=b, alpha=alpha, beta=beta)
    repeated = DataConstrainedLaw(base, law["R_D_star"], law["R_N_star"])
    assert float(repeated.loss(1e9, 2e10, 2e10)) == pytest.approx(
        float(losses("tied", [a, b, e, alpha, beta], 1e9, 2e10))
    )
