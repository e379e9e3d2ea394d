"""What each training stage did to all that the model could do before: a matrix of checkpoints and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.reasoning.evaluation_sets import EvaluationConfig
from components.reasoning.forgetting_config import ForgettingConfig
from components.reasoning.results.forgetting import ForgettingResult
from components.reasoning.tasks import SuiteConfig
from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.evaluations import questions_of
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.statistics import Interval


def trained_checkpoints(run: Graph) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Of the graph so far: every checkpoint by the label of its stage, and the label of the one that it began from."""
    made = run.made("checkpoint")
    before = {label: found[0] for label in made if (found := [need for need in run.nodes[label].needs if need in made])}
    return made, before


@stage(produces="eval_report", group="report", seconds=12)
def measure_forgetting(
    work: Work,
    *,
    config: ForgettingConfig,
    suite: SuiteConfig,
    sets: tuple[EvaluationConfig, ...],
    before: Mapping[str, str],
    checkpoints: dict[str, Artifact],
    shards: list[Artifact],
    evaluations: list[Artifact],
    tokenizer: Artifact,
) -> ForgettingResult:
    """Held-out bits per byte by source of the pretraining text, if there is any, and greedy accuracy on the user's
    sets, or without any on a small suite of ours, for every checkpoint.

    Differences are paired, window by window and item by item, against the first checkpoint.
    """
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.reasoning.evaluation_sets import are_ranked
    from components.reasoning.small_suite import greedy_verdicts, small_suite
    from components.reasoning.tasks import spread
    from components.statistics import mean_interval, paired_difference, wilson
    from components.training.checkpoints import load_model
    from components.training.validation import held_out

    words = Tokenizer.load(work.open(tokenizer))
    data = TokenShards.open(work.open(shards[0])) if shards else None
    problems = spread(suite.problems(), config.num_problems)
    asked = {
        one: questions[: config.num_problems]
        for one in sets
        if not are_ranked(questions := questions_of(work, evaluations, one.called))
    }
    first_bits: dict[str, tuple[float, ...]] = {}
    first_right: dict[str, list[bool]] = {}
    rows: list[dict[str, Any]] = []
    for position, (label, checkpoint) in enumerate(checkpoints.items()):
        work.progress(position, len(checkpoints), checkpoint=label)
        network = load_model(work.open(checkpoint)).to(work.device)
        measured: dict[str, tuple[str, Interval, Interval]] = {}
        context_length = min(config.context_length, network.cfg.context_length)
        looks = held_out(network, data, words, context_length, config.num_windows) if data else {}
        for source, look in looks.items():
            bits = look.bits_by_window
            earlier = first_bits.setdefault(source, bits)
            change = mean_interval([now - then for now, then in zip(bits, earlier, strict=True)])
            measured[source] = ("bits_per_byte", mean_interval(bits), change)
        generate = text_generator(network, words)
        tasks = (
            {one.called: greedy_verdicts(generate, one, questions) for one, questions in asked.items()}
            if asked
            else small_suite(generate, problems, config.num_stories)
        )
        for task, right in tasks.items():
            against = paired_difference(right, first_right.setdefault(task, right))
            measured[task] = ("accuracy", wilson(sum(right), len(right)), against)
        for evaluation, (unit, value, change) in measured.items():
            rows.append(
                {
                    "checkpoint": label,
                    "position": position,
                    "before": before.get(label),
                    "evaluation": evaluation,
                    "unit": unit,
                    "value": value.value,
                    "low": value.low,
                    "high": value.high,
                    "n": value.n,
                    "change": change.value if position else None,
                    "change_low": change.low if position else None,
                    "change_high": change.high if position else None,
                }
            )
            work.log(position, {f"{unit}/{evaluation}": value.value, f"{unit}/{evaluation}/{label}": value.value})
    work.rows("forgetting", rows)
    (work.out / "forgetting.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    work.progress(len(checkpoints), len(checkpoints))
    return ForgettingResult(first=next(iter(checkpoints)), num_checkpoints=len(checkpoints))
