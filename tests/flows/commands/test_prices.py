"""`lifespan prices`, as a user calls it in a home of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.runs.prices import home_prices
from storage.home import Home
from storage.queries import query

OWN = """hardware,usd_per_hour,provider,commitment,date,source
h100-sxm,1.9,Us,reserved,2026-10-01,
abacus,1,Us,,2026-10-01,x
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "home"))
    file = tmp_path / "own.csv"
    file.write_text(OWN)
    return file


def called(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["prices", *words])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_imported_prices_are_kept_once_listed_and_checked(own: Path, tmp_path: Path) -> None:
    before = len(home_prices(Home(tmp_path / "home")))
    assert "Us" not in called("list")
    for _ in range(2):
        said = called("import", str(own))
        assert "refused: row 3: hardware: no hardware 'abacus'" in said and "own CSV: 1 prices taken, 1 refused" in said
    home = Home(tmp_path / "home")
    assert len(home_prices(home)) == before + 1
    rows = query(home, "SELECT hardware, commitment, origin FROM prices").to_pylist()
    assert rows == [{"hardware": "h100-sxm", "commitment": "reserved", "origin": "imported"}]
    assert "h100-sxm 1.9 reserved Us 2026-10-01" in called("list", "--hardware", "h100-sxm", "--provider", "us")
    assert "h100-sxm, Us, reserved, 2026-10-01: has no source" in called("check", "--days", "99999", code=1)
    assert "tpu-v5e, Google Cloud, on demand, 2023-08-29: is" in called("check", code=1)


def test_hosted_models(own: Path, tmp_path: Path) -> None:
    price = {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1.5e-7,
        "output_cost_per_token": 6e-7,
    }
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"gpt-4o-mini": price}))
    assert "has no date" in called("import", str(file), code=2)
    assert "1 prices taken" in called("import", str(file), "--date", "2026-11-01")
    assert "gpt-4o-mini 0.15 0.6 openai 2026-11-01" in called("list", "--model", "4o")
    assert "1 prices of hosted models: --model NAME" in called("list")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "nowhere.csv"), "nowhere.csv: cannot be read as text"),
        (("list", "--hardware", "h100"), "--hardware: no hardware 'h100': did you mean"),
        (("list", "--provider", "nobody"), "no prices of any device at nobody"),
        (("list", "--model", "nothing"), "no prices of a hosted model 'nothing'"),
    ],
)
def test_a_mistake_is_one_line(own: Path, words: tuple[str, ...], message: str) -> None:
    said = called(*words, code=2)
    assert message in said and "Traceback" not in said
