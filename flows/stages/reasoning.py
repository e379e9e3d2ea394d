"""How the model should think when it answers: every strategy on the same held-out items."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from components.reasoning.evaluate import ReasoningConfig
from components.reasoning.tasks import SuiteConfig
from flows.stage import stage
from flows.work import Work
from storage.artifacts import Artifact


@stage(produces="eval_report", group="reasoning", seconds=35)
def evaluate_reasoning(
    work: Work,
    *,
    config: ReasoningConfig,
    suite: SuiteConfig,
    name: str,
    model: Artifact,
    tokenizer: Artifact,
) -> dict[str, Any]:
    """Chains answered directly, in steps, by votes, and adaptively. `name`: what the tables call the model."""
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.model.config import forward_flops_per_token
    from components.reasoning.evaluate import answer_suite, eval_rows, summarize
    from components.reasoning.strategies import chain_item
    from components.training.checkpoints import load_model

    network, words = load_model(work.open(model)), Tokenizer.load(work.open(tokenizer))
    items = [chain_item(problem) for problem in suite.problems()]
    per_token = forward_flops_per_token(network.cfg, network.cfg.context_length)
    strategies = []
    for answered in answer_suite(text_generator(network, words), items, config):
        work.rows("evals", eval_rows(answered, "chains", name))
        if "@" not in answered.strategy or answered.strategy == f"self_consistency@{config.num_samples}":
            tokens = (answered.tokens + answered.prompt_tokens) * len(items)  # smaller votes reuse these samples
            work.usage(tokens=tokens, flops=tokens * per_token)
        overall, *by_difficulty = summarize(answered)
        strategies.append(
            {
                "model": name,
                "strategy": answered.strategy,
                "accuracy": overall.accuracy.value,
                "low": overall.accuracy.low,
                "high": overall.accuracy.high,
                "n": overall.accuracy.n,
                "completion_tokens": overall.tokens,
                "prompt_tokens": overall.prompt_tokens,
                "by_difficulty": {str(s.difficulty): dataclasses.asdict(s.accuracy) for s in by_difficulty},
            }
        )
        work.log(len(strategies), {f"accuracy/{answered.strategy}": overall.accuracy.value})
        work.progress(len(strategies), 12, strategy=answered.strategy)
    (work.out / "strategies.json").write_text(json.dumps(strategies, indent=1), encoding="utf-8")
    return {"strategies": strategies}
