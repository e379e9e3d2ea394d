"""What a token cost in a run: the prices that its stage of accounts measured."""

from __future__ import annotations

from components.cost.inference import TokenPrices
from components.cost.results import CostResult
from dashboards.run_data import RunRows, known

CONVENTION = (
    "Dollars are tokens at the prices that this run measured: those read at the price of prefill, those generated at "
    "that of decoding. Samples of one item share its prompt, which the engine reads once; every other request reads "
    "its own."
)


def prices_of(rows: RunRows) -> TokenPrices | None:
    """None where the run has no accounts. Raises UnreadableFacts where another version wrote them."""
    result = rows.result_of("account_costs", CostResult)
    if result is None:
        return None
    read, generated = (
        known(x.value) for x in (result.price_per_million_input_tokens, result.price_per_million_output_tokens)
    )
    return None if read is None or generated is None else TokenPrices(read, generated)
