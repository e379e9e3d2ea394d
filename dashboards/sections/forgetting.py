"""Section on forgetting."""

from __future__ import annotations

from dashboards import formatting
from dashboards.blocks import Section, Table, body
from dashboards.facts.forgetting import Cell, ForgettingFacts


def forgetting_section(facts: ForgettingFacts) -> Section:
    """Values and changes of every checkpoint, and a sentence that names the largest loss."""
    first, *later = facts.checkpoints
    lost = [(name, cell) for name, cell in facts.cells.items() if cell.worse and cell.unit == "bits_per_byte"]
    if lost:
        (checkpoint, source), worst = max(lost, key=lambda item: item[1].value)
        meaning = (
            f"What each stage of training did to what {first} could do. Most forgotten: {source} costs {checkpoint} "
            f"{worst.value:.2f} bits per byte, {facts.cells[first, source].value:.2f} before."
        )
    else:
        meaning = f"What each stage of training did to what {first} could do: no held-out text became harder."
    if len(facts.replays) < 2:
        meaning += " `lifespan run remedies` shows what fine-tuning forgets without replay."
    values = Table(
        "Every checkpoint on held-out text (bits per byte) and on a small suite (accuracy)",
        ("checkpoint", *facts.evaluations),
        "<" + ">" * len(facts.evaluations),
        tuple(
            (checkpoint, *(_value(facts.cells.get((checkpoint, name))) for name in facts.evaluations))
            for checkpoint in facts.checkpoints
        ),
    )
    changes = Table(
        f"Change against {first} [95%]",
        ("checkpoint", *facts.evaluations),
        "<" + ">" * len(facts.evaluations),
        tuple(
            (checkpoint, *(_change(facts.cells.get((checkpoint, name))) for name in facts.evaluations))
            for checkpoint in later
        ),
        folded=True,
    )
    replays = Table(
        f"Fine-tuning by the share of pretraining text that is replayed, change against {first} [95%]",
        ("replayed", *facts.evaluations),
        ">" * (1 + len(facts.evaluations)),
        tuple(
            (formatting.percent(share, 0), *(_change(facts.cells.get((name, x))) for x in facts.evaluations))
            for share, name in (facts.replays if len(facts.replays) > 1 else ())
        ),
    )
    return body(meaning, (values, changes, replays), facts.effects)


def _value(cell: Cell | None) -> str:
    if cell is None:
        return formatting.MISSING
    return formatting.percent(cell.value, 0) if cell.unit == "accuracy" else formatting.decimal(cell.value, 2)


def _change(cell: Cell | None) -> str:
    if cell is None or cell.change is None:
        return formatting.MISSING
    x = cell.change
    if cell.unit == "accuracy":
        value, low, high = (formatting.signed(100 * part, 0) for part in (x.value, x.low, x.high))
        return f"{value} [{low}, {high}]"
    return formatting.decimal_interval(x, 2, plus=True)
