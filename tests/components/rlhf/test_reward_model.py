from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.rlhf.pairs import TokenPair, encode_pairs, split_pairs
from components.rlhf.preferences import Preference
from components.rlhf.reward_model import (
    Ensemble,
    RewardModel,
    RewardState,
    bootstrap_weights,
    calibrate,
    combine_scores,
    ensemble_scores,
    load_reward_model,
    pairwise_loss,
    save_reward_model,
    score_sequences,
    train_reward_model,
)
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rollouts import pad_right

TINY = ModelConfig(vocab_size=40, d_model=16, num_layers=2, num_heads=2, context_length=32)


def _sequences(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 20, (count,), generator=g).tolist()
    return [tuple(torch.randint(1, 40, (n,), generator=g).tolist()) for n in lengths]


def _pairs(count: int) -> list[TokenPair]:
    """The chosen answer ends with an even token, the rejected with an odd one."""
    made = []
    for index, tokens in enumerate(_sequences(count)):
        made.append(TokenPair((*tokens, 2 * (index % 19) + 2), (*tokens[1:], 2 * (index % 18) + 1)))
    return made


def test_the_head_starts_as_stated() -> None:
    model = RewardModel(Transformer(dataclasses.replace(TINY, d_model=256, num_layers=1)), seed=1)
    assert float(model.head.weight.detach().std()) == pytest.approx(1 / math.sqrt(257), rel=0.15)
    assert float(model.head.bias.detach()) == 0


@pytest.mark.parametrize("moe", [None, MoEConfig(num_experts=4, d_ff=16)])
def test_padding_has_no_effect(moe: MoEConfig | None) -> None:
    model = RewardModel(Transformer(dataclasses.replace(TINY, moe=moe), seed=2), seed=2)
    sequences = _sequences(9)
    tokens_BT, lengths_B = pad_right(sequences)
    with torch.no_grad():
        together = model.score(tokens_BT, lengths_B)
        spoiled = torch.where(torch.arange(tokens_BT.shape[1]) < lengths_B[:, None], tokens_BT, 39)
        alone = torch.stack([model.score(torch.tensor([s]), torch.tensor([len(s)]))[0] for s in sequences])
        torch.testing.assert_close(model.score(spoiled, lengths_B), together)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(score_sequences(model, sequences, batch_size=4), alone)  # sorted inside, order kept


def test_the_loss_is_that_of_the_paper() -> None:
    chosen, rejected, margin = [1.5, -0.2, 0.3], [0.5, 0.4, 0.3], [0.0, 0.7, 1.0]
    by_hand = sum(
        math.log1p(math.exp(-(c - r - m))) + 0.05 * (c + r) ** 2
        for c, r, m in zip(chosen, rejected, margin, strict=True)
    )
    as64 = [torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected, margin)]
    assert float(pairwise_loss(*as64, centering_coef=0.05)) == pytest.approx(by_hand / 3)


@pytest.mark.parametrize(("members", "heads"), [(1, 1), (2, 3)])
def test_it_learns_what_is_preferred_and_resumes_bit_for_bit(members: int, heads: int) -> None:
    pairs = _pairs(96)
    config = RewardModelConfig(epochs=8, batch_pairs=16, num_members=members, num_heads=heads)

    def fresh() -> RewardState:
        return RewardState.start(Transformer(TINY, seed=3), config, seed=5)

    whole = fresh()
    records = list(train_reward_model(whole, pairs, seed=5))
    assert [r["step"] for r in records] == list(range(1, 48 * members + 1))
    trained = Ensemble(tuple(whole.members))
    scores_B = score_sequences(trained, [p.chosen for p in pairs] + [p.rejected for p in pairs])
    assert (scores_B[: len(pairs)] > scores_B[len(pairs) :]).float().mean() > 0.9
    expected = whole.tensors(len(pairs))

    # Stopped within the first member, between two, and within the last.
    for stop in (20, 48, 48 * members - 10):
        cut = fresh()
        steps = train_reward_model(cut, pairs, seed=5)
        for _ in range(stop):
            next(steps)
        saved = {name: value.clone() for name, value in cut.tensors(len(pairs)).items()}
        resumed = fresh()
        resumed.load_tensors(saved, len(pairs))
        rest = list(train_reward_model(resumed, pairs, seed=5))
        assert [r["loss/reward"] for r in rest] == [r["loss/reward"] for r in records[stop:]]
        got = resumed.tensors(len(pairs))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_members_and_heads_differ_in_seed_and_in_what_they_saw() -> None:
    config = RewardModelConfig(epochs=1, num_members=2, num_heads=3)
    state = RewardState.start(Transformer(TINY, seed=3), config, seed=5)
    heads = torch.cat([member.head.weight.detach() for member in state.members])
    assert len({tuple(row.tolist()) for row in heads}) == 6
    weights = bootstrap_weights(4000, 3, seed=5)
    assert weights.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.05)
    assert weights.var(0).tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert not torch.equal(weights[:, 0], weights[:, 1]) and bool((bootstrap_weights(9, 1, seed=5) == 1).all())


