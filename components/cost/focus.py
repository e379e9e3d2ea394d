"""The ledger in the columns of FOCUS, the FinOps Open Cost and Usage Specification 1.2, as cost tools take it in.

Own columns begin with `x_`, as the specification asks. Costs are shadow prices where the hardware is one's own: what
was reckoned with, `compute.usd_per_core_hour`, is list, contracted and effective price alike.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

UNIT = {"cpu": "Core-Hours", "gpu": "GPU-Hours", "tpu": "TPU-Hours"}


def focus_rows(
    ledger: Iterable[Mapping[str, Any]],
    tags: Mapping[str, Mapping[str, str]],
    kinds: Mapping[str, str],
    provider: str = "Lifespan",
) -> Iterator[dict[str, Any]]:
    """A FOCUS row for each row of the ledger that says when it ended. `tags`: by run. `kinds`: by hardware. Waste is
    tagged as such, so that it can be told apart."""
    for row in ledger:
        end = row["ended_at"]
        if end is None:
            continue
        begin = end - datetime.timedelta(seconds=row["seconds"] or 0.0)
        hours = (row["device_seconds"] or 0.0) / 3600.0
        price = row["usd"] / hours if hours else None
        unit = UNIT[kinds[row["hardware"]]]
        month = datetime.datetime(begin.year, begin.month, 1, tzinfo=datetime.UTC)
        after = (month + datetime.timedelta(days=32)).replace(day=1)
        outcome = {"lifespan.outcome": row["outcome"]}
        yield {
            "BilledCost": row["usd"],
            "BillingAccountId": provider,
            "BillingAccountName": provider,
            "BillingCurrency": "USD",
            "BillingPeriodStart": month,
            "BillingPeriodEnd": after,
            "ChargeCategory": "Usage",
            "ChargeClass": None,
            "ChargeDescription": f"{row['label'] or row['stage']}, {row['outcome']}, run {row['run_id']}",
            "ChargeFrequency": "Usage-Based",
            "ChargePeriodStart": begin,
            "ChargePeriodEnd": end,
            "ConsumedQuantity": hours,
            "ConsumedUnit": unit,
            "ContractedCost": row["usd"],
            "ContractedUnitPrice": price,
            "EffectiveCost": row["usd"],
            "InvoiceIssuerName": provider,
            "ListCost": row["usd"],
            "ListUnitPrice": price,
            "PricingCategory": "Standard",
            "PricingQuantity": hours,
            "PricingUnit": unit,
            "ProviderName": provider,
            "PublisherName": provider,
            "RegionId": None,
            "ResourceId": row["key"],
            "ResourceName": row["label"] or row["stage"],
            "ResourceType": row["group"],
            "ServiceCategory": "AI and Machine Learning",
            "ServiceName": row["stage"],
            "SkuId": row["hardware"],
            "SubAccountId": row["run_id"],
            "Tags": json.dumps({**tags.get(row["run_id"], {}), **outcome}, ensure_ascii=False, sort_keys=True),
            "x_Tokens": row["tokens"],
            "x_PromptTokens": row["prompt_tokens"],
            "x_GeneratedTokens": row["generated_tokens"],
            "x_Flops": row["flops"],
            "x_EnergyJoules": row["energy_joules"],
            "x_CarbonGrams": row["carbon_grams"],
        }
