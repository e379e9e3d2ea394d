"""`lifespan plan`: what a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.graph import Graph
from storage.artifacts import Record, Store
from storage.fingerprint import explain, nearest


@dataclass(frozen=True)
class Step:
    """One stage of the plan; `reasons` is empty when it is cached."""

    label: str
    stage: str
    group: str
    key: str
    cached: bool
    reasons: tuple[str, ...]


def plan(graph: Graph, store: Store) -> list[Step]:
    """For each stage in the order of the assembly: cached, or will run and why."""
    why = reasons_to_run(graph, store)
    return [
        Step(node.label, node.stage.name, node.stage.group, node.key, node.label not in why, tuple(why.get(node.label, ())))
        for node in graph.nodes.values()
    ]


def reasons_to_run(graph: Graph, store: Store) -> dict[str, list[str]]:
    """By label of each stage that is not sealed: what changed since the most similar earlier artifact of that stage."""
    missing = {label: node for label, node in graph.nodes.items() if store.find(node.key) is None}
    if not missing:
        return {}
    records: dict[str, list[Record]] = {}
    for record in store.records():
        records.setdefault(record.stage, []).append(record)
    causes: dict[str, str] = {}
    why: dict[str, list[str]] = {}
    for label, node in missing.items():
        identity = node.bound.identity
        old = nearest(records.get(node.stage.name, ()), identity)
        why[label] = explain(old, identity, causes) or ["its artifact is gone or was damaged"]
        causes[node.key] = f"{label} runs again"
    return why


def totals(steps: list[Step]) -> Mapping[str, int]:
    return {"cached": sum(step.cached for step in steps), "will run": sum(not step.cached for step in steps)}
