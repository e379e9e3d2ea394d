"""What serving is measured to cost and what a life is accounted to: on a clock of our own and made-up artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import components.inference.engine as engine
from components.cost.accounting import stage_cost
from components.cost.results import ServingResult
from components.cost.settings import CostConfig
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.reasoning.strategies.chain_of_thought import CHAIN_OF_THOUGHT
from components.reasoning.strategies.self_consistency import self_consistency
from components.stage_results import to_facts
from components.statistics import Interval
from components.training.checkpoints import save_model
from flows.engine.work import Work
from flows.settings import ComputeConfig
from flows.stages import cost
from storage.artifacts import Artifact


@dataclass(frozen=True)
class Folders:
    """Stands in for the store: an artifact's key is the name of its folder."""

    root: Path

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.key


def spent(kind: str, seconds: float, **facts: Any) -> Artifact:
    """Of an artifact that took `seconds` of a core, and on a crowded machine three times as long."""
    usage = {"tokens": 0.0, "flops": 0.0, "seconds": 3 * seconds, "cpu_seconds": seconds}
    return Artifact(kind, kind, {"usage": usage, **facts})


def about(value: float, share: float = 0.1) -> Interval:
    return Interval(value, value * (1 - share), value * (1 + share), 5)


ROW = {"low": 0.4, "high": 0.6, "n": 100, "prompt_tokens": 10.0, "by_difficulty": {}}
STRATEGIES = [
    {
        **ROW,
        **self_consistency(4).columns(),
        "model": "sft",
        "accuracy": 0.5,
        "completion_tokens": 80.0,
    },
    {**ROW, **CHAIN_OF_THOUGHT.columns(), "model": "grpo", "accuracy": 0.49, "completion_tokens": 20.0},
]
SERVING = spent("serving", 1.0, **to_facts(ServingResult(about(100.0), about(1000.0), about(0.63), {"1": 100.0})))


def account(folder: Path, threads: int = 1, usd_per_core_hour: float = 3.6) -> dict[str, Any]:
    folder.mkdir()
    work = Work(folder, folder / "state", ComputeConfig(threads_per_worker=threads))
    return to_facts(
        cost.account_costs.fn(
            work,
            config=CostConfig(prompt_tokens=30, output_tokens=60, lifetime_tokens=(600.0,)),
            usd_per_core_hour=usd_per_core_hour,
            spent=[spent("base", 50.0), spent("sft", 13.0)],
            aligned=[spent("grpo", 12.0)],
            reasoning=[spent("chains", 1.0, strategies=STRATEGIES)],
            serving=SERVING,
        )
    )


def test_a_life_is_accounted_by_hand(tmp_path: Path) -> None:
    """$0.001 a second: 63 s of training; a request reads 30 tokens in 0.03 s and writes 60 in 0.6 s."""
    facts = account(tmp_path / "one")
    assert facts["training_usd"] == pytest.approx(0.063)
    assert facts["price_per_million_input_tokens"] == pytest.approx(1.0)
    assert facts["price_per_million_output_tokens"] == pytest.approx(10.0)
    # The prompts of the requests are paid too: 100 requests of $0.00063 are 6,000 output tokens.
    assert facts["break_even_tokens"] == pytest.approx(6000)
    assert facts["lifetime"] == [{"tokens": 600.0, "training_usd": 0.063, "inference_usd": pytest.approx(0.0063)}]
    decision = facts["decision"]
    # $0.012 of GRPO against 60 tokens a question, whose price lies between 1/110 and 1/90 of $0.001.
    assert decision["break_even_questions"] == pytest.approx(20)
    assert (decision["break_even_low"], decision["break_even_high"]) == (pytest.approx(18), pytest.approx(22))
    assert decision["verdict"] == "grpo cot costs less in all from 20 questions on"
    assert (decision["trained_accuracy"], decision["thinking_accuracy_low"]) == (0.49, 0.4)


def test_the_interval_of_the_price_is_carried_into_the_break_even(tmp_path: Path) -> None:
    facts = account(tmp_path / "one")
    ends = [facts[f"price_per_million_output_tokens{end}"] for end in ("_low", "_high")]
    assert ends == [pytest.approx(1000 / 110), pytest.approx(1000 / 90)]
    assert facts["break_even_tokens_low"] == pytest.approx(6000 / 1.1)
    assert facts["break_even_tokens_high"] == pytest.approx(6000 / 0.9)
    assert facts["rounds"] == 5
    free = account(tmp_path / "free", usd_per_core_hour=0.0)
    assert "break_even_tokens" not in free and free["decision"]["break_even_questions"] is None


def test_dollars_are_those_of_the_ledger_whatever_the_clock_said_and_however_many_threads(tmp_path: Path) -> None:
    """The stage reckons with the sum of what `execute` writes into `costs`: core seconds, once for all threads."""
    one, dearer, four = account(tmp_path / "one"), account(tmp_path / "dearer", 1, 36.0), account(tmp_path / "four", 4)
    ledger = sum(
        stage_cost(spent(kind, seconds).facts["usage"], "cpu", "cpu-core", 3.6).usd
        for kind, seconds in (("base", 50.0), ("sft", 13.0))
    )
    assert one["training_usd"] == pytest.approx(ledger)
    for name in ("training_usd", "price_per_million_output_tokens"):
        assert dearer[name] == pytest.approx(10 * one[name])
        assert four[name] == pytest.approx(one[name])


def measured(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> dict[str, Any]:
    """The stage with prompts of 8 tokens and answers of 17, on an engine that takes `seconds` for so many tokens."""
    clock = SimpleNamespace(now=0.0)

    def generate(_: Any, prompts: list[Any], params: Any, max_batch: int) -> None:
        assert len(prompts) == max_batch
        clock.now += seconds(params.max_tokens)

    monkeypatch.setattr(engine, "generate", generate)
    monkeypatch.setattr(cost, "time", SimpleNamespace(process_time=lambda: clock.now))
    Tokenizer.train(["one two three"], 280).save(folder / "words")
    (folder / "model").mkdir()
    cfg = ModelConfig(vocab_size=280, d_model=16, num_layers=1, num_heads=1, context_length=64)
    save_model(folder / "model", Transformer(cfg))
    (folder / "out").mkdir()
    work = Work(folder / "out", folder / "state", store=Folders(folder))  # type: ignore[arg-type]
    config = CostConfig(prompt_tokens=8, output_tokens=17, serving_batches=(1, 4))
    model, words = Artifact("checkpoint", "model"), Artifact("tokenizer", "words")
    return to_facts(cost.measure_serving.fn(work, config=config, model=model, tokenizer=words))


def test_a_request_costs_what_it_takes_and_its_prompt_is_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt takes 2 s with the first token, whatever its length; each further token 0.5."""
    facts = measured(tmp_path, monkeypatch, lambda num_tokens: 2.0 + 0.5 * (num_tokens - 1))
    assert facts["decode_by_batch"] == {"1": pytest.approx(2.0), "4": pytest.approx(8.0)}
    assert facts["prefill_tokens_per_second"] == pytest.approx(4 * 8 / 2.0)
    request = 8 / facts["prefill_tokens_per_second"] + 16 / facts["decode_tokens_per_second"]
    assert request == pytest.approx((2.0 + 0.5 * 16) / 4)


def test_a_busy_machine_that_takes_longer_for_less_gives_no_negative_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = measured(tmp_path, monkeypatch, lambda num_tokens: 3.0 if num_tokens == 1 else 2.4)
    assert facts["decode_by_batch"]["4"] == pytest.approx(4 * 16 / (2.4 * 16 / 24))
