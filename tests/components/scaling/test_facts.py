from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from components.scaling.facts import (
    SEPARATOR,
    FactsConfig,
    fact_table,
    facts_stream,
    irreducible_loss,
    oracle_losses,
)

SMALL = FactsConfig(num_facts=40, num_symbols=5, key_length=3, value_length=2, table_seed=4)


def test_irreducible_loss_by_hand() -> None:
    # Two facts of probability 2/3 and 1/3 in records of 1 + 1 + 2 tokens.
    config = FactsConfig(num_facts=2, zipf_exponent=1.0, num_symbols=4, key_length=1, value_length=2)
    entropy = math.log(3) - 2 / 3 * math.log(2)
    assert irreducible_loss(config) == pytest.approx(entropy / 4, rel=1e-12)
    # A uniform law over 1024 facts has ln 1024 nats a record.
    assert irreducible_loss(FactsConfig(num_facts=1024, zipf_exponent=0.0)) == pytest.approx(math.log(1024) / 5)


def test_windows_hold_whole_records() -> None:
    config = FactsConfig()
    assert (config.record_length, config.aligned_length(64), config.aligned_length(125)) == (5, 60, 125)
    with pytest.raises(ValueError, match="one record of 5"):
        config.aligned_length(4)


def test_every_key_is_one_fact_and_records_are_aligned() -> None:
    config = FactsConfig()
    table = fact_table(config)
    assert len(np.unique(table.records[:, 1:4], axis=0)) == 8192
    stream = facts_stream(config, 5 * 1000, seed=1).reshape(-1, 5)
    assert (stream[:, 0] == SEPARATOR).all()
    assert stream[:, 1:].min() >= 1 and stream.max() < config.vocab_size <= 64
    value_of = {tuple(r[:4]): tuple(r[4:]) for r in table.records.tolist()}
    assert all(value_of[tuple(r[:4])] == tuple(r[4:]) for r in stream.tolist())


def test_stream_follows_zipf() -> None:
    stream = facts_stream(FactsConfig(), 5 * 60_000, seed=2).reshape(-1, 5)
    table = fact_table(FactsConfig())
    counts = Counter(tuple(r) for r in stream.tolist())
    for rank in (0, 1, 9):
        expected = 60_000 * table.probabilities[rank]
        assert abs(counts[tuple(table.records[rank].tolist())] - expected) < 4.5 * math.sqrt(expected)
    assert table.probabilities[0] / table.probabilities[9] == pytest.approx(10.0**1.2)


def test_a_longer_stream_extends_a_shorter_one_and_seeds_differ() -> None:
    short, long = facts_stream(SMALL, 100, seed=3), facts_stream(SMALL, 1000, seed=3)
    assert (long[:100] == short).all()
    assert (facts_stream(SMALL, 1000, seed=5) != long).any()


def test_oracle_is_the_bayes_predictor() -> None:
    """Against next-token probabilities that are counted out from the table, one prefix at a time."""
    table = fact_table(SMALL)
    following: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for record, p in zip(table.records.tolist(), table.probabilities, strict=True):
        for i in range(SMALL.record_length):
            following[tuple(record[:i])][record[i]] += p
    stream = facts_stream(SMALL, 301, seed=6)  # 301: the last record is cut
    losses = []
    for i, token in enumerate(stream.tolist()):
        choices = following[tuple(stream[i - i % SMALL.record_length : i].tolist())]
        losses.append(-math.log(choices[token] / sum(choices.values())))
    assert oracle_losses(SMALL, stream) == pytest.approx(losses, abs=1e-12)


def test_oracle_loss_converges_to_the_irreducible_loss() -> None:
    config = FactsConfig()
    per_record = oracle_losses(config, facts_stream(config, 5 * 40_000, seed=7)).reshape(-1, 5).mean(axis=1)
    error = per_record.std() / math.sqrt(len(per_record))
    assert abs(per_record.mean() - irreducible_loss(config)) < 4 * error
    assert error < 0.004


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="make only 25"):
        FactsConfig(num_facts=26, num_symbols=5, key_length=2)
    with pytest.raises(ValueError, match=r"FactsConfig\.value_length"):
        FactsConfig(value_length=0)
    with pytest.raises(ValueError, match="start at a separator"):
        oracle_losses(SMALL, facts_stream(SMALL, 60, seed=0)[1:])