def test_calibration_gives_mean_zero_and_keeps_the_order(tmp_path: Path) -> None:
    model, sequences = RewardModel(Transformer(TINY, seed=1), seed=1), _sequences(40)
    before = score_sequences(model, sequences)
    calibrate(model, sequences)
    after = score_sequences(model, sequences)
    assert float(after.mean()) == pytest.approx(0, abs=1e-5) and float(after.std()) == pytest.approx(1, rel=1e-4)
    assert after.argsort().tolist() == before.argsort().tolist()
    calibrate(model, sequences)  # twice is once
    torch.testing.assert_close(score_sequences(model, sequences), after)

    both = Ensemble((model, RewardModel(Transformer(TINY, seed=2), seed=2)))
    save_reward_model(tmp_path, both)
    loaded = load_reward_model(tmp_path)
    torch.testing.assert_close(ensemble_scores(loaded, sequences), ensemble_scores(both, sequences))


def test_a_folder_that_holds_another_thing_says_so(tmp_path: Path) -> None:
    (tmp_path / "reward_model.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="not a reward model of Lifespan"):
        load_reward_model(tmp_path)


def test_ensembles_combine_as_they_say() -> None:
    members = tuple(RewardModel(Transformer(TINY, seed=s), seed=s, num_heads=s + 1) for s in range(3))
    sequences = _sequences(6)
    each = ensemble_scores(Ensemble(members), sequences)
    assert each.shape == (6, 6)
    torch.testing.assert_close(each[:, 0], score_sequences(members[0], sequences))
    torch.testing.assert_close(each[:, 1:3].mean(1), score_sequences(members[1], sequences))
    torch.testing.assert_close(score_sequences(Ensemble(members), sequences), each.mean(1))
    by_hand = [[1.0, 3.0], [-2.0, 2.0]]
    scores = torch.tensor(by_hand)
    assert combine_scores(scores).tolist() == [2.0, 0.0]
    assert combine_scores(scores, "worst").tolist() == [1.0, -2.0]
    assert combine_scores(scores, "variance", 0.5).tolist() == [1.5, -2.0]  # population variances 1 and 4


def test_pairs_carry_an_end_token_only_where_the_answer_ended() -> None:
    tokenizer = Tokenizer.train(["Tell a story. Sue is glad. Tom is sad."], vocab_size=262)
    preferences = [
        Preference("Tell.", "Sue is glad.", "Tom", rejected_finished=False),
        Preference("Tell." * 30, "Sue", "Tom"),
    ]
    pairs, too_long = encode_pairs(preferences, tokenizer, context_length=64)
    (pair,) = pairs
    assert pair.chosen[-1] == tokenizer.end_id != pair.rejected[-1]
    assert pair.chosen[: pair.num_prompt] == pair.rejected[: pair.num_prompt]
    assert tokenizer.decode(pair.chosen[pair.num_prompt :]) == "Sue is glad."
    assert too_long[0][0] == 1 and "context holds 64" in too_long[0][1]


def test_held_out_pairs_share_no_answer_with_training() -> None:
    answers = _sequences(60)
    pairs = [TokenPair(answers[i], answers[j]) for i in range(0, 60, 4) for j in (i + 1, i + 2, i + 3)]
    train, held = split_pairs(pairs, 0.2, seed=0)
    assert len(train) + len(held) == len(pairs) and len(held) >= 9
    assert not {a for p in train for a in (p.chosen, p.rejected)} & {a for p in held for a in (p.chosen, p.rejected)}
