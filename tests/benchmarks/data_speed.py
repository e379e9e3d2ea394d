"""Speed of data preparation per second of CPU: `make bench`, or with the megabytes of input as an argument.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/data_speed.py 20

Documents of 2,400 characters are made of the packaged speeches, sentences of three passages shuffled. No time is
asserted anywhere: the table is for reading.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path

from components.data.corpus import read_corpus
from components.data.data_config import DataConfig
from components.data.dedup import DedupConfig, near_duplicates
from components.data.filters.language import languages_of
from components.data.filters.quality import QualityConfig, quality_reasons
from components.data.filters.words import shingle_words
from components.data.normalise import normalise
from components.data.packaged import sotu_speeches
from components.data.passages import cut_passages
from components.data.personal import mask_personal, may_hold_personal
from components.data.pipeline import CORPUS, prepare_to
from components.data.repair import repair
from components.data.shards import write_shards
from components.data.source_config import SourceConfig
from components.data.tokenizer import Tokenizer

CHARS = 2400
PEER_DOCUMENTS = 4000


def documents(num_bytes: int) -> Iterator[str]:
    rng = random.Random(0)
    passages = [p for _, text in sotu_speeches()[0] for p in cut_passages(text.splitlines(keepends=True), CHARS)]
    long = [p for p in passages if len(p) > CHARS // 2]
    written = 0
    while written < num_bytes:
        sentences = [sentence for passage in rng.sample(long, 3) for sentence in passage.split(". ")]
        rng.shuffle(sentences)
        text = ". ".join(sentences)[:CHARS]
        written += len(text)
        yield text


def cpu(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def show(what: str, count: float, seconds: float, unit: str = "documents") -> None:
    print(f"{what:64} {count / seconds:12,.0f} {unit} per CPU second", flush=True)


def pipeline(folder: Path, num_bytes: int) -> Path:
    file = folder / "input.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        count = sum(bool(lines.write(json.dumps({"text": text}) + "\n")) for text in documents(num_bytes))
    config = DataConfig((SourceConfig("speeches", "jsonl", str(file)),))
    languages_of(["The model is loaded before."])
    seconds = cpu(lambda: prepare_to(folder, folder / "scratch", config))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    show(f"the whole pipeline, {num_bytes / 1e6:.0f} MB, peak of {peak:.0f} MB of memory", count, seconds)
    return folder / CORPUS


def steps(texts: list[str]) -> None:
    clean = [normalise(text) for text in texts]
    actions: dict[str, Callable[[], object]] = {
        "repair": lambda: [repair(text) for text in texts],
        "normalise": lambda: [normalise(text) for text in texts],
        "language": lambda: languages_of(clean),
        "quality": lambda: quality_reasons(clean, QualityConfig(), ["en"] * len(clean)),
        "personal data": lambda: [mask_personal(text) for text in compress(clean, may_hold_personal(clean))],
    }
    for name, action in actions.items():
        show(f"  {name}", len(texts), cpu(action))


def near(texts: list[str]) -> None:
    config = DedupConfig()
    ours = cpu(lambda: near_duplicates(texts, config))
    show("near duplicates, ours", len(texts), ours)
    try:
        import rensa
    except ImportError:
        print("near duplicates, rensa: not installed")
        return

    def peer() -> None:
        """The same shingles and bands; candidates are compared by their signatures, not exactly as ours are."""
        num = config.bands * config.rows
        index = rensa.RMinHashLSH(threshold=config.threshold, num_perm=num, num_bands=config.bands)
        for key, text in enumerate(texts):
            words = shingle_words(text)
            sketch = rensa.RMinHash(num_perm=num, seed=42)
            sketch.update([" ".join(words[i : i + config.ngram]) for i in range(len(words) - config.ngram + 1)])
            index.query(sketch)
            index.insert(key, sketch)

    theirs = cpu(peer)
    show(f"near duplicates, rensa (ours is {theirs / ours:.2f} times as fast)", len(texts), theirs)


def tokenizing(corpus: Path, folder: Path) -> None:
    texts = [document.text for document in read_corpus(corpus)]
    tokenizer = Tokenizer.train(texts[:1000], 8192)
    bare = cpu(lambda: [tokenizer.encode_batch(texts[i : i + 256]) for i in range(0, len(texts), 256)])
    whole = cpu(lambda: write_shards(read_corpus(corpus), tokenizer, folder / "shards"))
    size = sum(map(len, texts)) / 1e6
    show("the encoder alone", size, bare, "MB")
    show(f"tokenising to shards ({whole / bare:.2f} times the encoder's time)", size, whole, "MB")


def main() -> None:
    num_bytes = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 20_000_000
    with tempfile.TemporaryDirectory() as folder:
        corpus = pipeline(Path(folder), num_bytes)
        texts = list(documents(PEER_DOCUMENTS * CHARS))
        steps(texts)
        near(texts)
        if num_bytes <= 50_000_000:
            tokenizing(corpus, Path(folder))


if __name__ == "__main__":
    main()
