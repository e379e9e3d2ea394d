"""A corpus whose entropy is known, so that a fitted irreducible loss can be held against the truth.

A table of facts is drawn once: each fact is a distinct key of a few symbols and a value of a few symbols, all at
random, so that nothing about a fact can be inferred and everything has to be seen and stored. The stream is a sequence
of records of one fixed length,

    separator  key_1 … key_k  value_1 … value_v

whose facts are drawn independently from a Zipf law. Given the table, the separator and the value carry no entropy, and
the key carries that of the Zipf law: the irreducible loss is H(Zipf) / record length, exactly. Rare facts are seen
rarely (loss falls with tokens) and a small model stores only the frequent ones (loss falls with parameters), the
mechanism by which Hutter (2021) and Michaud et al. (2023) derive power laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEPARATOR = 0


@dataclass(frozen=True)
class FactsConfig:
    """The table of facts: rank r has probability proportional to r ** -zipf_exponent.

    The defaults let models of 10k to 150k parameters come near the floor within 0.2 to 1.6M tokens, so that a fit
    can find it; with an exponent of 1 or longer values they stay far above, and the fitted floor is too low.
    Train and evaluate on windows of `aligned_length` tokens that start at a record: a window that starts within one
    asks for values whose keys are out of sight, and its loss lies above `irreducible_loss`. `table_seed` draws the
    table; the seed of a stream only draws which facts appear.
    """

    num_facts: int = 8192
    zipf_exponent: float = 1.2
    num_symbols: int = 31
    key_length: int = 3
    value_length: int = 1
    table_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_facts", "num_symbols", "key_length", "value_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"FactsConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not self.zipf_exponent >= 0:
            raise ValueError(f"FactsConfig.zipf_exponent must be at least 0, got {self.zipf_exponent}")
        codes = self.num_symbols**self.key_length
        if self.num_facts > codes:
            raise ValueError(
                f"{self.num_facts} facts need distinct keys, but {self.key_length} symbols out of {self.num_symbols} "
                f"make only {codes}: raise FactsConfig.key_length or num_symbols"
            )

    @property
    def record_length(self) -> int:
        """Tokens a record: separator, key, value."""
        return 1 + self.key_length + self.value_length

    def aligned_length(self, at_most: int) -> int:
        """Tokens of the longest window of whole records that is no longer than `at_most`, a context length.

        Raises ValueError when not one record fits.
        """
        if at_most < self.record_length:
            raise ValueError(f"a context of {at_most} tokens does not hold one record of {self.record_length}")
        return at_most - at_most % self.record_length

    @property
    def vocab_size(self) -> int:
        """The separator (id 0) and the symbols (ids 1 … num_symbols)."""
        return 1 + self.num_symbols


@dataclass(frozen=True)
class FactTable:
    """`records`: shape (num_facts, record_length), token ids; `probabilities`: shape (num_facts,), sum 1."""

    records: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def fact_table(config: FactsConfig) -> FactTable:
    """The facts in order of falling probability, drawn from `config.table_seed`."""
    rng = np.random.default_rng(config.table_seed)
    codes = rng.choice(config.num_symbols**config.key_length, size=config.num_facts, replace=False)
    places = config.num_symbols ** np.arange(config.key_length)[::-1]
    records = np.full((config.num_facts, config.record_length), SEPARATOR, dtype=np.int64)
    records[:, 1 : 1 + config.key_length] = 1 + codes[:, None] // places % config.num_symbols
    records[:, 1 + config.key_length :] = rng.integers(
        1, config.num_symbols + 1, size=(config.num_facts, config.value_length)
    )
    return FactTable(records, zipf_probabilities(config.num_facts, config.zipf_exponent))


def zipf_probabilities(size: int, exponent: float) -> NDArray[np.float64]:
    """Probabilities of ranks 1 … size, proportional to rank ** -exponent; shape (size,)."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def facts_stream(config: FactsConfig, num_tokens: int, seed: int) -> NDArray[np.int64]:
    """Tokens of independent records, starting at a separator; the last record may be cut. Shape (num_tokens,).

    Use different seeds for training and evaluation. A longer stream of one seed starts with the shorter one.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    table = fact_table(config)
    num_records = -(-num_tokens // config.record_length)
    # Inverse-CDF draws: one uniform number per record, so the stream does not depend on how numpy samples `choice`.
    cdf = np.cumsum(table.probabilities)
    drawn = np.searchsorted(cdf, np.random.default_rng(seed).random(num_records) * cdf[-1], side="right")
    return table.records[np.minimum(drawn, config.num_facts - 1)].reshape(-1)[:num_tokens]


def irreducible_loss(config: FactsConfig) -> float:
    """Mean cross-entropy in nats per token of a predictor that knows the table: H(Zipf) / record length, exact."""
    p = zipf_probabilities(config.num_facts, config.zipf_exponent)
    return float(-(p * np.log(p)).sum()) / config.record_length


def oracle_losses(config: FactsConfig, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """Loss in nats at each token of a predictor that knows the table and where records start. Shape (len(tokens),).

    `tokens` must start at a separator, as `facts_stream` does. Its mean over a held-out stream is that very stream's
    entropy: subtracting it from a model's loss there takes out the luck of which facts were drawn.

    Raises ValueError when a record is not in the table.
    """
    table = fact_table(config)
    length = config.record_length
    whole = np.full(-(-len(tokens) // length) * length, -1, dtype=np.int64)
    whole[: len(tokens)] = tokens
    records = whole.reshape(-1, length)
    losses = np.zeros(records.shape)
    mass_before = np.ones(len(records))  # probability of the key so far, given nothing
    for position in range(1, 1 + config.key_length):
        prefixes, of_fact = np.unique(table.records[:, : position + 1], axis=0, return_inverse=True)
        mass_of_prefix = np.zeros(len(prefixes))
        np.add.at(mass_of_prefix, of_fact.reshape(-1), table.probabilities)
        mass = _look_up(prefixes, mass_of_prefix, records[:, : position + 1], config)
        losses[:, position] = np.log(mass_before) - np.log(mass)
        mass_before = mass
    return losses.reshape(-1)[: len(tokens)]


def _look_up(
    prefixes: NDArray[np.int64], mass: NDArray[np.float64], queries: NDArray[np.int64], config: FactsConfig
) -> NDArray[np.float64]:
    places = np.array([config.vocab_size**i for i in range(prefixes.shape[1])][::-1], dtype=np.int64)
    # np.unique sorts rows by column, which is the order of these codes.
    codes, queried = prefixes @ places, queries @ places
    at = np.minimum(np.searchsorted(codes, queried), len(codes) - 1)
    cut = (queries == -1).any(axis=1)
    unknown = np.flatnonzero((codes[at] != queried) & ~cut)
    if unknown.size:
        raise ValueError(
            f"record {unknown[0]} starts with {queries[unknown[0]].tolist()}, which no fact of the table does: "
            "the stream must come from the same FactsConfig and start at a separator"
        )
    return np.where(cut, 1.0, mass[at])
