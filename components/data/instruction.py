"""What fine-tuning learns from: a user's conversations, and problems and stories that we generate."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.data.conversation_formats import Fields
from components.data.files import RECORD_ENDINGS, digests, hub_files, list_files
from components.data.stories import generate_story_conversations
from components.reasoning.tasks import HeldOutProblems, Style, chain_problem, prompt, response

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

    from components.data.conversations import Conversation

Kind = Literal["files", "hub", "sums", "stories"]


@dataclass(frozen=True)
class ConversationSource:
    """One source of conversations.

    kind: files (path: a file, folder, pattern or fsspec URL; JSON lines, JSON arrays, CSV or Parquet, plain or
    compressed), hub (path: ``owner/dataset`` of the Hugging Face hub, a file pattern may follow), sums (problems of 1
    to max_difficulty operations, the share worked_share with worked answers, the rest answered at once), stories.

    weight: of files and hub datasets, how often each conversation is taken in a pass over the data: 2 is twice, 0.5 is
    half of them; of generated kinds, as a multiple of `InstructionConfig.num_conversations`. fields: names that differ
    from the usual ones, see `components/data/conversation_formats.py`. max_bad_share: the stage stops when more of the
    records than this share are no conversation that can be taken. revision: of a hub dataset.
    """

    name: str
    kind: Kind = "files"
    path: str = ""
    weight: float = 1.0
    fields: Fields = field(default_factory=Fields)
    max_bad_share: float = 0.1
    revision: str = "main"
    worked_share: float = 0.5
    max_difficulty: int = 6

    def __post_init__(self) -> None:
        where = self.where
        if not self.name:
            raise ValueError("an instruction source has no name")
        if self.generated == bool(self.path):
            raise ValueError(f"{where}: kind {self.kind!r} takes {'no path' if self.generated else 'a path'}")
        if not self.weight > 0:
            raise ValueError(f"{where}: weight is {self.weight}; it takes a number above 0")
        for name in ("max_bad_share", "worked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{where}: {name} is {getattr(self, name)}; it takes a share from 0 to 1")
        if self.max_difficulty < 1:
            raise ValueError(f"{where}: max_difficulty is {self.max_difficulty}; it takes a number of at least 1")

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"instruction source {self.name!r}"

    @property
    def generated(self) -> bool:
        """Whether our own code writes it."""
        return self.kind in ("sums", "stories")


@dataclass(frozen=True)
class InstructionConfig:
    """num_conversations: how many a generated source of weight 1 has; several share them out by their weights, in
    random order."""

    num_conversations: int = 12_000
    sources: tuple[ConversationSource, ...] = (
        ConversationSource("stories", "stories", weight=0.3),
        ConversationSource("sums", "sums", weight=0.7),
    )

    def __post_init__(self) -> None:
        if self.num_conversations < 1:
            raise ValueError(f"num_conversations is {self.num_conversations}; it takes a number of at least 1")
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            twice = next((name for name in names if names.count(name) > 1), "")
            raise ValueError(f"instruction source {twice!r} is named twice" if names else "no instruction source")

    @property
    def generated(self) -> tuple[ConversationSource, ...]:
        return tuple(source for source in self.sources if source.generated)

    @property
    def read(self) -> tuple[ConversationSource, ...]:
        """The sources that are read, not generated."""
        return tuple(source for source in self.sources if not source.generated)


def files_of(
    source: ConversationSource, filesystem: AbstractFileSystem | None = None
) -> tuple[AbstractFileSystem, list[str]]:
    """Where the files of a source lie. `filesystem` stands in for the hub or the local disk. Raises SourceError where
    there are none."""
    if source.kind == "hub":
        return hub_files(source.where, source.path, source.revision, filesystem)
    return list_files(source.where, source.path, RECORD_ENDINGS, filesystem)


def conversation_digests(source: ConversationSource) -> dict[str, str]:
    """sha256 of each file of the user's own by its path below the source. Empty for what is generated, and for hub
    datasets, which their revision tells apart. Raises SourceError where there is no such file."""
    return digests(*files_of(source)) if source.kind == "files" else {}


def generate_conversations(config: InstructionConfig, seed: int, held_out: HeldOutProblems) -> Iterator[Conversation]:
    """The conversations of all generated sources, mixed by their weights; no problem is used that `held_out` (of the
    evaluation set) forbids. Their sources are stories, worked and direct."""
    from components.data.conversations import Conversation  # brings torch, which reading settings does without

    sources = config.generated
    total = sum(source.weight for source in sources)
    rng = random.Random(f"instruction-{seed}")
    stories = generate_story_conversations(seed)
    made = 0
    while made < round(config.num_conversations * total):
        source = _drawn(sources, rng.random() * total)
        if source.kind == "stories":
            request, text = next(stories)
            yield Conversation.turn(request, text, "stories")
        else:
            problem = chain_problem(rng, rng.randint(1, source.max_difficulty))
            if held_out.forbids(problem):
                continue
            style: Style = "worked" if rng.random() < source.worked_share else "direct"
            yield Conversation.turn(prompt(problem, style), response(problem, style), style)
        made += 1


def _drawn(sources: Sequence[ConversationSource], place: float) -> ConversationSource:
    """The source in whose stretch of the weights the place lies."""
    for source in sources[:-1]:
        if place < source.weight:
            return source
        place -= source.weight
    return sources[-1]
