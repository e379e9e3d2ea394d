"""Anybody's table of runs as typed columns: names, units, and every row that is left out with its reason."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_tables import csv_of, grid

from components.scaling.run_columns import RunTableError, find_columns, parse_number
from components.scaling.run_files import read_bytes, read_file
from components.scaling.run_table import TableOptions, rows_text, run_table

PLAIN = b"params,tokens,loss\n1e8,2e9,3.1\n2e8,4e9,2.9\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["N", "D", "loss"], {"params": "N", "tokens": "D", "loss": "loss"}),
        (["Model Size (M)", "tokens_B", "val_loss"], {"params": "Model Size (M)", "tokens": "tokens_B"}),
        (
            ["numParams", "trainTokens", "eval/loss"],
            {"params": "numParams", "tokens": "trainTokens", "loss": "eval/loss"},
        ),
        (["flops", "n_params", "final_loss", "run_id"], {"flops": "flops", "run": "run_id", "loss": "final_loss"}),
        (["Non-embedding params", "D", "y", "nominal budget", "ppl"], {"budget": "nominal budget", "loss": "ppl"}),
        (["", "Model Size", "Training FLOP", "loss"], {"params": "Model Size", "flops": "Training FLOP"}),
        (["Training compute (FLOP)", "N_non_embedding", "bpb"], {"flops": "Training compute (FLOP)", "loss": "bpb"}),
        (
            ["non_emb_params", "FLOPs_per_token", "tokens", "smooth loss"],
            {"params": "non_emb_params", "tokens": "tokens"},
        ),
        (["train_loss", "val_loss", "size", "tokens"], {"loss": "val_loss"}),
        (["experiment_name", "N", "D", "eval/bpb"], {"run": "experiment_name", "loss": "eval/bpb"}),
        (["Parameter (Mio)", "Token (Mrd)", "loss"], {"params": "Parameter (Mio)", "tokens": "Token (Mrd)"}),
        (["summary/train/loss", "summary/eval/loss", "N", "D"], {"loss": "summary/eval/loss"}),
        (["run_time", "run", "N", "D", "loss"], {"run": "run"}),
    ],
)
def test_columns_are_known_by_their_names(header: list[str], expected: dict[str, str]) -> None:
    found = find_columns(header, {})
    assert {role: found[role].name for role in expected} == expected


def test_units_of_headers_and_cells_count() -> None:
    cells = {"Model Size (M)": ["70", "410", "1.4B"], "tokens_B": [10, 20, 30], "loss": [3.1, 2.9, 2.7]}
    assert find_columns(list(cells), {})["params"].factor == 1e6
    table = run_table(cells, "t")
    np.testing.assert_allclose(table.num_params, [70e6, 410e6, 1.4e9])  # a cell's own unit goes before the header's
    np.testing.assert_allclose(table.tokens, [1e10, 2e10, 3e10])
    assert any("Model Size (M) × 1e+06 (guessed)" in line for line in table.shown)


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ("D (B tokens)", 1e9), ("tokens_in_billions", 1e9), ("Training tokens [T]", 1e12), ("tokens (seen)", 1.0),
        ("trainTokensM", 1e6), ("tokens/1e9", 1e9),
    ],
)  # fmt: skip
def test_units_in_headers(header: str, factor: float) -> None:
    assert find_columns([header], {})["tokens"].factor == factor


def test_units_of_compute() -> None:
    assert find_columns(["compute (PF-days)"], {})["flops"].factor == 8.64e19
    assert find_columns(["Training compute (1e18 FLOP)"], {})["flops"].factor == 1e18


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1e9", 1e9), ("7B", 7e9), ("350 M", 3.5e8), ("1.4T", 1.4e12), ("1,000,000", 1e6), ("1_000", 1e3),
        (" 3.5 ", 3.5),
        ("1.2 billion", 1.2e9), ("556 million params", 5.56e8), ("3.2B tokens", 3.2e9), ("1.3e9 tokens", 1.3e9),
        ("202.540.831", 202540831.0), ("40 Mrd", 4e10),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(cell: str, number: float) -> None:
    assert parse_number(cell) == pytest.approx(number)


@pytest.mark.parametrize("cell", [None, "", "nan", "N/A".lower().replace("/", ""), "-", "null"])
def test_missing_cells(cell: str | None) -> None:
    assert parse_number(cell) is None


def test_ambiguous_missing_and_unknown_columns_are_refused_by_name() -> None:
    with pytest.raises(RunTableError, match=r"c4 loss.*pile loss.*--loss COLUMN"):
        find_columns(["N", "D", "c4 loss", "pile loss"], {})
    with pytest.raises(RunTableError, match=r"no column 'size2'.*'N', 'D'"):
        find_columns(["N", "D"], {"params": "size2"})
    with pytest.raises(RunTableError, match=r"'x' is no positive factor"):
        find_columns(["N"], {"params": "N*x"})
    with pytest.raises(RunTableError, match=r"the loss and two of N \(params\), D \(tokens\) and C .*'a', 'b'"):
        run_table({"a": [1.0], "b": [2.0]}, "t")


def test_given_columns_take_a_factor() -> None:
    table = run_table({"s": [70, 160], "t": [1, 2], "y": [3.0, 2.0]}, "t", TableOptions({
        "params": "s*1e6", "tokens": "t*1e9", "loss": "y"}))  # fmt: skip
    np.testing.assert_allclose(table.num_params, [70e6, 160e6])
    np.testing.assert_allclose(table.flops, 6 * table.num_params * table.tokens)


def test_bad_rows_are_left_out_by_row_and_reason() -> None:
    cells = {
        "N": [1e8, "big", None, 1e8, -1, 1e8],
        "D": [1e9, 1e9, 1e9, math.nan, 1e9, 1e9],
        "loss": [3.0, 3.0, 3.0, 3.0, 3.0, "inf"],
    }
    table = run_table(cells, "t")
    assert table.rows.tolist() == [1]
    reasons = {one.row: one.reason for one in table.left_out}
    assert set(reasons) == {2, 3, 4, 5, 6}
    assert "'big'" in reasons[2] and "missing" in reasons[3] and "-1" in reasons[5] and "inf" in reasons[6]
    with pytest.raises(RunTableError, match="none of the 2 rows can be used: row 1: loss"):
        run_table({"N": [1, 1], "D": [1, 1], "loss": [0, None]}, "t")


def test_tokens_or_params_follow_from_flops() -> None:
    table = run_table({"params": [1e8], "flops": [6e18], "loss": [3.0]}, "t")
    assert table.tokens.tolist() == pytest.approx([1e10])
    by_flops = run_table({"flops_per_token": [6e8], "D": [1e10], "loss": [3.0]}, "t", TableOptions(
        {"params": "flops_per_token"}))  # fmt: skip
    assert by_flops.convention == "flops_per_token" and by_flops.flops_per_param_token == 1
    assert by_flops.flops.tolist() == pytest.approx([6e18])


def test_conventions_and_loss_units() -> None:
    cells = {"non_embedding_params": [1e8, 2e8], "D": [1e9, 1e9], "perplexity": [math.e**3, math.e**2]}
    table = run_table(cells, "t")
    assert table.convention == "non_embedding"
    np.testing.assert_allclose(table.loss, [3.0, 2.0])
    bits = run_table({"N": [1.0], "D": [1.0], "loss": [2.0]}, "t", TableOptions(loss_unit="bits"))
    assert bits.loss.tolist() == pytest.approx([2 * math.log(2)])
    low = run_table({"N": [1.0, 1.0], "D": [1.0, 2.0], "ppl": [0.5, 3.0]}, "t")
    assert [one.row for one in low.left_out] == [1]


def test_conditions_choose_rows() -> None:
    cells = {**grid(), "family": ["a", "b"] * 24}
    assert len(run_table(cells, "t", TableOptions(where=("tokens<=1e10", "family=b")))) == sum(
        d <= 1e10 and i % 2 == 1 for i, d in enumerate(cells["tokens"])
    )
    for wrong in ("tokens", "absent<3", "family<b"):
        with pytest.raises(RunTableError, match=f"--where '{wrong}'"):
            run_table(cells, "t", TableOptions(where=(wrong,)))
    with pytest.raises(RunTableError, match="no row meets tokens<1"):
        run_table(cells, "t", TableOptions(where=("tokens<1",)))


def test_a_guessed_run_that_mixes_sizes_is_not_taken() -> None:
    table = run_table({**grid(), "run_id": ["one sweep"] * 48}, "t")
    assert not table.has_runs and len(set(table.runs)) == 48
    assert any("run_id is not taken" in line for line in table.shown)
    assert run_table({**grid(), "run_id": ["one sweep"] * 48}, "t", TableOptions({"run": "run_id"})).has_runs


def test_files_of_every_kind_give_the_same_table(tmp_path: Path) -> None:
    cells = grid(sizes=3, lengths=3)
    expected = run_table(cells, "t")
    pq.write_table(pa.table(cells), tmp_path / "runs.data")
    variants = [
        read_file(tmp_path / "runs.data"),
        read_bytes(csv_of(cells), "t"),
        read_bytes(b"\xef\xbb\xbf" + csv_of(cells, ";").replace(b".", b","), "t"),
        read_bytes(csv_of(cells, "\t").replace(b"\n", b"\r\n"), "t"),
    ]
    for variant in variants:
        np.testing.assert_array_equal(run_table(variant, "t").loss, expected.loss)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the table is empty"),
        (b"1,2,3\n4,5,6\n", "a header is needed"),
        (b"N,D,N\n1,2,3\n", "'N' twice"),
        (b"N,D\n\xff,1\n", "not UTF-8 text: byte 4"),
        (b"PAR1 and no more", "broken Parquet"),
        (gzip.compress(PLAIN, mtime=0)[:30], "broken gzip"),
        (b"{not json}", "neither JSON nor JSON lines"),
        (b"[1, 2]", "its JSON is no table"),
        (b'{"N": [1, 2], "D": [1]}', "differ in length"),
    ],
)
def test_broken_files_are_told_in_one_line(content: bytes, told: str) -> None:
    with pytest.raises(RunTableError, match=told) as caught:
        read_bytes(content, "runs.csv")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("runs.csv: ")


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(PLAIN, mtime=0),
        PLAIN.decode().encode("utf-16"),
        b"\xef\xbb\xbf# written by hand\n# 2026\n" + PLAIN.replace(b"\n", b"\r\n"),
        b"#" + PLAIN,
        PLAIN.replace(b",", b"   "),
        PLAIN.replace(b",", b"\t"),
        b"|params|tokens|loss|\n|-|-|-|\n|1e8|2e9|3.1|\n|2e8|4e9|2.9|\n",
        b'{"params": 1e8, "tokens": 2e9, "loss": 3.1}\n{"params": "200M", "tokens": 4e9, "loss": 2.9}\n',
        b'[{"c": {"params": 1e8}, "tokens": 2e9, "loss": 3.1}, {"c": {"params": 2e8}, "tokens": 4e9, "loss": 2.9}]',
        b'{"params": [1e8, 2e8], "tokens": [2e9, 4e9], "loss": [3.1, 2.9]}',
        b"params;tokens;loss\n100.000.000;2.000.000.000;3,1\n200.000.000;4.000.000.000;2,9\n",
        b'note,params,tokens,loss\n"two\nlines",1e8,2e9,3.1\n,2e8,4e9,2.9\n',
    ],
)
def test_files_as_people_write_them(content: bytes) -> None:
    table = run_table(read_bytes(content, "t"), "t")
    np.testing.assert_allclose(table.num_params, [1e8, 2e8])
    np.testing.assert_allclose(table.tokens, [2e9, 4e9])
    np.testing.assert_allclose(table.loss, [3.1, 2.9])


def test_a_header_tells_bits_and_bits_per_byte_stay() -> None:
    cells = {"N": [1e8], "D": [2e9]}
    in_bits = run_table({**cells, "loss_bits": [4.0]}, "t")
    assert in_bits.loss[0] == pytest.approx(4.0 * math.log(2.0)) and "loss in nats from bits" in in_bits.shown
    per_byte = run_table({**cells, "val bits per byte": [0.9]}, "t", TableOptions({"loss": "val bits per byte"}))
    assert per_byte.loss[0] == 0.9 and per_byte.loss_unit == "bits per byte"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(RunTableError, match=r"no column is known to be D \(tokens\) or C \(FLOPs\)"):
        run_table({"N": [1e8], "Data": [2e9], "loss": [3.1]}, "t")


def test_a_row_with_too_many_cells_is_left_out_alone() -> None:
    table = run_table(read_bytes(b"N,D,loss\n1,000,5,3.1\n7,8,2.5\n", "t"), "t")
    assert table.rows.tolist() == [2]
    assert table.left_out[0].reason == "the row has 4 cells, the header 3"


def test_rows_in_words() -> None:
    assert rows_text([3]) == "row 3"
    assert rows_text([1, 2, 3, 9]) == "rows 1 to 3, 9"
    assert rows_text(range(0, 40, 2)).endswith("… (20 rows)")


CELL = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(10**20), 10**20),
    st.text(max_size=8),
    st.sampled_from(["7B", "nan", "-1", "1e400"]),
)


def usable(cell: object) -> bool:
    number = parse_number(cell)
    return isinstance(number, float) and 0 < number < math.inf


@settings(max_examples=60)
@given(st.lists(st.tuples(CELL, CELL, CELL, st.text(max_size=4)), max_size=12))
def test_every_row_is_fitted_or_has_a_reason(rows: list[tuple[object, object, object, str]]) -> None:
    cells = dict(zip(("N", "D", "loss", "run"), map(list, zip(*rows, strict=True)), strict=True)) if rows else {
        "N": [], "D": [], "loss": []}  # fmt: skip
    try:
        table = run_table(cells, "t")
    except RunTableError:
        assert not any(all(usable(cell) for cell in row[:3]) for row in rows)
        return
    assert sorted([*table.rows.tolist(), *(one.row for one in table.left_out)]) == list(range(1, len(rows) + 1))
    for values in (table.num_params, table.tokens, table.loss):
        assert (np.isfinite(values) & (values > 0)).all()


@settings(max_examples=80)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_table_or_one_error(content: bytes) -> None:
    try:
        columns = read_bytes(content, "t")
    except RunTableError:
        return
    assert len({len(column) for column in columns.values()}) <= 1
