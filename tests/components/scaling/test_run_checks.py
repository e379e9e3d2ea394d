"""Dirty tables: what would spoil a fit stops it or is told, with rows and reason; clean tables pass in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_tables import LAW, grid

from components.scaling.run_checks import checked, distinct, line_of_tokens
from components.scaling.run_columns import RunTableError
from components.scaling.run_table import run_table


def warnings(cells: dict[str, Any], as_is: bool = False) -> str:
    return "\n".join(checked(run_table(cells, "runs.csv"), as_is).warnings)


def test_a_clean_table_passes_in_silence() -> None:
    assert warnings(grid()) == ""


@pytest.mark.parametrize("column", ["params", "tokens"])
@pytest.mark.parametrize(("factor", "unit"), [(1e3, "thousands"), (1e6, "millions"), (1e9, "billions")])
def test_half_of_the_rows_in_another_unit(column: str, factor: float, unit: str) -> None:
    cells = grid()
    cells[column] = [x / factor if i % 2 else x for i, x in enumerate(cells[column])]
    with pytest.raises(RunTableError, match=rf"mixed units: . \({column}\) of rows 2, 4, .*24 rows.* in {unit}"):
        warnings(cells)
    assert "mixed units" in warnings(cells, as_is=True)


def test_a_few_rows_in_another_unit_are_named() -> None:
    cells = grid()
    cells["params"] = [x / 1e6 if i in (3, 7, 9) else x for i, x in enumerate(cells["params"])]
    with pytest.raises(RunTableError, match=r"N \(params\) of rows 4, 8, 10 looks as if it were in millions"):
        warnings(cells)


def test_mixed_units_on_one_line_of_tokens_are_found_by_the_ratio() -> None:
    cells = grid(ratio=20.0)
    cells["params"] = [x / 1e6 if i % 2 else x for i, x in enumerate(cells["params"])]
    with pytest.raises(RunTableError, match="mixed units: N"):
        warnings(cells)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(8, 50), st.floats(0.001, 0.03), st.booleans())
def test_clean_tables_are_not_suspected(seed: int, n: int, noise: float, two_corpora: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(7, 10.5, n)
    tokens = sizes * 10 ** rng.uniform(0.3, 3, n)
    loss = LAW.loss(sizes, tokens) * np.exp(noise * rng.standard_normal(n))
    if two_corpora:  # half of the losses on an easier text are no mistake of units
        loss *= np.where(rng.random(n) < 0.5, 0.6, 1.0)
    assert "mixed" not in warnings({"N": sizes.tolist(), "D": tokens.tolist(), "loss": loss.tolist()}, as_is=True)


def test_tiny_and_huge_models_in_one_table_are_no_mistake() -> None:
    sizes = np.repeat([1e3, 4e3, 1e9, 4e9], 4)
    tokens = np.tile(np.geomspace(1e7, 1e10, 4), 4)
    loss = 1.5 + 8 * sizes**-0.3 + 60 * tokens**-0.3
    assert warnings({"N": sizes.tolist(), "D": tokens.tolist(), "loss": loss.tolist()}) == ""


def test_exact_copies_are_left_out() -> None:
    cells = {name: column * 3 for name, column in grid().items()}
    table = checked(run_table(cells, "runs.csv"))
    assert len(table) == 48 and table.rows.tolist() == list(range(1, 49))
    assert "rows 49 to 144 repeat earlier rows exactly" in table.warnings[0]


def test_equal_points_of_different_runs_are_told_and_kept() -> None:
    cells = {name: column * 2 for name, column in grid().items()}
    table = checked(run_table({**cells, "run": [f"r{i}" for i in range(96)]}, "runs.csv"))
    assert len(table) == 96
    assert "rows 49 to 96 have the very N, D and loss of other runs" in "\n".join(table.warnings)


def test_perplexities_are_no_losses() -> None:
    cells = grid()
    cells["loss"] = np.exp(cells["loss"]).tolist()
    with pytest.raises(RunTableError, match=r"look like perplexities: --loss-unit perplexity"):
        warnings(cells)
    cells = grid()
    cells["loss"][4] = 20.0
    assert "the losses of row 5 (up to 20) are above that of an untrained model" in warnings(cells)


def test_a_whole_column_in_millions_is_told() -> None:
    cells = grid()
    cells["params"] = [x / 1e6 for x in cells["params"]]
    assert "N is 50 to 1.6e+04 params and the rows have 2.55e+07 tokens per parameter (median)" in warnings(cells)


def test_params_and_tokens_the_wrong_way_round_are_told() -> None:
    rng = np.random.default_rng(0)
    n = np.geomspace(5e7, 5e9, 40)
    d = n * rng.uniform(20, 100, 40)
    cells = {"params": d.tolist(), "tokens": n.tolist(), "loss": (1.7 + 400 / n**0.34 + 2000 / d**0.36).tolist()}
    assert "tokens per parameter (median)" in warnings(cells)


def test_losses_that_never_change_have_no_law() -> None:
    with pytest.raises(RunTableError, match=r"rows 1 to 48 are all 2.5: no law"):
        warnings({**grid(), "loss": [2.5] * 48})


def test_checkpoints_without_a_column_of_runs_are_told() -> None:
    cells = grid(sizes=4, lengths=15)
    assert "60 rows have 4 N, and each counts as a run of its own" in warnings(cells)
    assert "counts as a run" not in warnings({**cells, "run": [f"r{i // 15}" for i in range(60)]})


def test_checkpoints_and_wrong_columns_of_runs_are_told() -> None:
    assert "8 of 8 runs have several losses" in warnings({**grid(), "run": [f"r{i // 6}" for i in range(48)]})
    table = run_table({**grid(), "kind": ["a", "b"] * 24}, "t")
    assert not table.has_runs


def test_flops_that_do_not_fit_are_told() -> None:
    cells = grid()
    flops = [6 * n * d for n, d in zip(cells["params"], cells["tokens"], strict=True)]
    flops[2] *= 1e3
    assert "times 6ND in row 3" in warnings({**cells, "flops": flops})


def test_lines_of_tokens_and_distinct_sizes() -> None:
    k, p = line_of_tokens(run_table(grid(ratio=20.0), "t")) or (0.0, 0.0)
    assert (k, p) == (pytest.approx(20.0), pytest.approx(1.0))
    assert line_of_tokens(run_table(grid(), "t")) is None
    assert distinct(np.array([73824671.6, 73824689.1, 1e8])) == 2
