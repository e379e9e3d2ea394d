"""From raw text to token shards, and the conversations of fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from components.data.instruction import InstructionConfig
from components.data.pipeline import DataConfig
from components.data.results import (
    ConversationSourceFacts,
    ConversationsResult,
    CorpusResult,
    FunnelStep,
    ShardsResult,
    TokenizerResult,
)
from components.data.tokenizer import TokenizerConfig
from components.reasoning.puzzle_study_config import PuzzleStudyConfig
from components.reasoning.tasks import SuiteConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.evaluations import held_out_questions, without_held_out
from flows.stages.files import CONVERSATIONS, CORPUS
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.data.conversations import Conversation


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
    from components.data.pipeline import prepare, write_corpus
    from components.reasoning.tasks import generate_problem_texts

    held_out = suite.held_out()
    problems = partial(generate_problem_texts, held_out=held_out)
    questions = [*sorted(held_out.questions), *held_out_questions(work, evaluations)]
    prepared = prepare(config, questions, sorted(held_out.solutions), generators={"problems": problems})
    write_corpus(prepared.documents, work.out / CORPUS)
    work.rows("quarantine", [dataclasses.asdict(bad) for bad in prepared.quarantined])
    num_bytes = sum(len(document.text.encode()) for document in prepared.documents)
    return CorpusResult(
        num_documents=len(prepared.documents),
        num_bytes=num_bytes,
        num_quarantined=len(prepared.quarantined),
        num_contaminated=len(prepared.overlaps),
        num_duplicates=prepared.num_duplicates,
        masked_pii=prepared.masked,
        funnel=tuple(FunnelStep(row.source, row.step, row.num_documents, row.num_bytes) for row in prepared.funnel),
    )


@stage(produces="tokenizer", group="data", seconds=5)
def train_tokenizer(work: Work, *, config: TokenizerConfig, corpus: Artifact) -> TokenizerResult:
    """Byte-level BPE over an even share of every source's training text."""
    from components.data.pipeline import read_corpus
    from components.data.tokenizer import Tokenizer

    file = work.open(corpus) / CORPUS
    texts = [document.text for document in read_corpus(file, split="train")]
    total = sum(map(len, texts))
    keep = max(1, -(-total // config.max_bytes))  # every keep-th document
    tokenizer = Tokenizer.train(texts[::keep], config.vocab_size)
    tokenizer.save(work.out)
    sample = [document.text for document in read_corpus(file, split="valid")][:500]
    return TokenizerResult(tokenizer.vocab_size, tokenizer.bytes_per_token(sample))


@stage(produces="token_shards", group="data", seconds=8)
def tokenize(work: Work, *, corpus: Artifact, tokenizer: Artifact) -> ShardsResult:
    """The corpus as packed, memory-mapped shards."""
    from components.data.pipeline import read_corpus
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
    from itertools import islice

    from components.data.conversations import as_conversations, write_conversations
    from components.reasoning.puzzles import puzzle_conversations, puzzle_suite

    held_out = frozenset(puzzle_suite(config.puzzle, config.seed, config.num_puzzles))
    pairs = puzzle_conversations(seed, config.puzzle, config.judge_share, held_out)
    made = list(as_conversations(islice(pairs, config.num_conversations), "puzzles"))
    write_conversations(made, work.out / CONVERSATIONS)
    return ConversationsResult(len(made))
