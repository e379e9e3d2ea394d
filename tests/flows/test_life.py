"""The real life at toy size: every stage runs, the report has every part, and the cache knows what depends on what."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from smoke_life import SmokeLife
from typer.testing import CliRunner

from components.cost.accounting import AVERAGE_PUE
from components.cost.advice import CPU, AdviceRequest, deployment
from components.cost.hardware import find_hardware
from components.cost.prices import find_price
from flows.commands.cli import app
from flows.config import load_config
from flows.engine.plan import plan
from flows.lifecycle import life, run_lifecycle
from flows.runs.measured import measured_run
from flows.runs.run import RunResult
from storage.home import Home
from storage.named import answer
from storage.queries import query


def live(home: Home, *overrides: str) -> RunResult:
    console = Console(file=StringIO(), width=160)
    cfg = load_config("smoke", overrides)
    return run_lifecycle(cfg, home=home, profile="smoke", console=console, prefect=False, mlflow=False)


@pytest.fixture(scope="module")
def lived(smoke: SmokeLife) -> tuple[Home, SmokeLife]:
    return smoke.home, smoke


def test_every_stage_of_the_life_ends_well(lived: tuple[Home, SmokeLife]) -> None:
    _, result = lived
    assert result.failures == {}
    assert result.status == "completed"
    assert {outcome.status for outcome in result.outcomes.values()} == {"ran"}
    assert result.warnings == ()


def test_the_rows_of_every_part_are_in_sql(lived: tuple[Home, SmokeLife]) -> None:
    home, result = lived
    counts = query(
        home,
        """
        SELECT (SELECT count(*) FROM metrics) AS metrics, (SELECT count(DISTINCT suite) FROM evals) AS suites,
               (SELECT count(*) FROM preferences) AS preferences, (SELECT count(*) FROM samples) AS samples,
               (SELECT count(DISTINCT sweep) FROM scaling_points) AS sweeps,
               (SELECT count(*) FROM forecasts WHERE sweep <> 'cost' AND made_at < scored_at) AS forecasts,
               (SELECT count(DISTINCT expert) FROM routing) AS experts,
               (SELECT count(*) FROM costs) AS costs
        """,
    ).to_pylist()[0]
    assert counts["suites"] == 3
    assert counts["sweeps"] == 5
    assert counts["forecasts"] == 3  # of the law and of two rivals without one
    assert counts["costs"] == len(result.outcomes)
    assert min(counts.values()) > 0
    spent = query(home, "SELECT stage, usd, flops FROM costs WHERE stage IN ('pretrain', 'ppo', 'grpo')").to_pylist()
    assert all(row["usd"] > 0 and row["flops"] > 0 for row in spent)


def test_the_report_is_one_file_that_needs_no_network(lived: tuple[Home, SmokeLife]) -> None:
    home, result = lived
    page = home.report(result.run_id).read_text(encoding="utf-8")
    for part in (
        "Pretraining",
        "RLHF",
        "GRPO",
        "Scaling law",
        "Emergence",
        "Mixture of experts",
        "A recurrent net",
        "Cost",
    ):
        assert part in page
    assert "<script src" not in page
    assert "url(http" not in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_advice_is_from_what_the_run_measured(lived: tuple[Home, SmokeLife], monkeypatch: pytest.MonkeyPatch) -> None:
    home, result = lived
    monkeypatch.setenv("LIFESPAN_HOME", home.root)

    def advised(*options: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["advise", *options])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    text = advised()
    assert f"1,000,000 questions like those of run {result.run_id}" in text
    assert "best_of@" not in text and "least lifetime dollars" in text and "at the speeds of this run" in text
    # at the price that the strategies of answering are accounted with
    assert "Training and serving on cpu-core, 0.0408 $/h (compute.usd_per_core_hour of the run)" in text
    # A model of this size answers nothing; the law is of a few seconds, and says so.
    assert "None reaches 90% with its whole interval" in advised("--accuracy", "0.9")
    # Each recommendation says how far it lies from what was measured, and the law's fit speaks against itself.
    assert len(re.findall(r"Extrapolated: for|Within the sweep:", text)) == 3
    assert "The law's fit warns:" in text
    on_gpu = advised("--train-on", "h100-sxm", "--serve-on", "h100-sxm")
    assert "of its peak by 6N (public runs:" in on_gpu and "a copy on 1 x h100-sxm, 32 requests at a time" in on_gpu
    assert "times the largest fitted" in text
    (law,) = query(home, "SELECT value FROM scaling_fits WHERE law = 'chinchilla' AND parameter = 'E'").to_pylist()
    refused = advised("--loss", str(law["value"]), code=2)
    assert f"only losses above {law['value']:.3f} can be reached" in refused
    assert "--serve-on: no hardware 'h10'" in advised("--serve-on", "h10", code=2)
    assert "--accuracy is 60" in advised("--accuracy", "60", code=2)


def test_what_was_trained_and_served_is_priced_at_what_it_took(lived: tuple[Home, SmokeLife]) -> None:
    """The plan takes 6ND to train and 2N a token to serve with the law's N, and so must the speeds that go into it."""
    home, result = lived
    measured = measured_run(home, result.run_id)
    assert measured.sweep is not None
    made, _, _ = deployment(CPU, measured.sweep.training_flops_per_second, measured.speeds, AdviceRequest(1))
    assert made.measured is not None
    facts = {
        name: json.loads(answer(home, "facts", run=result.run_id, stage=name)[0]["facts_json"])
        for name in ("pretrain", "measure_serving")
    }
    size, a_second = facts["pretrain"]["num_params_non_embedding"], made.price.usd_per_hour / 3600
    for reached, rate in zip(made.measured, ("prefill", "decode"), strict=True):
        a_token = a_second / facts["measure_serving"][f"{rate}_tokens_per_second"]
        assert 2 * size * made.usd_per_flop / reached == pytest.approx(a_token)
    sizes = "SELECT max(num_params) AS n, max(tokens) AS d FROM scaling_points WHERE sweep = 'dense' GROUP BY key"
    sweep = query(home, sizes)
    (took,) = query(home, "SELECT sum(cpu_seconds) AS seconds FROM costs WHERE stage = 'train_on_facts'").to_pylist()
    planned = sum(6 * run["n"] * run["d"] * made.usd_per_flop / made.train_mfu for run in sweep.to_pylist())
    assert planned == pytest.approx(took["seconds"] * a_second)


