"""That the constants fit what they were fitted to, and points that they were not."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from public_files import REFERENCE

from components.cost.calibration import PRIORS, calibrate, error_of, fit_decode, foreseen, main
from components.cost.entries import CatalogueError
from components.cost.hardware import find_hardware
from components.cost.measured_points import COLUMNS, Point, read_points
from components.cost.serving_model import (
    Replica,
    ServedModel,
    ServingConstants,
    decode_work,
    serving_constants,
    step_seconds,
)

POINTS = REFERENCE / "serving_and_training_points.csv"
LLAMA = ServedModel(8.03e9, 8.03e9, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)


def made_points(truth: ServingConstants) -> list[Point]:
    """Points that the model itself gives, over sizes, kinds, batches and devices."""
    moe = ServedModel(30.5e9, 3.35e9, 48, 32, 4, 128, expert_params=29e9, num_experts=128, top_k_experts=8)
    models = (LLAMA, replace(LLAMA, weight_bytes=1.0, precision="fp8"), moe)
    points = []
    for name in ("h100-sxm", "b200-sxm"):
        for model in models:
            for devices in (1, 2):
                for batch in (1, 16, 64, 256, 1024, 4096, 8192):
                    for engine, context in (("server", 500), ("framework", 2000), ("loop", 50)):
                        on = Replica(find_hardware(name), devices)
                        work = decode_work(model, on, batch, context, engine)  # type: ignore[arg-type]
                        points.append(Point("decode", "m", name, work, float(step_seconds(work, truth))))
    return points


def test_the_fit_finds_the_constants_that_made_the_points() -> None:
    truth = replace(
        serving_constants(), weights=0.8, overlap=0.4, layer_seconds=40e-6, sequence_seconds=30e-6, moe=1.6, compute=0.6
    )
    found = fit_decode(made_points(truth))
    for name in PRIORS:
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.08), name


def test_sources_that_no_fit_had_seen_are_judged_apart() -> None:
    rng = np.random.default_rng(0)
    points = [
        replace(
            p, seconds=p.seconds * float(np.exp(0.1 * rng.standard_normal())), model=f"m{i % 3}", source="ab"[i % 2]
        )
        for i, p in enumerate(made_points(serving_constants())[::3])
    ]
    same = foreseen(points, lambda point: point.source)
    assert same.error.n == len(points)
    assert same.error.mean == pytest.approx(0.08, abs=0.02)  # the mean of |e| for a spread of 0.1
    assert same.within > 0.99 and 0.8 < same.covered <= 0.97
    slow = [replace(p, seconds=3 * p.seconds) if p.source == "b" else p for p in points]
    assert foreseen(slow, lambda point: point.source).covered < 0.3


def test_errors_by_hand() -> None:
    error = error_of(np.log([1.1, 0.9, 1.5, 1.0]))
    assert (error.n, error.mean, error.within_fifth) == (4, pytest.approx(0.175), 0.75)


def test_a_faulty_row_is_named_and_other_kinds_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(COLUMNS, "") | {
        "kind": "decode", "model": "llama-2-7b", "params": "6738000000", "active": "6738000000", "layers": "32",
        "heads": "32", "kv_heads": "32", "head_dim": "128", "hardware": "a100-sxm-80gb", "devices": "1",
        "weight_bytes": "2", "batch": "1", "context": "105", "value": "104.9", "source": "gpt-fast",
    }  # fmt: skip
    file = tmp_path / "points.csv"

    def write(*rows: dict[str, str]) -> None:
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    write(row, {**row, "kind": "chat"}, {**row, "hardware": "abacus"}, {**row, "devices": "32"})
    (point,) = read_points(file)
    assert point.seconds == pytest.approx(1 / 104.9) and point.work is not None and point.work.is_server == 0.0
    # Whole requests: as many at a time as fit beside the weights, each token with its share of the prompts.
    full = {**row, "kind": "serving", "batch": "", "isl": "1000", "osl": "100", "value": "500", "metric": "max load"}
    write(full, {**full, "metric": "TTFT 450 ms"})
    (whole,) = read_points(file)
    fits = (72e9 - 2 * 6.738e9) // (2 * 32 * 32 * 128 * 2 * 1050)
    assert whole.seconds == pytest.approx(fits / 500) and whole.answer == 100 and whole.prompts is not None
    write(row, {**row, "batch": "many"})
    with pytest.raises(CatalogueError, match="row 3, batch: takes a number of at least 0, got 'many'"):
        read_points(file)
    write(row)
    assert main([str(file)]) == 2 and "takes at least 40, 4 and 4" in capsys.readouterr().err
    file.write_text("kind,model\n")
    with pytest.raises(CatalogueError, match="column 'kind' is missing"):
        read_points(file)


@pytest.mark.skipif(
    not POINTS.is_file(), reason="the public points are not here; LIFESPAN_REFERENCE names their folder"
)
def test_held_out_points_are_within_the_stated_errors_and_the_catalogue_is_what_they_give() -> None:
    made = calibrate(read_points(POINTS))
    assert made.half.mean <= 0.16 and made.half.nine_of_ten <= 1.4
    assert made.by_model.mean <= 0.16 and made.by_model.nine_of_ten <= 1.4
    assert all(error.mean <= 0.2 for error in made.by_device.values())
    assert made.prefill.mean <= 0.2 and made.requests.mean <= 0.3
    kept = serving_constants()
    for field in fields(ServingConstants):
        assert getattr(kept, field.name) == pytest.approx(getattr(made.constants, field.name), rel=1e-3), field.name
