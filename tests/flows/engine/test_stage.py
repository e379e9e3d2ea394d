"""Stages and graphs: what is identity, what is input, what an assembly may do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toy_life
from toy_life import Counted, Counting, ToyConfig, count, scale, total

from flows.engine.graph import FactsNotKnown, Graph, assemble
from flows.engine.stage import stage
from flows.engine.work import Work
from storage.artifacts import Artifact


@dataclass(frozen=True)
class Sets:
    names: frozenset[str] = frozenset({"a"})


def test_the_function_itself_runs_in_a_unit_test(tmp_path: Path) -> None:
    work = Work(tmp_path, tmp_path / "state")
    assert count.fn(work, config=Counting(4)) == Counted(4)
    assert (tmp_path / "numbers.json").read_text() == "[0, 1, 2, 3]"
    assert [row[2] for row in work.metrics()] == [0.0, 1.0, 2.0, 3.0]


def test_key_depends_on_settings_inputs_and_nothing_else() -> None:
    base = count.key(config=Counting(3), seed=1)
    assert count.key(seed=1, config=Counting(3)) == base
    assert count.key(config=Counting(3, pause=0.0), seed=1) == base
    assert count.key(config=Counting(4), seed=1) != base
    assert count.key(config=Counting(3)) == count.key(config=Counting(3), seed=0) != base
    a, b = Artifact("corpus", "a" * 64), Artifact("corpus", "b" * 64)
    assert scale.key(numbers=a, factor=1.0) != scale.key(numbers=b, factor=1.0)
    assert scale.key(numbers=Artifact("corpus", "a" * 64, {"n": 3}), factor=1.0) == scale.key(numbers=a, factor=1.0)
    assert total.key(parts=[a, b]) != total.key(parts=[b, a])


def test_arguments_are_checked_before_anything_runs() -> None:
    with pytest.raises(TypeError, match="stage scale: missing a required"):
        scale.key(factor=1.0)
    with pytest.raises(TypeError, match=r"stage scale: .*'factr'"):
        scale.key(numbers=Artifact("corpus", "a" * 64), factor=1.0, factr=1.0)
    with pytest.raises(TypeError, match="artifacts or settings, not both"):
        total.key(parts=[Artifact("corpus", "a" * 64), 3])


def test_settings_that_cannot_be_an_identity_are_refused() -> None:
    @stage(produces="corpus", group="data")
    def odd(work: Work, *, config: Sets) -> dict[str, Any]:
        return {}

    with pytest.raises(TypeError, match="order is not fixed"):
        odd.key(config=Sets())


def test_a_stage_must_say_what_it_takes() -> None:
    with pytest.raises(TypeError, match="first parameter is the Work"):

        @stage(produces="corpus", group="data")
        def nothing() -> dict[str, Any]:
            return {}

    with pytest.raises(TypeError, match="given by name"):

        @stage(produces="corpus", group="data")
        def positional(work: Work, seed: int) -> dict[str, Any]:
            return {}


def test_assembly_gives_keys_and_edges_without_running() -> None:
    graph = assemble(toy_life.toy_graph, ToyConfig())
    assert list(graph.nodes) == ["count", "scale[factor=1.0]", "scale[factor=2.0]", "total"]
    assert graph.nodes["total"].needs == ("scale[factor=1.0]", "scale[factor=2.0]")
    assert graph.nodes["count"].key == count.key(config=Counting(3))
    again = assemble(toy_life.toy_graph, ToyConfig())
    assert [node.key for node in again.nodes.values()] == [node.key for node in graph.nodes.values()]


def test_an_assembly_cannot_look_at_facts() -> None:
    with pytest.raises(FactsNotKnown, match="facts of count are not known"):
        count.submit(Graph(), config=Counting()).facts["num_tokens"]


def test_labels_are_unique() -> None:
    run = Graph()
    count.submit(run, config=Counting())
    with pytest.raises(ValueError, match="two stages are called 'count'"):
        count.submit(run, config=Counting(4))


def test_what_holds_up_most_goes_first() -> None:
    @stage(produces="corpus", group="data", seconds=100.0)
    def long(work: Work, *, numbers: Artifact) -> dict[str, Any]:
        return {}

    run = Graph()
    first = count.submit(run, config=Counting(1))
    other = count.submit(run, label="other", config=Counting(2))
    long.submit(run, numbers=other)
    scale.submit(run, numbers=first, factor=1.0)
    urgent = count.submit(run, label="urgent", priority=1e6, config=Counting(3))
    assert urgent.kind == "corpus"
    assert run.priorities() == {"count": 20.0, "other": 110.0, "long": 100.0, "scale": 10.0, "urgent": 1e6}


def test_only_keeps_what_is_needed() -> None:
    graph = assemble(toy_life.toy_graph, ToyConfig())
    assert list(graph.only(["scale[factor=2.0]"]).nodes) == ["count", "scale[factor=2.0]"]
    assert list(graph.only(["pretraining"]).nodes) == ["count", "scale[factor=1.0]", "scale[factor=2.0]"]
    with pytest.raises(ValueError, match="no stage 'sft'"):
        graph.only(["sft"])