def test_the_ledger_the_accounts_and_a_plan_reckon_alike(lived: tuple[Home, SmokeLife]) -> None:
    """One price of a core second and one energy, whoever adds them up."""
    home, result = lived
    core, a_second = find_hardware(CPU), find_price(CPU).usd_per_hour / 3600
    rows = query(home, "SELECT * FROM run_costs WHERE run_id = $run", {"run": result.run_id}).to_pylist()
    for row in rows:
        assert row["usd"] == pytest.approx(a_second * row["cpu_seconds"])
        assert row["energy_joules"] == pytest.approx(core.power_watts * AVERAGE_PUE * row["cpu_seconds"])
    model = {"prepare_corpus", "make_conversations", "train_tokenizer", "tokenize", "pretrain", "finetune"}
    (serving,) = answer(home, "serving_price", run=result.run_id)
    assert serving["training_usd"] == pytest.approx(sum(row["usd"] for row in rows if row["label"] in model))
    for way in ("prefill", "decode"):
        read = {"prefill": "input", "decode": "output"}[way]
        assert serving[f"usd_per_million_{read}_tokens"] == pytest.approx(
            1e6 * a_second / serving[f"{way}_tokens_per_second"]
        )
    assert serving["break_even_output_tokens_low"] < serving["break_even_output_tokens"]


def test_a_second_run_does_nothing_and_another_kl_coefficient_redoes_ppo_alone(lived: tuple[Home, SmokeLife]) -> None:
    home, first = lived
    second = live(home)
    assert {outcome.status for outcome in second.outcomes.values()} == {"cached"}
    assert [o.artifact.key for o in second.outcomes.values()] == [o.key for o in first.outcomes.values()]

    cfg = load_config("smoke", ["ppo.kl_coef=0.2"])
    steps = plan(life(cfg, home), home)
    # PPO, and what follows from it: what the trained checkpoints have forgotten.
    assert {step.label for step in steps if not step.cached} == {"ppo[kl_coef=0.2]", "measure_forgetting"}


