"""`lifespan plan`: what a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.engine.graph import Graph
from storage.artifacts import Record
from storage.fingerprint import explain, nearest
from storage.home import Home


@dataclass(frozen=True)
class Step:
    """One stage of the plan; `reasons` is empty when it is cached."""

    label: str
    stage: str
    group: str
    key: str
    cached: bool
    reasons: tuple[str, ...]


def plan(graph: Graph, home: Home) -> list[Step]:
    """For each stage in the order of the assembly: cached, or will run and why."""
    why = reasons_to_run(graph, home)
    return [
        Step(label, node.stage.name, node.stage.group, node.key, label not in why, tuple(why.get(label, ())))
        for label, node in graph.nodes.items()
    ]


def reasons_to_run(graph: Graph, home: Home) -> dict[str, list[str]]:
    """By label of each stage that is not sealed: what changed since it was last made.

    The artifact to compare with is the last one made under this label; for a new label the most similar of the stage.
    """
    missing = {label: node for label, node in graph.nodes.items() if home.store.find(node.key) is None}
    if not missing:
        return {}
    records: dict[str, list[Record]] = {}
    for record in home.store.records():
        records.setdefault(record.stage, []).append(record)
    made = last_keys(home)
    causes: dict[str, str] = {}
    why: dict[str, list[str]] = {}
    for label, node in missing.items():
        identity = node.bound.identity
        own = records.get(node.stage.name, [])
        old = next((record for record in own if record.key == made.get((node.stage.name, label))), None)
        why[label] = explain(old or nearest(own, identity), identity, causes) or ["its artifact is gone or was damaged"]
        causes[node.key] = f"{label} runs again"
    return why


def last_keys(home: Home) -> dict[tuple[str, str], str]:
    """By stage and label: the key of the artifact that the last run with it made or found."""
    rows = home.tables.read("stages", ["stage", "label", "key", "status", "ended_at"]).to_pylist()
    ended = [row for row in rows if row["status"] in ("ran", "cached") and row["ended_at"]]
    return {(row["stage"], row["label"]): row["key"] for row in sorted(ended, key=lambda row: row["ended_at"])}


def totals(steps: list[Step]) -> Mapping[str, int]:
    return {"cached": sum(step.cached for step in steps), "will run": sum(not step.cached for step in steps)}
