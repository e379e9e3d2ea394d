"""Rows of an evaluation in the home's tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.engine.work import now
from storage.home import Home
from storage.redaction import masked

if TYPE_CHECKING:
    from components.reasoning.endpoints.store import SampleStore
    from components.reasoning.evaluation import Answers
    from components.reasoning.tally import Tally

STAGE = "evaluate_task"
PART_ROWS = 20_000


@dataclass
class Keeper:
    """Writes rows of the home's tables, a part a chunk: the same evaluation writes the same parts."""

    home: Home
    run_id: str
    key: str
    model: str
    _parts: int = 0

    @property
    def _own(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "key": self.key, "stage": STAGE}

    def answers(self, answers: Answers) -> None:
        from components.reasoning.evaluate import tree_rows
        from components.reasoning.evaluation import rows_of

        part = f"{self.key}-{self._parts:06}"
        self._parts += 1
        self.home.tables.write("evals", part, [{**self._own, **row} for row in rows_of(answers, self.model)])
        if trees := [{**self._own, **row} for row in tree_rows(answers.strategy, answers.items, answers.outcomes)]:
            self.home.tables.write("trees", part, trees)

    def samples(self, store: SampleStore) -> None:
        rows = store.rows(self.key)
        for number in itertools.count():
            some = [self._sample(row) for row in itertools.islice(rows, PART_ROWS)]
            if not some:
                return
            self.home.tables.write("samples", f"{self.key}-{number:06}", some)

    def _sample(self, row: Any) -> dict[str, Any]:
        prompt, params = json.loads(row["prompt"]), json.loads(row["params"])
        before = "".join(f"{user}\n{assistant}\n\n" for user, assistant in prompt["shots"])
        return {
            **self._own,
            "prompt": before + prompt["user"] + (f"\n{prompt['prefill']}" if prompt["prefill"] else ""),
            "completion": row["text"],
            "tokens": row["completion_tokens"],
            "model": masked(row["model"]),
            "sample": row["sample"],
            "seed": params["seed"] if params["temperature"] else None,
            "status": row["problem"],
            "prompt_tokens": row["prompt_tokens"]
            if row["billed_prompt_tokens"] is None
            else row["billed_prompt_tokens"],
            "seconds": row["seconds"],
        }

    def metrics(self, tallies: Sequence[Tally], usd: Sequence[float | None]) -> None:
        rows = []
        for tally, price in zip(tallies, usd, strict=True):
            one = tally.report(price)
            values = {
                "accuracy": one.of_all.value,
                "without_answer": one.without_answer,
                "completion_tokens": one.completion_tokens,
                "prompt_tokens": one.prompt_tokens,
                "calls": one.calls,
            } | ({"usd": one.usd} if one.usd is not None else {})
            rows += [
                {**self._own, "step": 0, "name": f"{name}/{tally.strategy.name}", "value": value, "time": now()}
                for name, value in values.items()
            ]
        self.home.tables.write("metrics", self.key, rows)
