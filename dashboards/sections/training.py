"""Sections on the data, on pretraining and on fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dashboards import formatting
from dashboards.blocks import Section, Table, body, effect_of, listing, said
from dashboards.facts.training import DataFacts, FinetuningFacts, FunnelStep, TrainingFacts


def data_section(data: DataFacts) -> Section:
    """What is left of each source after each step, and what the tokenizer makes of it."""
    pairs = [
        ("documents kept", formatting.count(data.num_documents)),
        ("bytes kept", formatting.size(data.num_bytes)),
        ("duplicates removed", formatting.count(data.duplicates)),
        ("personal data masked", formatting.count(data.masked_pii)),
        ("records in quarantine", formatting.count(sum(n for _, n in data.quarantined))),
        ("vocabulary", formatting.count(data.vocab_size)),
        ("bytes per token", formatting.decimal(data.bytes_per_token, 2)),
        ("tokens", formatting.count(data.num_tokens)),
    ]
    cells = {(step.source, step.step): step for step in data.funnel}
    funnel = Table(
        "Documents (bytes) left after each step",
        ("source", *data.steps),
        "<" + ">" * len(data.steps),
        tuple((source, *(_left(cells.get((source, step))) for step in data.steps)) for source in data.sources),
        folded=True,
    )
    reasons = Table(
        "Why documents were removed",
        ("step", "reason", "documents"),
        "<<>",
        tuple((step.replace("_", " "), reason, formatting.count(n)) for (step, reason), n in data.reasons.items()),
    )
    quarantine = Table(
        "Quarantine",
        ("reason", "records"),
        "<>",
        tuple((reason, formatting.count(n)) for reason, n in data.quarantined),
    )
    conversations = Table(
        "Conversations of fine-tuning",
        ("source", "records", "rejected", "taken", "layouts found"),
        "<>>><",
        tuple(_conversations(data)),
    )
    kept = f"{formatting.count(data.num_documents)} documents, {formatting.size(data.num_bytes)}"
    meaning = (
        f"What the model reads: {kept} after cleaning" if data.num_documents is not None else "What the model reads"
    )
    if data.bytes_per_token is not None:
        meaning += f", packed at {data.bytes_per_token:.2f} bytes per token"
    meaning += "." + "".join(
        f" Of {source.name} fine-tuning takes {formatting.count(source.num_conversations)} conversations, found as "
        f"{', '.join(source.layouts)}, and leaves {formatting.count(sum(source.rejected.values()))} records out."
        for source in data.read
    )
    return body(meaning, (listing("In numbers", pairs), reasons, funnel, conversations, quarantine))


def _conversations(data: DataFacts) -> Iterator[tuple[str, ...]]:
    """A row for each source: of those that are read what became of their records, of generated ones their number."""
    read = {source.name: source for source in data.read}
    for name, count in data.conversations.items():
        taken = formatting.count(count)
        if (source := read.get(name)) is None:
            yield name, *[formatting.MISSING] * 2, taken, "generated"
            continue
        numbers = (source.num_records, sum(source.rejected.values()))
        layouts = ", ".join(f"{layout}: {formatting.count(n)}" for layout, n in source.layouts.items())
        yield name, *map(formatting.count, numbers), taken, layouts


def _left(step: FunnelStep | None) -> str:
    return formatting.MISSING if step is None else f"{formatting.count(step.documents)} ({formatting.size(step.bytes)})"


def pretraining_section(training: TrainingFacts) -> Section:
    """Where the training loss came from and went, and what held-out text costs."""
    curve = training.curve.values
    if len(curve) > 1:
        meaning = f"Training loss fell from {curve[0]:.2f} to {curve[-1]:.2f} nats per token"
    else:
        meaning = "The base model"
    if training.num_tokens is not None:
        meaning += f" over {formatting.count(training.num_tokens)} tokens"
    if training.bits_per_byte:
        low, high = min(training.bits_per_byte.values()), max(training.bits_per_byte.values())
        meaning += f"; held-out text costs {low:.2f}" + (f" to {high:.2f}" if high > low else "") + " bits per byte"
    tables = (_losses(training.losses_by_source, training.bits_per_byte, {}), _training_listing(training))
    return body(meaning + ".", tables)


def finetuning_section(facts: FinetuningFacts) -> Section:
    """What fine-tuning taught, and what it cost on held-out text."""
    meaning = said(
        effect_of(facts.effects, "finetuning"),
        "Fine-tuning turns a model that continues text into one that answers.",
        "Fine-tuning did not make the model more accurate.",
    )
    training = facts.training
    parts = listing(
        "Conversations, no two parts with a prompt in common",
        [(part, formatting.count(count)) for part, count in facts.conversations.items()],
    )
    losses = _losses(training.losses_by_source, training.bits_per_byte, facts.before)
    return body(meaning, (losses, parts, _training_listing(training)), facts.effects)


def _losses(losses: Mapping[str, float], bits: Mapping[str, float], before: Mapping[str, float]) -> Table:
    rows = []
    for source in dict.fromkeys((*losses, *bits)):
        earlier, now = before.get(source), losses.get(source)
        change = None if earlier is None or now is None else now - earlier
        rows.append(
            (
                source,
                formatting.decimal(earlier),
                formatting.decimal(now),
                formatting.signed(change, 3),
                formatting.decimal(bits.get(source), 2),
            )
        )
    table = Table(
        "Held-out loss by source (nats per token)",
        ("source", "before", "loss", "change", "bits per byte"),
        "<>>>>",
        tuple(rows),
    )
    empty = {i for i in range(5) if all(row[i] == formatting.MISSING for row in rows)}
    return _without(table, empty)


def _without(table: Table, columns: set[int]) -> Table:
    def keep(cells: Iterable[str]) -> tuple[str, ...]:
        return tuple(cell for i, cell in enumerate(cells) if i not in columns)

    return Table(table.title, keep(table.columns), "".join(keep(table.align)), tuple(keep(row) for row in table.rows))


def _training_listing(training: TrainingFacts) -> Table:
    pairs = [
        ("parameters", formatting.count(training.num_params)),
        ("tokens", formatting.count(training.num_tokens)),
        ("held-out loss, nats per token", formatting.decimal(training.loss)),
        ("tokens per second, median", formatting.count(training.tokens_per_second)),
        ("share of the peak FLOP/s (MFU), median", formatting.percent(training.mfu)),
    ]
    if training.skipped_steps:
        back = f"; rolled back {training.rollbacks} times" if training.rollbacks else ""
        pairs.append(("steps skipped, loss or gradient not finite", f"{training.skipped_steps:,}{back}"))
    if watched := training.early_stop:
        kept = f"{watched['best_loss']:.3f} after {watched['best_step']:,.0f} steps"
        pairs.append(("lowest loss on validation conversations (kept)", kept))
        if watched["overfitting"] > 0:
            ended = f"{watched['last_loss']:.3f} after {watched['last_step']:,.0f} steps"
            pairs.append(
                ("last loss on validation conversations", f"{ended}: overfitting by {watched['overfitting']:.3f}")
            )
    return listing("In numbers", pairs)
