"""A report as sections of sentences and compact tables: what the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.statistics import Interval
from dashboards import formatting
from dashboards.alignment_section import alignment_section, grpo_section
from dashboards.architecture import moe_section, recurrent_section
from dashboards.blocks import Section, Table, body, counted, effect_of, listing, said
from dashboards.facts.cost import CostFacts, total
from dashboards.facts.effects import Missing
from dashboards.facts.reasoning import ReasoningFacts, TreeFacts
from dashboards.facts.scaling import EmergenceFacts, FittedParameter, ScalingFacts
from dashboards.facts.scores import Score
from dashboards.facts.training import DataFacts, FinetuningFacts, TrainingFacts
from dashboards.forgetting_section import forgetting_section
from dashboards.report_model import LifeReport


def sections(report: LifeReport) -> tuple[Section, ...]:
    """The parts in the order of a life."""
    parts: tuple[tuple[str, str, Any, Callable[[Any], Section]], ...] = (
        ("data", "Data and tokenizer", report.data, _data),
        ("pretraining", "Pretraining", report.pretraining, _pretraining),
        ("finetuning", "Fine-tuning", report.finetuning, _finetuning),
        ("rlhf", "RLHF: preference, proxy and gold", report.alignment, alignment_section),
        ("grpo", "GRPO: rewards that can be checked", report.grpo, grpo_section),
        ("forgetting", "Forgetting", report.forgetting, forgetting_section),
        ("scaling", "Scaling law", report.scaling, _scaling),
        ("emergence", "Emergence", report.emergence, _emergence),
        ("moe", "Mixture of experts", report.moe, moe_section),
        ("recurrent", "A recurrent net beside the transformer", report.recurrent, recurrent_section),
        ("reasoning", "Reasoning when it answers", report.reasoning, _reasoning),
        ("tree", "Tree of Thought at equal tokens", report.tree, _tree),
        ("cost", "Cost, of raising and of serving", report.cost, _cost),
    )
    return tuple(
        Section(slug, title, "", missing=facts.reason) if isinstance(facts, Missing) else make(facts)
        for slug, title, facts, make in (_titled(part) for part in parts)
    )


def _titled(
    part: tuple[str, str, Any, Callable[[Any], Section]],
) -> tuple[str, str, Any, Callable[[Any], Section]]:
    slug, title, facts, make = part

    def named(found: Any) -> Section:
        section = make(found)
        return Section(slug, title, section.meaning, section.tables, section.effects)

    return slug, title, facts, named


def _data(data: DataFacts) -> Section:
    pairs = [
        ("documents kept", formatting.count(data.num_documents)),
        ("bytes kept", formatting.size(data.num_bytes)),
        ("duplicates removed", formatting.count(data.duplicates)),
        ("personal data masked", formatting.count(data.masked_pii)),
        ("records in quarantine", formatting.count(sum(n for _, n in data.quarantined))),
        ("vocabulary", formatting.count(data.vocab_size)),
        ("bytes a token", formatting.decimal(data.bytes_per_token, 2)),
        ("tokens", formatting.count(data.num_tokens)),
    ]
    cells = {(step.source, step.step): step for step in data.funnel}
    funnel = Table(
        "Documents (bytes) left after each step",
        ("source", *data.steps),
        "<" + ">" * len(data.steps),
        tuple((source, *(_left(cells.get((source, step))) for step in data.steps)) for source in data.sources),
    )
    quarantine = Table(
        "Quarantine",
        ("reason", "records"),
        "<>",
        tuple((reason, formatting.count(n)) for reason, n in data.quarantined),
    )
    kept = f"{formatting.count(data.num_documents)} documents, {formatting.size(data.num_bytes)}"
    meaning = (
        f"What the model reads: {kept} after cleaning" if data.num_documents is not None else "What the model reads"
    )
    if data.bytes_per_token is not None:
        meaning += f", packed at {data.bytes_per_token:.2f} bytes a token"
    return body(meaning + ".", (funnel, listing("In numbers", pairs), quarantine))


def _left(step: Any) -> str:
    return formatting.MISSING if step is None else f"{formatting.count(step.documents)} ({formatting.size(step.bytes)})"


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
        "Held-out loss by source (nats a token)",
        ("source", "before", "loss", "change", "bits a byte"),
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
        ("held-out loss, nats a token", formatting.decimal(training.loss)),
        ("tokens a second, median", formatting.count(training.tokens_per_second)),
        ("share of the peak FLOP/s (MFU), median", formatting.percent(training.mfu)),
    ]
    if training.skipped_steps:
        back = f"; went back {training.rollbacks} times" if training.rollbacks else ""
        pairs.append(("steps skipped, loss or gradient not finite", f"{training.skipped_steps:,}{back}"))
    if watched := training.early_stop:
        kept = f"{watched['best_loss']:.3f} after {watched['best_step']:,.0f} steps"
        pairs.append(("lowest held-out loss on conversations (kept)", kept))
        if watched["overfitting"] > 0:
            ended = f"{watched['last_loss']:.3f} after {watched['last_step']:,.0f} steps"
            pairs.append(
                ("last held-out loss on conversations", f"{ended}: overfitting by {watched['overfitting']:.3f}")
            )
    return listing("In numbers", pairs)


def _pretraining(training: TrainingFacts) -> Section:
    curve = training.curve.values
    if len(curve) > 1:
        meaning = f"Training loss fell from {curve[0]:.2f} to {curve[-1]:.2f} nats a token"
    else:
        meaning = "The base model"
    if training.num_tokens is not None:
        meaning += f" over {formatting.count(training.num_tokens)} tokens"
    if training.bits_per_byte:
        low, high = min(training.bits_per_byte.values()), max(training.bits_per_byte.values())
        meaning += f"; held-out text costs {low:.2f}" + (f" to {high:.2f}" if high > low else "") + " bits a byte"
    tables = (_losses(training.losses_by_source, training.bits_per_byte, {}), _training_listing(training))
    return body(meaning + ".", tables)


def _finetuning(facts: FinetuningFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "finetuning"),
        "Fine-tuning turns a model that continues text into one that answers.",
        "Fine-tuning did not make the model more accurate.",
    )
    training = facts.training
    tables = (_losses(training.losses_by_source, training.bits_per_byte, facts.before), _training_listing(training))
    return body(meaning, tables, facts.effects)


def _fitted(p: FittedParameter) -> str:
    """A and B are large and loose: three decimals would feign a precision."""
    digits = 3 if max(abs(p.value), p.high or 0.0) < 10 else 1
    if p.low is None or p.high is None:
        return formatting.decimal(p.value, digits)
    return formatting.decimal_interval(Interval(p.value, p.low, p.high, p.n or 0), digits)


SYMBOLS = {"alpha": "α", "beta": "β"}


def _scaling(facts: ScalingFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "forecast"),
        "A law fitted to small runs told the loss of a larger one before it was trained.",
        "The larger run was not where the law said.",
    )
    fits = Table(
        "Fitted laws",
        ("law", "parameter", "value [95%]", "n", "method"),
        "<<>><",
        tuple(
            (
                p.law,
                SYMBOLS.get(p.name, p.name),
                _fitted(p),
                formatting.count(p.n),
                p.method,
            )
            for p in facts.parameters
        ),
    )
    forecasts = Table(
        "Forecasts, made before the run",
        ("target", "parameters", "tokens", "predicted [95%]", "observed", "in interval"),
        "<>>>><",
        tuple(
            (
                f.target,
                formatting.count(f.num_params),
                formatting.count(f.tokens),
                formatting.decimal(f.predicted)
                if f.low is None or f.high is None
                else formatting.decimal_interval(Interval(f.predicted, f.low, f.high, 0)),
                formatting.decimal(f.observed),
                {True: "yes", False: "no", None: "not scored"}[f.inside],
            )
            for f in facts.forecasts
        ),
    )
    pairs = [
        ("points", formatting.count(len(facts.points) or None)),
        ("parameters counted as", facts.params_kind or formatting.MISSING),
        ("true irreducible loss, nats a token", formatting.decimal(facts.truth)),
        *(("the fit warns", warning) for warning in facts.warnings),
    ]
    return body(meaning, (forecasts, fits, listing("In numbers", pairs)), facts.effects)


def _emergence(facts: EmergenceFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "emergence"),
        "The ability seems to appear at once when only whole answers count; the log-probability shows it coming.",
        "No size here was surprising under one metric and expected under the other.",
    )
    table = Table(
        "By model size",
        ("parameters", "exact match [95%]", "n", "log-probability a token"),
        ">>>>",
        tuple(
            (
                formatting.count(p.num_params),
                formatting.percent_interval(p.exact_match),
                counted(p.exact_match),
                formatting.signed(p.log_prob, 3),
            )
            for p in facts.points
        ),
    )
    return body(meaning, (table,), facts.effects)


def _score_rows(scores: Iterable[Score]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            s.model,
            s.strategy,
            formatting.percent_interval(s.accuracy),
            f"{s.accuracy.n:,}",
            formatting.count(None if s.tokens is None else round(s.tokens)),
            formatting.count(None if s.prompt_tokens is None else round(s.prompt_tokens)),
        )
        for s in scores
    )


_SCORE_COLUMNS = ("model", "strategy", "accuracy [95%]", "n", "tokens an item", "prompt tokens")


def _reasoning(facts: ReasoningFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "chain_of_thought"),
        "The same weights answer far better when they may write the steps down: thinking costs tokens, not training.",
        "Writing the steps down did not help this model.",
    )
    levels = sorted({level for s in facts.scores if s.model == facts.model for level in s.by_difficulty})
    shown = [s for s in facts.scores if s.model == facts.model and s.by_difficulty]
    difficulty = Table(
        f"Accuracy of {facts.model} by number of operations",
        ("strategy", *(str(level) for level in levels)),
        "<" + ">" * len(levels),
        tuple(
            (
                s.strategy,
                *(
                    formatting.percent(x.value, 0) if (x := s.by_difficulty.get(level)) else formatting.MISSING
                    for level in levels
                ),
            )
            for s in shown
        ),
    )
    scores = Table("Accuracy against tokens", _SCORE_COLUMNS, "<<>>>>", _score_rows(facts.scores))
    return body(meaning, (scores, difficulty), facts.effects)


def _tree(facts: TreeFacts) -> Section:
    meaning = said(
        effect_of(facts.effects, "tree_of_thought"),
        "Searching over partial solutions solves more puzzles than spending the same tokens on whole ones.",
        "Searching over partial solutions solved no more puzzles than spending the same tokens on whole ones.",
    )
    table = Table("Accuracy against tokens", _SCORE_COLUMNS, "<<>>>>", _score_rows(facts.scores))
    return body(meaning, (table,), facts.effects)


def _cost(facts: CostFacts) -> Section:
    groups = list(dict.fromkeys(line.group for line in facts.lines))

    def row(name: str, lines: list[Any]) -> tuple[str, ...]:
        return (
            name,
            formatting.count(total(lines, "tokens")),
            formatting.count(total(lines, "flops")),
            formatting.duration(total(lines, "seconds")),
            formatting.energy(total(lines, "energy_joules")),
            formatting.dollars(total(lines, "usd")),
        )

    rows = [row(group or "other", [line for line in facts.lines if line.group == group]) for group in groups]
    if rows:
        rows.append(row("whole life", list(facts.lines)))
        fresh = [line for line in facts.lines if not line.cached]
        if len(fresh) < len(facts.lines):
            rows.append(row("of it paid by this run", fresh))
    spent = Table(
        "By part of the life", ("part", "tokens", "FLOPs", "time", "energy", "dollars"), "<>>>>>", tuple(rows)
    )
    pairs = [
        ("training", formatting.dollars(facts.training_usd)),
        ("a million output tokens", formatting.dollars(facts.price_per_million)),
        ("decode tokens a second", formatting.count(facts.decode_tokens_per_second)),
        ("break-even, output tokens", formatting.count(facts.break_even_tokens)),
        ("hardware", facts.hardware or formatting.MISSING),
    ]
    meaning = "Training is paid once, answers every time"
    if facts.break_even_tokens is not None:
        meaning += (
            f": after {formatting.count(facts.break_even_tokens)} output tokens serving has cost as much as training"
        )
    tables = (spent, listing("Serving", pairs), _comparisons(facts.comparisons))
    return body(f"{meaning}. {facts.decision}".rstrip(), tables, facts.effects)


def _comparisons(entries: tuple[Mapping[str, Any], ...]) -> Table:
    columns = tuple(dict.fromkeys(("name", *(str(key) for entry in entries for key in entry)))) if entries else ()
    align = "".join("<" if column == "name" else ">" for column in columns)
    cells = tuple(tuple(_cell(column, entry.get(column)) for column in columns) for entry in entries)
    return Table("Compared", tuple(column.replace("_", " ") for column in columns), align, cells)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return formatting.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return formatting.dollars(value) if "usd" in column else formatting.count(value)
    return str(value)
