"""The answer is JSON that fits a schema (https://json-schema.org, draft 2020-12), by the package `jsonschema`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from components.reasoning.scoring.text import code_block, spoken
from components.rlhf.rewards.answers import RewardError, Sample, Score, missing, verdict


@dataclass(frozen=True)
class JsonSchemaReward:
    """1 where the answer is JSON that fits: the last fenced block, else the whole text.

    schema: the schema as JSON text; path: a file that holds it; one of the two. References to other documents are
    refused, so nothing is fetched.
    """

    kind: Literal["json_schema"] = "json_schema"
    name: str = ""
    weight: float = 1.0
    schema: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if bool(self.schema) == bool(self.path):
            raise ValueError("give schema (JSON text) or path (a file with it), one of the two")
        if self.schema:
            _validator(self.schema, "schema")

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the reward reads; their bytes are part of what it is."""
        return (self.path,) if self.path else ()

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """It needs no reference."""
        return ""

    def score(self, sample: Sample) -> Score:
        text = spoken(sample.completion)
        block = code_block(text, "json")
        body = (text if block is None else block).strip()
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return missing(sample)
        return verdict(self._fits(value), body)

    def _fits(self, value: Any) -> bool:
        if self.schema:
            return bool(_validator(self.schema, "schema").is_valid(value))
        try:
            text = Path(self.path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RewardError(f"{self.path}: {error}") from None
        return bool(_validator(text, self.path).is_valid(value))


@cache
def _validator(text: str, where: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        schema = json.loads(text)
        Draft202012Validator.check_schema(schema)
    except (json.JSONDecodeError, SchemaError) as error:
        raise RewardError(f"{where} is no JSON schema: {str(error).splitlines()[0]}") from None
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise RewardError(f"{where} refers to {reference}: write it out under $defs, nothing is fetched")
    return Draft202012Validator(schema)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema[name] for name in ("$ref", "$dynamicRef") if isinstance(schema.get(name), str)]
        return own + [x for value in schema.values() for x in _references(value)]
    return [x for item in schema for x in _references(item)] if isinstance(schema, list) else []
