"""Recall from the context, composed instructions, and steps in a row: transformers beside LSTMs of their sizes."""

from __future__ import annotations

import json

from components.model.config import count_params, training_flops_per_token
from components.scaling.in_context_config import InContextConfig, Task
from components.scaling.in_context_verdicts import compared
from components.scaling.results.in_context import ConditionScore, InContextReport, InContextResult, TrainedCourse
from components.stage_results import from_facts, to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.training import follow, resume
from storage.artifacts import Artifact


@stage(produces="scaling_run", group="architecture", seconds=60)
def train_in_context(
    work: Work, *, task: Task, architecture: str, config: InContextConfig, width: int, seed: int
) -> InContextResult:
    """One model on one task, asked the same questions all through its training."""
    from components.scaling.in_context import evaluation_rows, measured_at, solved, training_rows, vocab_size
    from components.scaling.on_text import build
    from components.training.guard import Guard
    from components.training.language_model import train
    from components.training.optimizers import Optimizer

    cfg = config.train
    model = build(config.architectures(width, vocab_size(task, config))[architecture], seed)
    optimizer, guard = Optimizer(model, cfg.optimizer), Guard(cfg.non_finite)
    start = resume(work, model, optimizer, guard)
    rows, marks = evaluation_rows(task, config), set(measured_at(config))
    records = train(
        model, optimizer, cfg, lambda step: training_rows(task, config, seed, step).batch(), start, guard=guard
    )
    course_file = work.out / "course.json"
    course: list[TrainedCourse] = []
    scores: list[ConditionScore] = []
    loss = float("nan")
    for record in follow(work, records, model, optimizer, cfg.num_steps, guard):
        loss = record.loss
        if record.step in marks:
            model.eval()
            found = solved(model, rows)
            model.train()
            work.log(record.step, {f"solved/{condition}": x.value for condition, x in found.items()})
            scores = [ConditionScore(condition, x) for condition, x in found.items()]
            course.append(TrainedCourse(record.step, tuple(x.solved.value for x in scores)))
    course_file.write_text(json.dumps([to_facts(one) for one in course]), encoding="utf-8")
    counts = count_params(model.cfg)
    tokens = cfg.num_steps * cfg.batch_size * (rows.tokens_BT1.shape[1] - 1)
    result = InContextResult(task, architecture, counts.total, tokens, loss, tuple(scores), tuple(course))
    work.rows(
        "scaling_points",
        [
            {
                "sweep": f"in_context_{task}",
                "variant": architecture,
                "seed": seed,
                "num_params": counts.total,
                "num_params_kind": "total",
                "tokens": tokens,
                "flops": training_flops_per_token(model.cfg, rows.tokens_BT1.shape[1] - 1) * tokens,
                "loss": loss,
                "details_json": json.dumps({one.condition: one.solved.value for one in scores}),
            }
        ],
    )
    return result


@stage(produces="eval_report", group="architecture", seconds=1)
def compare_in_context(work: Work, *, runs: list[Artifact]) -> InContextReport:
    """What the runs show, in words."""
    report = compared([from_facts(InContextResult, run.facts) for run in runs])
    (work.out / "comparison.json").write_text(json.dumps(to_facts(report)), encoding="utf-8")
    return report
