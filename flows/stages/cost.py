"""What the life has cost, what serving costs by measurement, and where thinking longer beats training more."""

from __future__ import annotations

import json
import time

from components.cost.results import CostResult, LifetimeCost, ServingResult, StrategyPrice
from components.cost.settings import CostConfig
from components.reasoning.results.strategies import ReasoningResult
from components.stage_results import from_facts, to_facts
from components.statistics import Interval
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import count_answers
from storage.artifacts import Artifact

SERVING = "serving.json"


@stage(produces="eval_report", group="cost", seconds=15)
def measure_serving(work: Work, *, config: CostConfig, model: Artifact, tokenizer: Artifact) -> ServingResult:
    """Tokens per core second of prefill and of decoding, on this machine with the model itself, by batch size; on an
    accelerator, which is held all the time, per second of the clock."""
    import torch

    from components.cost.serving import Shape, measure, rate, typical
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.training.checkpoints import load_model

    network = load_model(work.open(model)).to(work.device)
    words = Tokenizer.load(work.open(tokenizer))
    clock = time.process_time if work.device.type == "cpu" else time.perf_counter
    length = min(config.prompt_tokens, network.cfg.context_length // 2)
    budget = min(config.output_tokens, network.cfg.context_length - length)
    draw = torch.Generator().manual_seed(0)
    largest = max(config.serving_batches)
    rates: dict[int, float] = {}
    for batch in sorted(config.serving_batches):
        shape = Shape(batch, length, budget)
        prompts = torch.randint(len(words.special_ids), words.vocab_size, (batch, length), generator=draw).tolist()

        def seconds(num_tokens: int, prompts: list[list[int]] = prompts) -> float:
            began = clock()
            generate(network, prompts, SamplingParams(max_tokens=num_tokens), max_batch=len(prompts))
            return clock() - began

        rounds = measure(
            seconds,
            shape,
            (config.prompt_tokens, config.output_tokens),
            config.serving_precision,
            config.serving_seconds if batch == largest else 0.0,
        )
        decode = rate(typical([one.decode for one in rounds]))
        rates[batch] = decode.value
        read, written = (len(rounds) * batch * tokens for tokens in (2 * length, 1 + budget))
        count_answers(work, network.cfg, read, written)
    result = ServingResult(
        decode_tokens_per_second=decode,
        prefill_tokens_per_second=rate(typical([one.prefill for one in rounds])),
        request_seconds=typical([one.request(config.prompt_tokens, config.output_tokens) for one in rounds]),
        decode_by_batch={str(batch): rates[batch] for batch in config.serving_batches},
    )
    (work.out / SERVING).write_text(json.dumps(to_facts(result), indent=1), encoding="utf-8")
    work.log(0, {f"decode_tokens_per_second/batch_{batch}": rate for batch, rate in rates.items()})
    return result


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
    which thinking longer with the model before it is held. All at the price of a busy core, as in the table `costs`.
    """
    from components.cost.accounting import stage_cost
    from components.cost.deciding import decisive_suite, measured_price, per_item, sides, train_or_think
    from components.cost.hardware import hardware_catalogue
    from components.cost.prices import price_catalogue

    work.rows("hardware", [device.to_row() for device in hardware_catalogue()])
    work.rows("prices", [price.to_row("catalogue") for price in price_catalogue()])

    def paid(artifact: Artifact) -> float:
        used = artifact.facts["usage"]
        return stage_cost(used, work.execution.device, work.execution.hardware, usd_per_core_hour).usd

    training, further = sum(map(paid, spent)), sum(map(paid, aligned))
    speed = from_facts(ServingResult, serving.facts)
    prices = measured_price(speed, usd_per_core_hour)
    # An output token of a typical request, with its share of the prompt.
    served = usd_per_core_hour / 3600 / config.output_tokens
    request = speed.request_seconds
    even = None
    if served:
        value, low, high = (training / (served * x) for x in (request.value, request.high, request.low))
        even = Interval(value, low, high, request.n)
    rows = [row for report in reasoning for row in from_facts(ReasoningResult, report.facts).strategies]
    first = decisive_suite(rows)
    result = CostResult(
        training_usd=training,
        price_per_million_input_tokens=prices.input,
        price_per_million_output_tokens=prices.output,
        decode_tokens_per_second=speed.decode_tokens_per_second.value,
        break_even_tokens=even,
        lifetime=tuple(
            LifetimeCost(tokens, training, tokens * served * request.value) for tokens in config.lifetime_tokens
        ),
        comparisons=tuple(
            StrategyPrice(
                name=f"{row.model} {row.strategy}"
                if row.suite in (None, first)
                else f"{row.suite}: {row.model} {row.strategy}",
                accuracy=row.accuracy,
                low=row.low,
                high=row.high,
                n=row.n,
                usd_per_thousand=1000 * per_item(row, prices.value),
                extra_training_usd=further if row.model == "grpo" else 0.0,
                prompt_tokens=row.prompt_tokens,
                tokens_per_item=row.completion_tokens,
                needs_verifier=bool(row.needs_verifier),
                suite=row.suite,
            )
            for row in rows
        ),
        # The decision this life can inform: train further and answer once, or think longer with what there is?
        decision=train_or_think(*sides(rows), further, prices),
    )
    (work.out / "cost.json").write_text(json.dumps(to_facts(result), indent=1), encoding="utf-8")
    return result