def test_a_users_own_text_goes_in_and_its_broken_lines_are_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    good = [json.dumps({"text": f"The quick brown fox number {i} jumps over the lazy dog and runs to the river with "
                                "all of its friends, who have been there since the early morning of that day."
                                }) for i in range(40)]  # fmt: skip
    file.write_text("\n".join([*good, '{"text": "cut of', json.dumps({"body": "no text here"})]), encoding="utf-8")
    profile = tmp_path / "mine.toml"
    profile.write_text(
        f'extends = "smoke"\nname = "mine"\n[data]\nquality = {{ min_words = 5 }}\n[[data.sources]]\nname = "mine"\n'
        f'kind = "jsonl"\npath = "{file}"\n[[data.sources]]\nname = "problems"\nkind = "problems"\nmax_bytes = 20000\n',
        encoding="utf-8",
    )
    home = Home(tmp_path / "home")
    result = run_lifecycle(
        load_config(profile),
        home=home,
        console=Console(file=StringIO()),
        prefect=False,
        mlflow=False,
        only=["prepare_corpus"],
    )
    assert result.failures == {}
    bad = query(home, "SELECT file, line, reason FROM quarantine ORDER BY line").to_pylist()
    assert [row["line"] for row in bad] == [41, 42]
    assert all(row["file"].endswith("mine.jsonl") for row in bad)


def test_other_bytes_in_a_users_file_are_another_corpus_and_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("One text.\n", encoding="utf-8")
    cfg = load_config("smoke", [f'data.sources=[{{ name = "mine", kind = "text", path = "{file}" }}]'])

    def corpus_key() -> str:
        return life(cfg, Home(tmp_path)).nodes["prepare_corpus"].key

    before = corpus_key()
    assert corpus_key() == before
    file.write_text("Another text.\n", encoding="utf-8")
    assert corpus_key() != before
    file.unlink()
    with pytest.raises(ValueError, match=r"mine\.txt: no such file"):
        corpus_key()


def test_hardware_and_prices_are_in_sql(lived: tuple[Home, SmokeLife]) -> None:
    home, _ = lived
    rows = query(
        home, "SELECT name, usd_per_hour FROM hardware JOIN prices ON prices.hardware = hardware.name"
    ).to_pylist()
    assert {row["name"] for row in rows} >= {"h100-sxm", "cpu-core"}


def test_no_metric_is_logged_that_the_docs_do_not_name(lived: tuple[Home, SmokeLife]) -> None:
    home, _ = lived
    patterns: list[tuple[str, re.Pattern[str]]] = []
    for line in (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            _, names, stages, *_ = line.split("|")
            for name in re.findall("`(.*?)`", names):
                parts = re.split(r"(<\w+>)", name)
                pattern = "".join("[^/]+" if part.startswith("<") else re.escape(part) for part in parts)
                patterns += [(stage, re.compile(pattern)) for stage in re.split("[,;] ", stages.strip())]
    logged = query(home, "SELECT DISTINCT stage, name FROM metrics").to_pylist()
    stray = [
        (row["stage"], row["name"])
        for row in logged
        if not any(stage in (row["stage"], "all") and pattern.fullmatch(row["name"]) for stage, pattern in patterns)
    ]
    assert stray == []


def test_every_checkpoint_is_measured_for_what_it_forgot(lived: tuple[Home, SmokeLife]) -> None:
    home, result = lived
    trained = [label for label, done in result.outcomes.items() if done.kind == "checkpoint"]
    rows = query(home, "SELECT * FROM forgetting ORDER BY position").to_pylist()
    assert rows[0]["checkpoint"] == "pretrain"
    assert {row["checkpoint"] for row in rows} == set(trained)
    assert {row["evaluation"] for row in rows if row["unit"] == "accuracy"} == {
        "chains worked", "chains direct", "stories told"
    }  # fmt: skip
    assert {row["evaluation"] for row in rows if row["unit"] == "bits_per_byte"} >= {"speeches", "problems"}
    assert all((row["change"] is None) == (row["checkpoint"] == "pretrain") for row in rows)
    assert {row["before"] for row in rows if row["checkpoint"] == "grpo"} == {"finetune"}
