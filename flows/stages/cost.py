"""What the life has cost, what serving costs by measurement, and where thinking longer beats training more."""

from __future__ import annotations

import json
import math
import statistics
import time

from components.cost.results import CostResult, Decision, LifetimeCost, ServingResult, StrategyPrice, TrainOrThink
from components.cost.settings import CostConfig
from components.model.config import forward_flops_per_token
from components.reasoning.results.strategies import ReasoningResult
from components.stage_results import from_facts, to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from storage.artifacts import Artifact

SERVING = "serving.json"


@stage(produces="eval_report", group="cost", seconds=15)
def measure_serving(work: Work, *, config: CostConfig, model: Artifact, tokenizer: Artifact) -> ServingResult:
    """Tokens/s of prefill and of decoding at several batch sizes, on this machine with the model itself."""
    import torch

    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.training.checkpoints import load_model

    network = load_model(work.open(model))
    words = Tokenizer.load(work.open(tokenizer))
    length = min(config.prompt_tokens, network.cfg.context_length // 2)
    budget = min(config.output_tokens, network.cfg.context_length - length)
    draw = torch.Generator().manual_seed(0)
    rates: dict[int, float] = {}
    prefill = 0.0
    for batch in config.serving_batches:
        prompts = torch.randint(len(words.special_ids), words.vocab_size, (batch, length), generator=draw).tolist()
        # The first token is the prompt's: what the others take is decoding alone, since prompts have a price of theirs.
        seconds: dict[int, list[float]] = {1: [], budget: []}
        for _ in range(3):
            for num_tokens, taken in seconds.items():
                began = time.perf_counter()
                generate(network, prompts, SamplingParams(max_tokens=num_tokens), max_batch=batch)
                taken.append(time.perf_counter() - began)
        first, whole = (statistics.median(taken) for taken in seconds.values())
        # On a busy machine the difference may come out below nothing. A token that is decoded takes no less than one
        # that is read, so this share of the whole is then the least that decoding took.
        decoding = whole - first if whole > first else whole * (budget - 1) / (length + budget - 1)
        rates[batch] = batch * (budget - 1) / decoding
        if batch == max(config.serving_batches):
            prefill = batch * length / first
        processed = 3 * batch * (2 * length + 1 + budget)
        work.usage(tokens=processed, flops=processed * forward_flops_per_token(network.cfg, length + budget))
    measured = {"decode_tokens_per_second": rates, "prefill_tokens_per_second": prefill}
    (work.out / SERVING).write_text(json.dumps(measured), encoding="utf-8")
    work.log(0, {f"decode_tokens_per_second/batch_{batch}": rate for batch, rate in rates.items()})
    return ServingResult(rates[max(rates)], {str(batch): rate for batch, rate in rates.items()}, prefill)


@stage(produces="cost_report", group="cost", seconds=3)
def account_costs(
    work: Work,
    *,
    config: CostConfig,
    usd_per_core_hour: float,
    spent: list[Artifact],
    aligned: list[Artifact],
    reasoning: list[Artifact],
    serving: Artifact,
) -> CostResult:
    """Training against lifetime inference, the break-even, and ways to answer at what they cost per question.

    `spent`: every artifact that went into the model; `aligned`: the model that was trained further, if any, against
    which thinking longer with the model before it is held. A worker's price is that of its threads, as in the table
    `costs`.
    """
    from components.cost.hardware import HARDWARE, PRICES
    from components.cost.inference import measured_prices
    from components.cost.lifetime import Option, break_even

    work.rows("hardware", [device.to_row() for device in HARDWARE])
    work.rows("prices", [price.to_row() for price in PRICES])
    usd_per_hour = usd_per_core_hour * work.execution.threads_per_worker
    per_second = usd_per_hour / 3600
    training = sum(float(artifact.facts["usage"]["seconds"]) for artifact in spent) * per_second
    speed = from_facts(ServingResult, serving.facts)
    prices = measured_prices(speed.prefill_tokens_per_second, speed.decode_tokens_per_second, usd_per_hour)
    # An output token of a typical request, with its share of the prompt.
    served = prices.request(config.prompt_tokens, config.output_tokens) / config.output_tokens
    further = sum(float(artifact.facts["usage"]["seconds"]) for artifact in aligned) * per_second
    options, comparisons = {}, []
    rows = [row for report in reasoning for row in from_facts(ReasoningResult, report.facts).strategies]
    first = next((row.suite for row in rows if row.suite), None)  # of several sets, the one that decisions rest on
    for row in rows:
        extra = further if row.model == "grpo" else 0.0
        per_item = prices.request(row.prompt_tokens, row.completion_tokens)
        name = (
            f"{row.model} {row.strategy}" if row.suite in (None, first) else f"{row.suite}: {row.model} {row.strategy}"
        )
        options[name] = (row, Option(name, extra, per_item))
        comparisons.append(
            StrategyPrice(
                name=name,
                accuracy=row.accuracy,
                low=row.low,
                high=row.high,
                n=row.n,
                usd_per_thousand=per_item * 1000,
                extra_training_usd=extra,
                prompt_tokens=row.prompt_tokens,
                tokens_per_item=row.completion_tokens,
                needs_verifier=bool(row.needs_verifier),
                suite=row.suite,
            )
        )
    # The decision this life can inform: train further and answer once, or think longer with what there is?
    decision = Decision("no strategy of both models was measured")
    before = "sft" if any(row.model == "sft" for row in rows) else "base"
    decisive = [o for o in options.values() if o[0].suite == first]
    trained = [o for o in decisive if o[0].model == "grpo" and o[0].strategy in ("cot", "greedy")]
    thinking = [o for o in decisive if (o[0].model, o[0].strategy_family) == (before, "self_consistency")]
    if trained and thinking:
        train_row, train_option = trained[0]
        think_row, think_option = max(thinking, key=lambda pair: pair[0].accuracy)
        even = break_even(think_option, train_option)
        decision = Decision(
            verdict=(
                f"{even.then} costs less in all from {even.units:,.0f} questions on"
                if math.isfinite(even.units)
                else f"{even.first} costs less in all however many are asked"
            ),
            compared=TrainOrThink(
                think_longer=think_option.name,
                train_further=train_option.name,
                break_even_questions=even.units if math.isfinite(even.units) else None,
                trained_is_as_accurate=train_row.accuracy >= think_row.accuracy,
                trained_accuracy=train_row.interval,
                thinking_accuracy=think_row.interval,
            ),
        )
    result = CostResult(
        training_usd=training,
        price_per_million_input_tokens=prices.input,
        price_per_million_output_tokens=prices.output,
        decode_tokens_per_second=speed.decode_tokens_per_second,
        break_even_tokens=training / served,
        lifetime=tuple(LifetimeCost(tokens, training, tokens * served) for tokens in config.lifetime_tokens),
        comparisons=tuple(comparisons),
        decision=decision,
    )
    (work.out / "cost.json").write_text(json.dumps(to_facts(result), indent=1), encoding="utf-8")
    return result
