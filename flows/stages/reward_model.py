"""The reward model, and what it is worth on pairs that it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.model.config import training_flops_per_token
from components.rlhf.results.reward_model import GoldAgreement, HeldOutWorth, RewardModelResult
from components.rlhf.reward_model_config import RewardModelConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.counting import rough_flops, skips
from flows.stages.files import GOLD_SCALE, PREFERENCES
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.rlhf.pairs import TokenPair
    from components.rlhf.preferences import Preference
    from components.rlhf.reward_model import Ensemble
    from components.training.results.guard import GuardCounts


@stage(produces="reward_model", group="rlhf", seconds=20)
def train_reward_model(
    work: Work, *, config: RewardModelConfig, seed: int, sft: Artifact, preferences: Artifact, tokenizer: Artifact
) -> RewardModelResult:
    """A Bradley-Terry reward model on the fine-tuned trunk; scores are in its standard deviations, mean 0."""
    from components.data.tokenizer import Tokenizer
    from components.rlhf import reward_model as rm
    from components.rlhf.pairs import encode_pairs, split_pairs
    from components.rlhf.preferences import read_preferences
    from components.training.checkpoints import load_adapted, load_model

    load = load_adapted if config.lora else load_model  # adapters that the start keeps apart go on
    policy, words = load(work.open(sft)).to(work.device), Tokenizer.load(work.open(tokenizer))
    judged, _ = read_preferences(work.open(preferences) / PREFERENCES)
    pairs, too_long = encode_pairs(judged, words, policy.cfg.context_length)
    training, held_out = split_pairs(pairs, config.held_out, seed)
    state = rm.RewardState.start(policy, config, seed)
    if saved := work.load_state():
        state.load_tensors(saved[1], len(training))
    total = config.num_members * rm.num_steps(len(training), config)
    for record in rm.train_reward_model(state, training, seed):
        step = int(record["step"])
        work.log(step, {name: value for name, value in record.items() if name != "step"})
        flops = record["tokens"] * training_flops_per_token(policy.cfg, policy.cfg.context_length)
        work.usage(tokens=record["tokens"], flops=flops, flops_6nd=rough_flops(policy.cfg, record["tokens"], 3))
        work.progress(step, total, loss=record["loss/reward"], **skips(step, record, state.guard))
        if step < total and work.state_due():
            work.save_state(step, state.tensors(len(training)), {})
    for member in state.members:
        rm.calibrate(member, [tokens for pair in training for tokens in (pair.chosen, pair.rejected)])
    ensemble = rm.Ensemble(tuple(state.members))
    rm.save_reward_model(work.out, ensemble)
    # Preferences that are not gold's have no scale of gold: what they ought to be nobody knows.
    by_gold = (work.open(preferences) / GOLD_SCALE).exists()
    return _result(work, ensemble, judged, training, held_out, len(too_long), state.guard.counts(), by_gold)


def _result(
    work: Work,
    ensemble: Ensemble,
    judged: list[Preference],
    training: list[TokenPair],
    held_out: list[TokenPair],
    num_too_long: int,
    guard: GuardCounts,
    by_gold: bool,
) -> RewardModelResult:
    """The reward model on pairs it has not seen, with a row of `evals` for each of them."""
    import numpy as np

    from components.rlhf import reward_evaluation as worth
    from components.rlhf.reward_model import score_sequences
    from components.statistics import clustered_share_interval

    pairs = [*training, *held_out]
    scores = score_sequences(ensemble, [p.chosen for p in pairs] + [p.rejected for p in pairs]).double().numpy()
    chosen, rejected = scores[: len(pairs)], scores[len(pairs) :]
    # Log-odds, which is what the loss made of the difference before scores were brought to unit variance.
    margins = (chosen - rejected) / np.mean([float(member.gain) for member in ensemble.members])
    right = (margins > 0).tolist()
    unseen = range(len(training), len(pairs))
    about = [judged[pairs[i].index] for i in unseen]
    requests, unseen_right = [p.prompt for p in about], [right[i] for i in unseen]
    split = ["training"] * len(training) + ["held out"] * len(held_out)
    groups = {
        "source": [p.source or "unknown" for p in about],
        "annotator": [p.annotator or "unknown" for p in about],
        "confidence": [worth.confidence_group(p.confidence) for p in about],
    }
    accuracy_by = {
        "split": worth.accuracy_by(right, split, [judged[p.index].prompt for p in pairs]),
        **{kind: worth.accuracy_by(unseen_right, names, requests) for kind, names in groups.items()},
    }
    if not held_out:
        return RewardModelResult(len(training), num_too_long, guard, None, accuracy_by)
    lengths = [[len(answer) - p.num_prompt for answer in (p.chosen, p.rejected)] for p in held_out]
    unseen_chosen, unseen_rejected = chosen[len(training) :], rejected[len(training) :]
    found = HeldOutWorth(
        accuracy=clustered_share_interval(unseen_right, requests),
        num_held_out=len(held_out),
        calibration=worth.calibration(margins[len(training) :], requests),
        length=worth.length_bias(
            unseen_chosen, unseen_rejected, [c for c, _ in lengths], [r for _, r in lengths], requests
        ),
        score_by_length=tuple(
            (length, float(score))
            for (c, r), *both in zip(lengths, unseen_chosen, unseen_rejected, strict=True)
            for length, score in zip((c, r), both, strict=True)
        )[:400],
        gold=(_against_gold(held_out, about, unseen_chosen, unseen_rejected) if by_gold else GoldAgreement(None, None)),
    )
    work.rows(
        "evals",
        [
            {
                "suite": "preference pairs",
                "model": "reward model",
                "strategy": p.source or "unknown",
                "item_id": p.pair_id,
                "prompt": p.prompt,
                "answer": p.chosen if right[i] else p.rejected,
                "target": p.chosen,
                "correct": right[i],
                "score": float(margins[i]),
                "details_json": {"annotator": p.annotator, "confidence": p.confidence},
            }
            for i, p in zip(unseen, about, strict=True)
        ],
    )
    disagreement = _disagreement(ensemble, [pairs[i].chosen for i in unseen])
    return RewardModelResult(len(training), num_too_long, guard, disagreement, accuracy_by, found)


def _disagreement(ensemble: Ensemble, sequences: list[tuple[int, ...]]) -> float:
    from components.rlhf.reward_model import ensemble_scores

    return float(ensemble_scores(ensemble, sequences).std(1, correction=0).mean())


def _against_gold(pairs: list[TokenPair], about: list[Preference], chosen: Any, rejected: Any) -> GoldAgreement:
    """Held-out answers against gold, which the labels only show through their noise: correlation, and how often the
    best of four answers to a request is found."""
    import numpy as np

    from components.rlhf.gold import gold_score
    from components.rlhf.reward_evaluation import best_of_four, groups_of_four

    score: dict[tuple[int, ...], float] = {}
    gold: dict[tuple[int, ...], float] = {}
    by_prompt: dict[str, list[tuple[int, ...]]] = {}
    for pair, p, c, r in zip(pairs, about, chosen, rejected, strict=True):
        for tokens, text, x in ((pair.chosen, p.chosen, c), (pair.rejected, p.rejected, r)):
            if tokens not in gold:
                gold[tokens], score[tokens] = gold_score(p.prompt, text), float(x)
                by_prompt.setdefault(p.prompt, []).append(tokens)
    if len(gold) < 3:
        return GoldAgreement(None, None)
    names = list(gold)
    place = {tokens: i for i, tokens in enumerate(names)}
    fours = groups_of_four([[(place[t], gold[t]) for t in answers] for answers in by_prompt.values()])
    best = (
        best_of_four(
            [[score[names[i]] for i in ids] for ids, _, _ in fours],
            [top for _, top, _ in fours],
            [prompt for _, _, prompt in fours],
        )
        if fours
        else None
    )
    both = np.array([[score[t], gold[t]] for t in names])
    return GoldAgreement(float(np.corrcoef(both.T)[0, 1]), best)
