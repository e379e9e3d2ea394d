"""From raw text to token shards, and the conversations of fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from components.data.data_config import DataConfig
from components.data.instruction import InstructionConfig
from components.data.results import (
    ConversationSourceFacts,
    ConversationsResult,
    CorpusResult,
    FunnelStep,
    ShardsResult,
    SourceFacts,
    TokenizerResult,
)
from components.data.tokenizer import TokenizerConfig
from components.reasoning.puzzle_study_config import PuzzleStudyConfig
from components.reasoning.tasks import SuiteConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.evaluations import held_out_questions, questions_of, without_held_out
from flows.stages.files import CONVERSATIONS, CORPUS
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.conversations import Conversation
    from components.data.funnel import FunnelRow


MIN_SOLUTION_WORDS = 8


@stage(produces="corpus", group="data", seconds=15, exact=True)
def prepare_corpus(
    work: Work,
    *,
    config: DataConfig,
    suite: SuiteConfig,
    raw: Mapping[str, Mapping[str, str]],
    evaluations: list[Artifact],
) -> CorpusResult:
    """Read, filter, mask, de-duplicate, decontaminate against our chains (questions and solutions) and the user's
    evaluation sets, split. Generated problems share none with our chains to begin with.

    `raw`: digests of the user's own files by source; only there so that other bytes make another corpus.
    """
    from components.data.files import Noted
    from components.data.pipeline import prepare_to
    from components.reasoning.tasks import generate_problem_texts

    held_out = suite.held_out()
    problems = partial(generate_problem_texts, held_out=held_out)
    questions = [*sorted(held_out.questions), *held_out_questions(work, evaluations)]
    # Short answers, such as numbers, stand in any text.
    worked = [one.answer for one in questions_of(work, evaluations) if len(one.answer.split()) >= MIN_SOLUTION_WORDS]
    solutions = [*sorted(held_out.solutions), *worked]
    generators = {"problems": problems}
    prepared = prepare_to(work.out, work.state / "scratch", config, questions, solutions, generators=generators)
    work.rows("quarantine", [dataclasses.asdict(bad) for bad in prepared.quarantined])
    work.rows("removals", [dataclasses.asdict(removal) for removal in prepared.removals])
    work.rows("documents", [dataclasses.asdict(row) for card in prepared.cards for row in card.sample])
    work.rows("funnel", list(_funnel_rows(prepared.funnel)))
    return CorpusResult(
        num_documents=prepared.num_documents,
        num_bytes=prepared.num_bytes,
        num_quarantined=sum(not isinstance(bad, Noted) for bad in prepared.quarantined),
        num_contaminated=prepared.num_contaminated,
        num_duplicates=prepared.num_duplicates,
        masked_pii=prepared.masked,
        funnel=tuple(FunnelStep(row.source, row.step, row.num_documents, row.num_bytes) for row in prepared.funnel),
        sources=tuple(
            SourceFacts(
                name=card.source,
                kind=card.kind,
                licence=card.licence,
                weight=card.weight,
                num_documents=card.num_documents,
                num_whole=card.num_whole,
                num_bytes=card.num_bytes,
                num_valid=card.num_valid,
                languages=card.languages,
                lengths=card.lengths,
            )
            for card in prepared.cards
        ),
    )


def _funnel_rows(funnel: Sequence[FunnelRow]) -> Iterator[dict[str, object]]:
    """Rows of the table `funnel`: what each step left, and below it a row for each reason."""
    steps = list(dict.fromkeys(row.step for row in funnel))
    for row in funnel:
        place = {"source": row.source, "position": steps.index(row.step), "step": row.step}
        yield {**place, "documents": row.num_documents, "bytes": row.num_bytes, "changed": row.num_changed}
        for reason, count in row.removed.items():
            yield {**place, "reason": reason, "removed": count}


@stage(produces="tokenizer", group="data", seconds=5)
def train_tokenizer(work: Work, *, config: TokenizerConfig, corpus: Artifact) -> TokenizerResult:
    """Byte-level BPE over an even share of every source's training text."""
    from components.data.corpus import read_corpus
    from components.data.tokenizer import Tokenizer

    file = work.open(corpus) / CORPUS
    total = sum(len(document.text) for document in read_corpus(file, split="train"))
    keep = max(1, -(-total // config.max_bytes))  # every keep-th document
    texts = (document.text for document in islice(read_corpus(file, split="train"), 0, None, keep))
    tokenizer = Tokenizer.train(texts, config.vocab_size)
    tokenizer.save(work.out)
    held_out = (document.text for document in read_corpus(file, split="valid"))
    sample = list(islice(held_out, 500)) or [document.text for document in islice(read_corpus(file), 500)]
    return TokenizerResult(tokenizer.vocab_size, tokenizer.bytes_per_token(sample))


@stage(produces="token_shards", group="data", seconds=8)
def tokenize(work: Work, *, corpus: Artifact, tokenizer: Artifact) -> ShardsResult:
    """The corpus as packed, memory-mapped shards."""
    from components.data.corpus import read_corpus
    from components.data.shards import TokenShards, write_shards
    from components.data.tokenizer import Tokenizer

    write_shards(read_corpus(work.open(corpus) / CORPUS), Tokenizer.load(work.open(tokenizer)), work.out)
    shards = TokenShards.open(work.out)
    train, valid = shards.num_tokens(split="train"), shards.num_tokens(split="valid")
    work.usage(tokens=train + valid)
    by_source = {source: shards.num_tokens(source, "train") for source in shards.sources}
    return ShardsResult(train, valid, by_source)


@stage(produces="conversations", group="data", seconds=4, exact=True)
def make_conversations(
    work: Work,
    *,
    config: InstructionConfig,
    suite: SuiteConfig,
    seed: int,
    raw: Mapping[str, Mapping[str, str]],
    context_length: int,
    tokenizer: Sequence[Artifact],
    evaluations: list[Artifact],
) -> ConversationsResult:
    """Conversations for fine-tuning, read and generated, none of them with a question or a solution of our chains, or a
    question of the user's evaluation sets.

    `raw`: digests of the user's own files by source; only there so that other bytes make other conversations.
    `tokenizer`, `context_length`: with which they are to be learned, where any are read: what the chat template cannot
    express or the context cannot hold is rejected here, by file and line.
    """
    from components.data.conversations import write_conversations
    from components.data.instruction import generate_conversations

    held_out = suite.held_out()
    forbidden = [*sorted(held_out.questions), *sorted(held_out.solutions), *held_out_questions(work, evaluations)]
    made, facts = _read_conversations(work, config, forbidden, tokenizer, context_length)
    made += without_held_out(work, evaluations, list(generate_conversations(config, seed, held_out)))
    write_conversations(made, work.out / CONVERSATIONS)
    counts = dict(sorted(Counter(conversation.source for conversation in made).items()))
    (work.out / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    return ConversationsResult(len(made), counts, facts or None)


def _read_conversations(
    work: Work,
    config: InstructionConfig,
    forbidden: Sequence[str],
    tokenizer: Sequence[Artifact],
    context_length: int,
) -> tuple[list[Conversation], tuple[ConversationSourceFacts, ...]]:
    """What the sources of files and hub datasets give; what they do not goes to the quarantine table. `forbidden`: what
    no conversation may hold."""
    from components.data.conversation_sources import Reading, read_conversations_of, refusal_of
    from components.data.decontaminate import EvalIndex
    from components.data.files import Quarantined
    from components.data.tokenizer import Tokenizer

    if not config.read:
        return [], ()
    words = Tokenizer.load(work.open(tokenizer[0]))
    refusal = partial(refusal_of, tokenizer=words, context_length=context_length, evaluation=EvalIndex(forbidden))
    made: list[Conversation] = []
    facts = []
    for source in config.read:
        reading, count = Reading(), len(made)
        for item in read_conversations_of(source, reading, refusal):
            if isinstance(item, Quarantined):
                work.rows("quarantine", [dataclasses.asdict(item)])
            else:
                made.append(item)
        layouts, rejected = dict(reading.layouts.most_common()), dict(reading.rejected.most_common(20))
        facts.append(
            ConversationSourceFacts(source.name, reading.files, reading.records, len(made) - count, layouts, rejected)
        )
        print(f"{source.name}: {len(made) - count} conversations; layouts {layouts}; rejected {rejected or 'none'}")
    return made, tuple(facts)


@stage(produces="conversations", group="reasoning", seconds=15, exact=True)
def make_puzzles(work: Work, *, config: PuzzleStudyConfig, seed: int) -> ConversationsResult:
    """Sign puzzles with a solution and states with a verdict, none of them on the way of a held-out puzzle."""
    from components.data.conversations import as_conversations, write_conversations
    from components.reasoning.puzzles import puzzle_conversations, puzzle_suite

    held_out = frozenset(puzzle_suite(config.puzzle, config.seed, config.num_puzzles))
    pairs = puzzle_conversations(seed, config.puzzle, config.judge_share, held_out)
    made = list(as_conversations(islice(pairs, config.num_conversations), "puzzles"))
    write_conversations(made, work.out / CONVERSATIONS)
    return ConversationsResult(len(made))
