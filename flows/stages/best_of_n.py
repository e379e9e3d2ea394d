"""Best-of-n: nothing is trained, the reward model picks among samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components.rlhf.judging_config import JudgingConfig
from components.rlhf.results.best_of_n import BestOfNResult, BestOfNRow
from components.rlhf.results.policy import Laws
from components.stage_results import to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import count_generation
from flows.stages.files import GOLD_SCALE
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.rlhf.results.policy import LawResult


@stage(produces="eval_report", group="rlhf", seconds=15)
def best_of_n(
    work: Work,
    *,
    best_of: tuple[int, ...],
    judging: JudgingConfig,
    seed: int,
    sft: Artifact,
    reward_model: Artifact,
    preferences: Artifact,
    tokenizer: Artifact,
) -> BestOfNResult:
    """What picking the reward model's favourite of n answers gains, at which KL: no training, more tokens."""
    import numpy as np

    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf.bench import Bench
    from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value
    from components.rlhf.overoptimization_laws import fit_overoptimization, fit_rows
    from components.rlhf.prompts import answer_text, chat_prompts, stop_tokens
    from components.rlhf.reward_model import score_sequences
    from components.statistics import clustered_mean_interval

    bench = Bench.open(
        work.open(sft), work.open(reward_model), work.open(preferences) / GOLD_SCALE, work.open(tokenizer)
    )
    # Each request stands several times; what is gained there is one observation, since its answers are alike.
    texts = bench.held_out * max(1, judging.num_eval // (4 * len(bench.held_out)))
    prompts = chat_prompts(bench.words, texts)
    params = SamplingParams(
        max_tokens=judging.max_tokens,
        temperature=judging.temperature,
        num_samples=max(best_of),
        seed=seed + 2,
        stop_ids=stop_tokens(bench.words),
    )
    groups = generate(bench.reference, prompts, params)
    count_generation(work, bench.reference, sum(len(c.tokens) for group in groups for c in group))
    scores = [
        score_sequences(bench.proxy, [[*prompt, *c.tokens] for c in group]).double().numpy()
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    golds = [
        bench.golds((text, answer_text(bench.words, c.tokens)) for c in group)
        for text, group in zip(texts, groups, strict=True)
    ]
    kls = [best_of_n_kl(n) for n in best_of]
    # Gains over one sample, item by item: requests differ in how well they are answered to begin with.
    gained = {"proxy": np.array([[best_of_n_value(s, s, n) - s.mean() for n in best_of] for s in scores])}
    if known := [g for g in golds if g is not None]:
        gained["gold"] = np.array(
            [[best_of_n_value(s, g, n) - np.mean(g) for n in best_of] for s, g in zip(scores, known, strict=True)]
        )
    rows = []
    for place, n in enumerate(best_of):
        each = {name: clustered_mean_interval(gained_IN[:, place], texts) for name, gained_IN in gained.items()}
        rows.append(BestOfNRow(n, kls[place], each["proxy"], each.get("gold")))
    (work.out / "best_of_n.json").write_text(json.dumps([to_facts(row) for row in rows]), encoding="utf-8")

    def law(gained_IN: Any) -> LawResult | None:
        points = np.tile(kls, len(texts)), gained_IN.ravel(), [text for text in texts for _ in kls]
        try:
            return fit_overoptimization(*points, "best_of_n").result()
        except ValueError:  # too few sizes
            return None

    laws = Laws(gold=law(gained["gold"]) if known else None, proxy=law(gained["proxy"]))
    requests = len(bench.held_out)
    work.rows("scaling_fits", fit_rows("best_of_n", laws, f"least squares; Student's t over {requests} requests"))
    return BestOfNResult(tuple(rows), requests, len(texts), laws)
