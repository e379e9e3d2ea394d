"""From raw text to token shards, and the conversations of fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from components.data.instruction import InstructionConfig
from components.data.pipeline import DataConfig
from components.data.results import ConversationsResult, CorpusResult, FunnelStep, ShardsResult, TokenizerResult
from components.data.tokenizer import TokenizerConfig
from components.reasoning.puzzle_study_config import PuzzleStudyConfig
from components.reasoning.tasks import SuiteConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.stages.evaluations import held_out_questions, without_held_out
from flows.stages.files import CONVERSATIONS, CORPUS
from storage.artifacts import Artifact


@stage(produces="corpus", group="data", seconds=15)
def prepare_corpus(
    work: Work,
    *,
    config: DataConfig,
    suite: SuiteConfig,
    raw: Mapping[str, Mapping[str, str]],
    evaluations: list[Artifact],
) -> CorpusResult:
    """Read, filter, mask, de-duplicate, decontaminate against our chains and the user's evaluation sets, split.

    `raw`: digests of the user's own files by source; only there so that other bytes make another corpus.
    """
    from components.data.pipeline import prepare, write_corpus

    questions = [problem.question for problem in suite.problems()]
    prepared = prepare(config, [*questions, *held_out_questions(work, evaluations)])
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


@stage(produces="conversations", group="data", seconds=4)
def make_conversations(
    work: Work, *, config: InstructionConfig, suite: SuiteConfig, seed: int, evaluations: list[Artifact]
) -> ConversationsResult:
    """Conversations for fine-tuning, none of them from our chains or the user's evaluation sets."""
    from components.data.conversations import write_conversations
    from components.data.instruction import generate_conversations

    held_out = frozenset(problem.question for problem in suite.problems())
    made = without_held_out(work, evaluations, list(generate_conversations(config, seed, held_out)))
    write_conversations(made, work.out / CONVERSATIONS)
    sources = sorted({conversation.source for conversation in made})
    counts = {source: sum(c.source == source for c in made) for source in sources}
    (work.out / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    return ConversationsResult(len(made), counts)


@stage(produces="conversations", group="reasoning", seconds=15)
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
