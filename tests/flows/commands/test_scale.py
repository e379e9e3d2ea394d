"""`lifespan scale`: the guide's commands as a reader runs them, and mistakes in one line with the code of bad input."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_tables import csv_of, grid
from typer.testing import CliRunner

from flows.commands.cli import app
from storage.home import Home
from storage.queries import query

GUIDE = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text(encoding="utf-8")


def lifespan(*arguments: str, given: bytes | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), input=given)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "home"))


def _quick(words: list[str]) -> list[str]:
    """What makes a fit of the guide quick: a bootstrap of 30. Posteriors have tests of their own."""
    if words[:2] != ["scale", "fit"]:
        return []
    return ["--resamples", "30", *([] if "--intervals" in words else ["--intervals", "bootstrap"])]


def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(re.findall(r"```csv\n(.*?)```", GUIDE, re.S)[0])
    rows = [
        {"run_id": "r", "key": f"k{i}", "sweep": "dense", "num_params": int(n), "tokens": int(d), "loss": loss}
        for i, (n, d, loss) in enumerate(zip(*grid(sizes=4, lengths=4).values(), strict=True))
    ]
    Home(tmp_path / "home").tables.write("scaling_points", "k", rows)
    blocks = re.findall(r"```(\w*)\n(.*?)```", GUIDE, re.S)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    shown = {}
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        fewer = _quick(words)
        code, shown[line], errors = lifespan(*words, *fewer)
        assert code == 0, f"{line}: {errors}"
    assert len(lines) == 15
    first = shown[lines[0]]
    assert "params = params (guessed); tokens = tokens (guessed); loss = val_loss (guessed)" in first
    assert "12 points of 12 runs" in first and "100% of the starts" in first
    assert (tmp_path / "fit.svg").read_bytes().startswith(b"<?xml")
    assert json.loads((tmp_path / "fit.json").read_text())["coefficients"]["E"]["value"] == pytest.approx(1.8, abs=0.15)
    assert re.search(r"times the largest flops of the fitted runs", shown[lines[1]])
    kept = next(line for line in lines if "lifespan query" in line)
    assert shown[kept].count("chinchilla") == 5  # what --save kept
    in_dollars = next(line for line in lines if "--requests" in line)
    assert re.search(r"dollars +[\d,.e+]+ to train \+ [\d,.e+]+ to serve", shown[in_dollars])
    built = next(line for line in lines if "--vocab" in line)
    assert "as a decoder: d_model" in shown[built] and "vocabulary 128256" in shown[built]
    page = (tmp_path / "fit.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("<figcaption>") == 5
    assert "<script" not in page and "src=" not in page and not re.search(r'<link|href="http', page)
    assert "8 of" not in shown[lines[-1]] and "forecast first" in shown[lines[-1]]


def test_what_a_prediction_and_an_optimum_say_as_json(tmp_path: Path) -> None:
    pq.write_table(pa.table(grid()), tmp_path / "runs.parquet")
    assert lifespan("scale", "fit", "runs.parquet", "--resamples", "20", "--output", "fit.json")[0] == 0
    said = json.loads(lifespan("scale", "predict", "fit.json", "--params", "7e9", "--tokens", "1e12", "--json")[1])
    assert said["new_run"]["low"] < said["loss"]["low"] < said["loss"]["value"] < said["new_run"]["high"]
    best = json.loads(
        lifespan("scale", "optimum", "fit.json", "--flops", "1e22", "--tokens-served", "1e13", "--json")[1]
    )
    assert best["best"]["params"]["value"] * best["best"]["tokens"]["value"] * 6 == pytest.approx(1e22)
    assert best["served"]["params"]["value"] < best["best"]["params"]["value"]


def test_dirty_tables_are_fitted_with_every_row_accounted_for() -> None:
    cells = grid()
    cells["loss"][3] = None
    cells["tokens"][8] = "lost"
    code, shown, _ = lifespan("scale", "fit", "-", "--intervals", "none", given=csv_of(cells))
    assert code == 0
    assert "row 4 left out: loss (loss) is missing" in shown and "row 9 left out: tokens (tokens) is 'lost'" in shown
    assert "46 points" in shown
    cells = {name: column * 2 for name, column in grid().items()}
    code, shown, _ = lifespan("scale", "fit", "-", "--intervals", "none", given=csv_of(cells))
    assert "rows 49 to 96 left out: repeats an earlier row" in shown


def test_losses_that_follow_no_law_are_told() -> None:
    cells = grid()
    cells["loss"] = np.random.default_rng(0).permutation(cells["loss"]).tolist()
    code, shown, _ = lifespan("scale", "fit", "-", "--intervals", "none", given=csv_of(cells))
    assert code == 0 and re.search(r"the law explains \d+% of the variance .* mean nothing", shown)


def test_figures_go_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(csv_of(grid()))
    assert lifespan("scale", "fit", "runs.csv", "--law", "kaplan-n", "--resamples", "20", "--output", "n.json")[0] == 0
    assert lifespan("scale", "plot", "n.json", "--output", "drawn")[0] == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["residuals.svg"]
    assert not (tmp_path / "home").exists()  # a fit makes no home


def test_saved_fits_are_replaced_not_doubled(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(csv_of(grid()))
    for law in ("tied", "tied", "chinchilla"):
        assert lifespan("scale", "fit", "runs.csv", "--law", law, "--resamples", "5", "--save", "mine")[0] == 0
    rows = query(Home(tmp_path / "home"), "SELECT law, count(*) AS n FROM scaling_fits GROUP BY law ORDER BY law")
    assert rows.to_pydict() == {"law": ["chinchilla", "tied"], "n": [5, 5]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit"], "give one of FILE"),
        (["fit", "absent.csv"], "No such file"),
        (["fit", "runs.csv", "--law", "power"], "law 'power' is none of"),
        (["fit", "runs.csv", "--params", "n"], "has no column 'n'"),
        (["fit", "runs.csv", "--convention", "some"], "--convention 'some' is none of total, non-embedding"),
        (["fit", "runs.csv", "--plot", "fit.gif"], "a figure's file ends in .svg"),
        (["fit", "runs.csv", "--save", "../x"], "--save '../x'"),
        (["fit", "mixed.csv"], "mixed units: N (params) of rows 2, 4"),
        (
            ["fit", "--query", "SELECT 1 AS a"],
            "no column is known to be the loss and two of N (params), D (tokens) and C (FLOPs)",
        ),
        (["predict", "runs.csv", "--params", "1", "--tokens", "1"], "runs.csv: "),
        (["predict", "fit.json", "--params", "-1", "--tokens", "1"], "params must be finite and positive"),
        (["optimum", "fit.json"], "give one of --flops"),
        (["optimum", "fit.json", "--flops", "1e21", "--unique", "1e9"], "it takes no unique"),
        (["optimum", "fit.json", "--loss", "2.5", "--requests", "1e9", "--train-on", "h1000"], "h1000"),
        (["predict", "fit.json", "--params", "1e9"], "needs tokens: give --tokens"),
        (["plot", "fit.json", "--output", "fit.pdf"], "give a folder, or a page that ends in .html"),
        (["fit", "runs.csv", "--law", "sparsity"], "no column is known to be sparsity"),
        (["sweep", "--budget", "1e6"], "has no room for 4 sizes"),
        (["optimum", "fit.json", "--flops", "inf"], "flops must be finite and positive"),
        (["optimum", "fit.json", "--loss", "0.1", "--tokens-served", "1"], "no model reaches it"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], told: str, tmp_path: Path) -> None:
    cells = grid()
    (tmp_path / "runs.csv").write_bytes(csv_of(cells))
    if "fit.json" in words:
        assert lifespan("scale", "fit", "runs.csv", "--intervals", "none", "--output", "fit.json")[0] == 0
    cells["params"] = np.where(np.arange(48) % 2, np.array(cells["params"]) / 1e6, cells["params"]).tolist()
    (tmp_path / "mixed.csv").write_bytes(csv_of(cells))
    code, shown, errors = lifespan("scale", *words)
    assert code in (1, 2) and errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert told in errors and not shown
    assert not list(tmp_path.glob(".*.tmp"))
