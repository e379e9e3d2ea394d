"""Claims over several trainings: the interval is over trainings, and other settings, code or seeds do not get in."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from dashboards.claims import Earlier, Training, earlier_verdicts, settings_digest
from dashboards.replication import NothingToCompare, render_markdown, render_terminal, replication
from storage.home import Home

START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)


def claim(seed: int, value: float | None, minute: int = 0, **other: Any) -> dict[str, Any]:
    row = {
        "run_id": f"r{seed}-{minute}", "claim": "grpo", "title": "GRPO raises accuracy", "seed": seed,
        "profile": "laptop", "settings": "s", "code": "c", "unit": "points", "side": "above", "margin": 0.0,
        "verdict": "not measured" if value is None else "seen" if value > 0.1 else "not seen",
        "value": value, "low": None if value is None else value - 0.1, "high": None if value is None else value + 0.1,
        "n": None if value is None else 400, "time": START + timedelta(minutes=minute),
    }  # fmt: skip
    return row | other


def write(home: Home, *rows: dict[str, Any]) -> None:
    for number, row in enumerate(rows):
        home.tables.write("claims", f"part-{number}", [row])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_the_interval_is_students_over_trainings_and_not_over_items(home: Home) -> None:
    values = [0.419, 0.222, 0.189, 0.253]
    write(home, *(claim(seed, value) for seed, value in enumerate(values)))
    (found,) = replication(home, "s", range(4)).claims
    mean = sum(values) / 4
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / 3)
    half = stats.t.ppf(0.975, 3) * spread / 2
    assert found.interval is not None
    assert (found.interval.value, found.interval.low, found.interval.high, found.interval.n) == pytest.approx(
        (mean, mean - half, mean + half, 4)
    )
    assert (found.seen, found.verdict) == (4, "seen")


def test_every_item_interval_above_zero_is_not_enough_when_trainings_disagree(home: Home) -> None:
    write(home, claim(0, 0.15), claim(1, 0.9))
    (found,) = replication(home, "s", range(2)).claims
    assert (found.seen, found.verdict) == (2, "not seen")


def test_a_claim_below_a_margin_and_one_that_covers_it(home: Home) -> None:
    below = {"claim": "hacking", "side": "below"}
    covers = {"claim": "forecast", "side": "covers", "verdict": "held"}
    wide = {"claim": "too wide", "side": "covers", "verdict": "not identified"}
    rows = [claim(s, v, **below) for s, v in enumerate((-0.5, -0.4, -0.45))]
    rows += [claim(s, v, **kind) for kind in (covers, wide) for s, v in enumerate((-0.01, 0.02, 0.00))]
    write(home, *rows)
    found = {one.slug: one for one in replication(home, "s", range(3)).claims}
    assert found["hacking"].verdict == "seen"
    assert found["forecast"].verdict == "held"
    assert found["too wide"].verdict == "not seen"  # on average right, but no training said so by its own test


def test_a_training_that_could_not_measure_counts_as_one_that_did_not_show_it(home: Home) -> None:
    write(home, claim(0, 0.4), claim(1, None), claim(2, 0.41))
    (found,) = replication(home, "s", range(3)).claims
    assert (found.seen, len(found.trainings)) == (2, 3)
    assert found.interval is not None and found.interval.n == 2


def test_other_seeds_settings_and_code_stay_out_and_the_newest_word_counts(home: Home) -> None:
    write(
        home,
        claim(0, 0.9, minute=0),
        claim(0, 0.3, minute=5),
        claim(0, None, minute=9),  # a later run of a part
        claim(1, 0.5, minute=5),
        claim(7, 0.9, minute=5),
        claim(2, 0.9, minute=1, code="older"),
        claim(3, 0.9, minute=5, settings="others"),
    )
    found = replication(home, "s", range(5))
    (one,) = found.claims
    assert found.seeds == (0, 1)
    assert [training.interval.value for training in one.trainings if training.interval] == [0.3, 0.5]


def test_nothing_to_compare_is_said(home: Home) -> None:
    with pytest.raises(NothingToCompare, match="no life of these settings"):
        replication(home, "s", range(2))


def test_the_tables_say_trainings_and_keep_each_seed(home: Home) -> None:
    write(home, claim(0, 0.419), claim(1, 0.05), claim(2, 0.3))
    found = replication(home, "s", range(3))
    page = render_markdown(found, "lifespan replicate laptop --seeds 3")
    (line,) = [line for line in page.splitlines() if line.startswith("| GRPO")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == [
        "not seen", "2 of 3", "✓ +41.9 points [+31.9, +51.9]", "✗ +5.0 points [−5.0, +15.0]",
        "✓ +30.0 points [+20.0, +40.0]",
    ]  # fmt: skip
    console = Console(width=120, record=True, file=StringIO())
    console.print(render_terminal(found))
    assert "3 trainings of the profile laptop" in console.export_text()


def test_the_digest_knows_the_settings_and_not_the_seed() -> None:
    settings = {"seed": 0, "name": "a", "compute": {"workers": 2}, "ppo": {"kl_coef": 0.1, "limit": math.inf}}
    same = {**settings, "seed": 4, "name": "b", "compute": {"workers": 1}}
    assert settings_digest(settings) == settings_digest(same)
    assert settings_digest(settings) != settings_digest({**settings, "ppo": {"kl_coef": 0.2, "limit": math.inf}})


def test_earlier_trainings_are_those_of_other_seeds_that_put_the_claim_on_trial(home: Home) -> None:
    write(
        home,
        claim(0, 0.4),
        claim(1, 0.05),  # its interval holds 0
        claim(2, None),  # could not measure it
        claim(3, 0.3),
        claim(4, 0.5),  # this training itself, in an earlier run
        claim(5, 0.5, code="older"),
        claim(6, 0.5, settings="others"),
        claim(0, 0.4, claim="cost", side=None, verdict="measured"),
    )
    found = earlier_verdicts(home, Training(4, "s", "c"))
    assert found == {"grpo": Earlier((0, 1, 3), (0, 3))}
    assert str(found["grpo"]) == "seen in 2 of 3 earlier trainings: seeds 0, 3"
    assert str(Earlier((2,), ())) == "seen in 0 of 1 earlier training: not in seed 2"
    assert earlier_verdicts(home, Training(4, "s", "other")) == {}
