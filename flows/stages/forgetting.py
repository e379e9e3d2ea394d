"""What each training stage did to all that the model could do before: a matrix of checkpoints and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.reasoning.config import ForgettingConfig
from components.reasoning.results.forgetting import ForgettingResult
from components.reasoning.tasks import SuiteConfig
from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Work
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
    before: Mapping[str, str],
    checkpoints: dict[str, Artifact],
    shards: Artifact,
    tokenizer: Artifact,
) -> ForgettingResult:
    """Held-out bits per byte by source of the pretraining text, and a small greedy suite, for every checkpoint.

    Differences are paired, window by window and item by item, against the first checkpoint.
    """
    from components.data.shards import TokenShards
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.reasoning.small_suite import small_suite, spread
    from components.statistics import mean_interval, paired_difference, wilson
    from components.training.checkpoints import load_model
    from components.training.validation import held_out

    data, words = TokenShards.open(work.open(shards)), Tokenizer.load(work.open(tokenizer))
    problems = spread(suite.problems(), config.num_problems)
    first_bits: dict[str, tuple[float, ...]] = {}
    first_right: dict[str, list[bool]] = {}
    rows: list[dict[str, Any]] = []
    for position, (label, checkpoint) in enumerate(checkpoints.items()):
        work.progress(position, len(checkpoints), checkpoint=label)
        network = load_model(work.open(checkpoint))
        measured: dict[str, tuple[str, Interval, Interval]] = {}
        context_length = min(config.context_length, network.cfg.context_length)
        for source, look in held_out(network, data, words, context_length, config.num_windows).items():
            bits = look.bits_by_window
            earlier = first_bits.setdefault(source, bits)
            change = mean_interval([now - then for now, then in zip(bits, earlier, strict=True)])
            measured[source] = ("bits_per_byte", mean_interval(bits), change)
        for task, right in small_suite(text_generator(network, words), problems, config.num_stories).items():
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
