"""Every sample on disk as it arrives, by what was asked, so that nothing is asked twice.

One SQLite file; a sample is committed before the next one is looked at, and a killed process loses none. What was asked
has a key: model, prompt, parameters and seed; a sample has its number beside it. What an evaluation used is noted as
well, so that its tokens are the sum over its samples, however often it was killed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt

_SCHEMA = """
CREATE TABLE IF NOT EXISTS asks (ask TEXT PRIMARY KEY, model TEXT, prompt TEXT, params TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    ask TEXT, sample INTEGER, text TEXT, problem TEXT, note TEXT, finished INTEGER, completion_tokens INTEGER,
    prompt_tokens INTEGER, billed_prompt_tokens INTEGER, log_prob REAL, seconds REAL, time REAL,
    PRIMARY KEY (ask, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (run TEXT, ask TEXT, sample INTEGER, PRIMARY KEY (run, ask, sample)) WITHOUT ROWID;
"""
_COLUMNS = "text, problem, note, finished, completion_tokens, prompt_tokens, billed_prompt_tokens, log_prob, seconds"


@dataclass(frozen=True)
class Ledger:
    """What the samples of an evaluation took. calls: requests, as billed. failed: samples that were not to be had."""

    samples: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    failed: int


def key_of(identity: str, prompt: TextPrompt, params: SamplingParams) -> str:
    """sha256 of what was asked of which model, all but the number of samples; without chance there is no seed."""
    asked = [identity, _prompt(prompt), _params(params)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _prompt(prompt: TextPrompt) -> dict[str, Any]:
    return {"user": prompt.user, "prefill": prompt.prefill, "shots": prompt.shots, "stop": prompt.stop}


def _params(params: SamplingParams) -> dict[str, Any]:
    kept = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "ban_ids")
    named = {name: getattr(params, name) for name in kept}
    return named | {"seed": params.seed if params.temperature else 0}


class SampleStore:
    """A context manager; its end closes the file. Several processes may use one file."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, isolation_level=None, timeout=60.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def begin(self, identity: str, asked: Mapping[str, TextPrompt], params: SamplingParams) -> None:
        """Note what keys stand for."""
        shown = json.dumps(_params(params))
        rows = [(key, identity, json.dumps(_prompt(prompt)), shown) for key, prompt in asked.items()]
        self._all_or_nothing("INSERT OR IGNORE INTO asks VALUES (?, ?, ?, ?)", rows)

    def put(self, samples: Sequence[tuple[str, int, TextCompletion]]) -> None:
        """Keep samples by key and number. One that is there stays, unless it had failed."""
        excluded = ", ".join(f"excluded.{name}" for name in (*_COLUMNS.split(", "), "time"))
        self._all_or_nothing(
            f"INSERT INTO samples (ask, sample, {_COLUMNS}, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT DO UPDATE SET ({_COLUMNS}, time) = ({excluded}) WHERE samples.problem = 'failed'",
            [(key, sample, *_values(done), time.time()) for key, sample, done in samples],
        )

    def _all_or_nothing(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(sql, rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def found(self, keys: Sequence[str], count: int) -> dict[str, dict[int, TextCompletion]]:
        """By key, those of its first `count` samples that did not fail."""
        kept: dict[str, dict[int, TextCompletion]] = {key: {} for key in keys}
        for start in range(0, len(keys), 500):
            some = list(keys[start : start + 500])
            rows = self._db.execute(
                f"SELECT ask, sample, {_COLUMNS} FROM samples WHERE problem != 'failed' AND sample < ? AND ask IN "
                f"({', '.join('?' * len(some))})",
                (count, *some),
            )
            for ask, sample, *values in rows:
                kept[ask][sample] = _completion(values)
        return kept

    def use(self, run: str, pairs: Sequence[tuple[str, int]]) -> None:
        """Note that an evaluation used these samples."""
        self._all_or_nothing("INSERT OR IGNORE INTO uses VALUES (?, ?, ?)", [(run, *pair) for pair in pairs])

    def ledger(self, run: str) -> Ledger:
        """What an evaluation used, each sample once."""
        row = self._db.execute(
            "SELECT count(*), total(billed_prompt_tokens > 0 OR billed_prompt_tokens IS NULL), "
            "total(billed_prompt_tokens), total(completion_tokens), total(problem = 'failed') "
            "FROM uses JOIN samples USING (ask, sample) WHERE run = ?",
            (run,),
        ).fetchone()
        return Ledger(*map(int, row))

    def rows(self, run: str) -> Iterator[Mapping[str, Any]]:
        """The samples of an evaluation with what was asked, one after another."""
        cursor = self._db.execute(
            f"SELECT ask, sample, model, prompt, params, {_COLUMNS} FROM uses JOIN samples USING (ask, sample) "
            "JOIN asks USING (ask) WHERE run = ? ORDER BY ask, sample",
            (run,),
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _values(done: TextCompletion) -> tuple[Any, ...]:
    return (
        done.text,
        done.problem,
        done.note,
        int(done.finished),
        done.num_tokens,
        done.prompt_tokens,
        done.billed_prompt_tokens,
        done.log_prob,
        done.seconds,
    )


def _completion(values: Sequence[Any]) -> TextCompletion:
    text, problem, note, finished, tokens, prompt, billed, log_prob, seconds = values
    return TextCompletion(
        text,
        tokens,
        log_prob,
        bool(finished),
        prompt_tokens=prompt,
        problem=problem,
        note=note,
        billed_prompt_tokens=billed,
        seconds=seconds,
    )
