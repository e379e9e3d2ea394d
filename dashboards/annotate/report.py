"""People's judgements as tables: what `lifespan annotate report` prints and the page of a run shows."""

from __future__ import annotations

from dashboards import formatting
from dashboards.blocks import Table
from dashboards.facts.people import PeopleFacts


def people_tables(facts: PeopleFacts) -> tuple[Table, ...]:
    """Annotators, agreement, position, models."""
    versions = ", ".join(map(str, facts.instructions))
    overview = [
        ("items judged", f"{facts.num_items:,}"),
        ("judgements", f"{facts.num_judgements:,} ({facts.num_skipped} skipped, {facts.num_comments} with a comment)"),
        ("instructions, version", versions),
        ("the answer shown earlier wins", formatting.percent_interval(facts.earlier_wins)),
    ]
    if facts.agreement is not None:
        a = facts.agreement
        overview += [
            ("raw agreement", formatting.percent_interval(a.raw)),
            ("Krippendorff's α, nominal", formatting.decimal_interval(a.alpha, 2)),
            ("Krippendorff's α, ordinal", formatting.decimal_interval(a.alpha_ordinal, 2)),
            ("Fleiss' κ", formatting.decimal_interval(a.fleiss, 2)),
            ("Gwet's AC1", formatting.decimal_interval(a.ac1, 2)),
            ("pairs of answers that two or more judged", f"{a.num_units:,}"),
        ]
    else:
        overview.append(("agreement", "no item was judged by two people"))
    if facts.no_ranking:
        overview.append(("ranking of models", f"none: {facts.no_ranking}"))
    tables = [
        Table("Judgements of people", ("what", "value [95%]"), "<>", tuple(overview)),
        Table(
            "Annotators",
            ("annotator", "judged", "skipped", "seconds per item", "confidence (1 to 3)"),
            "<>>>>",
            tuple(
                (a.name, f"{a.judged:,}", f"{a.skipped:,}", f"{a.seconds:.1f}", formatting.decimal(a.confidence, 2))
                for a in facts.annotators
            ),
        ),
        Table(
            "Agreement of two annotators on pairs of answers",
            ("annotators", "items", "equal [95%]", "Cohen's κ [95%]"),
            "<>>>",
            tuple(
                (
                    f"{p.first}, {p.second}",
                    f"{p.num_items:,}",
                    formatting.percent_interval(p.raw),
                    formatting.decimal_interval(p.kappa, 2),
                )
                for p in facts.pairs
            ),
        ),
    ]
    if facts.ranking is not None:
        tables.append(
            Table(
                "Models as people rank them (Bradley-Terry with ties)",
                ("model", "log strength [95%]", "won", "lost", "tied"),
                "<>>>>",
                tuple(
                    (
                        m.name,
                        formatting.decimal_interval(m.strength, 2, plus=True),
                        f"{m.wins:,}",
                        f"{m.losses:,}",
                        f"{m.ties:,}",
                    )
                    for m in facts.ranking.models
                ),
            )
        )
    return tuple(table for table in tables if table.rows)
