"""Best-of-n: nothing is trained, the reward model picks among samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components.rlhf.judging_config import JudgingConfig
from components.rlhf.results.best_of_n import BestOfNResult, BestOfNRow
from components.rlhf.results.policy import Laws
from components.rlhf.rewards.settings import RewardSettings
from components.stage_results import to_facts
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.bench import failed_rows, open_bench
from flows.stages.counting import count_generation
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
    reward: RewardSettings,
    sft: Artifact,
    reward_model: list[Artifact],
    preferences: list[Artifact],
    prompts: list[Artifact],
    tokenizer: Artifact,
) -> BestOfNResult:
    """What picking the favourite of n answers, by rewards or the reward model, gains, at which KL: no training, more
    tokens."""
    import numpy as np

    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value
    from components.rlhf.overoptimization_laws import fit_overoptimization, fit_rows
    from components.rlhf.prompts import as_answers, chat_prompts, samples_of, stop_tokens
    from components.statistics import clustered_mean_interval

    bench = open_bench(
        work,
        reward=reward,
        sft=sft,
        tokenizer=tokenizer,
        prompts=prompts,
        reward_model=reward_model,
        preferences=preferences,
        max_tokens=judging.max_tokens,
        trained=False,
    )
    # A prompt may stand several times; what is gained there is one observation, since its answers are alike.
    held_out = list(bench.held_out)[: max(32, judging.num_eval // 4)]
    asked = held_out * max(1, judging.num_eval // (4 * len(held_out)))
    texts = [prompt.id for prompt in asked]
    encoded = chat_prompts(bench.words, asked)
    params = SamplingParams(
        max_tokens=judging.max_tokens,
        temperature=judging.temperature,
        num_samples=max(best_of),
        seed=seed + 2,
        stop_ids=stop_tokens(bench.words),
    )
    groups = generate(bench.reference, encoded, params)
    count_generation(work, bench.reference, sum(len(c.tokens) for group in groups for c in group))
    samples = [
        samples_of(bench.words, [prompt] * len(group), [tokens] * len(group), as_answers(group))
        for prompt, tokens, group in zip(asked, encoded, groups, strict=True)
    ]
    scores, failures = [], []
    for tokens, group, answers in zip(encoded, groups, samples, strict=True):
        scores_BM, judged = bench.rewarded(answers, [[*tokens, *c.tokens] for c in group])
        if scores_BM is None:
            raise ValueError("best-of-n picks by a reward: give rewards, or let the life train a reward model")
        scores.append(scores_BM.mean(1).double().numpy())
        failures += failed_rows(0, judged)
    work.rows("samples", failures)
    golds = [bench.gold.score(answers) for answers in samples] if bench.gold else []
    kls = [best_of_n_kl(n) for n in best_of]
    # Gains over one sample, item by item: requests differ in how well they are answered to begin with.
    gained = {"proxy": np.array([[best_of_n_value(s, s, n) - s.mean() for n in best_of] for s in scores])}
    if golds:
        gained["gold"] = np.array(
            [[best_of_n_value(s, g, n) - np.mean(g) for n in best_of] for s, g in zip(scores, golds, strict=True)]
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

    laws = Laws(gold=law(gained["gold"]) if golds else None, proxy=law(gained["proxy"]))
    requests = len(held_out)
    work.rows("scaling_fits", fit_rows("best_of_n", laws, f"least squares; Student's t over {requests} requests"))
    return BestOfNResult(tuple(rows), requests, len(texts), laws, bench.gold.name if bench.gold else "none")
