"""The data: what each step removed, by source, and the texts that were rejected with their reason."""

from __future__ import annotations

from dashboards import formatting
from dashboards.app.address import Address
from dashboards.app.figures.data import removed, removed_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import ask, life, typed
from dashboards.app.view import (
    Block,
    Chart,
    Column,
    Control,
    Controls,
    Fact,
    Facts,
    Note,
    Table,
    Text,
    Texts,
    View,
    missing,
)
from dashboards.facts.effects import Missing
from dashboards.facts.training import DataFacts, data_facts
from storage.home import Home

_FUNNEL = """
        SELECT f ->> 'source' AS source, f ->> 'step' AS step, (f ->> 'documents')::BIGINT AS documents,
               (f ->> 'bytes')::BIGINT AS bytes
        FROM (SELECT unnest(facts_json -> '$.funnel[*]') AS f FROM run_stages
              WHERE run_id = $run AND stage = 'prepare_corpus' AND status IN ('ran', 'cached'))"""
_REASONS = """
        SELECT coalesce(source, '') AS source, reason, count(*) AS n FROM quarantine
        WHERE key IN (SELECT key FROM stages WHERE run_id = $run) GROUP BY ALL
        ORDER BY n DESC, source, reason LIMIT 500"""
_TEXTS = """
        SELECT source, reason, file, line, excerpt FROM quarantine
        WHERE key IN (SELECT key FROM stages WHERE run_id = $run) AND ($source = '' OR source = $source)
          AND ($reason = '' OR reason = $reason) ORDER BY source, file, line LIMIT 60"""


def data_page(home: Home, address: Address, outside: Outside) -> View:
    """Bars of what was removed; a bar or a reason shows the texts."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Data", f"No run yet in {home.shown}.", ("Runs", "/"))
    facts = data_facts(life(home, run))
    if isinstance(facts, Missing):
        return View("Data", (Controls((control,)), Note(facts.reason, "muted")), address=address.used)
    unit = address.text("unit", "documents", ["documents", "bytes"])
    blocks: list[Block] = [
        Controls((control, Control("unit", "count", "select", unit, (("documents", "documents"), ("bytes", "bytes"))))),
        _head(facts),
    ]
    sql = typed(_FUNNEL, {"run": run})
    if any(count for by_step in removed(facts.funnel, unit).values() for count in by_step.values()):
        blocks.append(
            Chart(
                "removed",
                "What each step removed",
                removed_figure(facts.funnel, unit),
                sql,
                "A click on a bar shows rejected texts of that source.",
            )
        )
    elif facts.funnel:
        blocks.append(Note("No step removed anything.", "muted"))
    blocks.append(_left(facts, unit, sql))
    reasons = ask(home, _REASONS, {"run": run})
    blocks.append(
        Table(
            "reasons",
            "Why records were rejected",
            (
                Column("source", "source"),
                Column("reason", "reason", "text", f"/data?run={run}&source={{source}}&reason={{reason}}"),
                Column("n", "records", "count"),
            ),
            reasons,
            typed(_REASONS, {"run": run}),
            filter=True,
            empty="no record was rejected",
        )
    )
    source, reason = address.text("source"), address.text("reason")
    if source or reason:
        params = {"run": run, "source": source, "reason": reason}
        found = ask(home, _TEXTS, params)
        items = tuple(
            Text(f"{one}: {why}", text or "", meta=f"{file or ''}{f', line {line}' if line else ''}")
            for one, why, file, line, text in zip(*found.values(), strict=True)
        )
        blocks.append(
            Texts(
                f"Rejected: {reason or source}",
                items,
                "" if items else "Duplicates and whole filters count what they take, and keep no text.",
            )
        )
    return View("Data", tuple(blocks), address=address.used)


def _head(facts: DataFacts) -> Facts:
    return Facts(
        (
            Fact("documents kept", formatting.count(facts.num_documents)),
            Fact("bytes", formatting.size(facts.num_bytes)),
            Fact("tokens", formatting.count(facts.num_tokens)),
            Fact("vocabulary", formatting.count(facts.vocab_size)),
            Fact("bytes per token", formatting.decimal(facts.bytes_per_token, 2)),
            Fact("duplicates removed", formatting.count(facts.duplicates)),
            Fact("personal data masked", formatting.count(facts.masked_pii)),
        )
    )


def _left(facts: DataFacts, unit: str, sql: str) -> Table:
    return Table(
        "funnel",
        f"What is left after each step, in {unit}",
        (Column("source", "source"), *(Column(step, step, "count") for step in facts.steps)),
        {
            "source": list(facts.sources),
            **{
                step: [
                    next(
                        (int(getattr(one, unit)) for one in facts.funnel if (one.source, one.step) == (source, step)),
                        None,
                    )
                    for source in facts.sources
                ]
                for step in facts.steps
            },
        },
        sql,
        empty="this run prepared no corpus",
    )
