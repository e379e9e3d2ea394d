"""The graph of a run: an assembly evaluated without running anything.

An assembly calls `stage.submit(run, …)` and passes handles on. A handle has its key at once, because keys depend on
settings, code and input keys alone; facts come only with the run, and asking for them in an assembly is an error.
So the same assembly serves the run and the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from flows.engine.wire import Job, artifacts_to_json, travelling
from flows.settings import ConfigError
from storage.artifacts import Artifact
from storage.fingerprint import plain

if TYPE_CHECKING:
    from flows.engine.stage import Bound, Stage
    from flows.settings import ComputeConfig
    from storage.home import Home


class FactsNotKnown(TypeError):
    """An assembly looked at the facts of an artifact that is not made yet."""


class _NoFacts(Mapping[str, Any]):
    def __init__(self, label: str) -> None:
        self._label = label

    def _refuse(self) -> NoReturn:
        raise FactsNotKnown(
            f"the facts of {self._label} are not known before it ran: pass the artifact on and let the stage read them"
        )

    def __getitem__(self, name: str) -> Any:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __repr__(self) -> str:
        return f"<facts of {self._label}, not made yet>"


@dataclass(frozen=True)
class Node:
    """A stage in a run.

    Attributes:
        label: unique name in the run.
        needs: labels of the stages whose artifacts it takes, in the order of their use.
        priority: set by the assembly, else None.
    """

    label: str
    stage: Stage
    bound: Bound
    key: str
    needs: tuple[str, ...]
    priority: float | None = None

    def job(self, run_id: str, home: Home, execution: ComputeConfig, made: Mapping[str, Artifact]) -> Job:
        """The job for a worker; `made` holds the real artifacts of the inputs by key."""
        return Job(
            stage=self.stage.address,
            label=self.label,
            key=self.key,
            run_id=run_id,
            home=home.root,
            home_local=str(home.local),
            arguments=self.bound.arguments,
            inputs={name: artifacts_to_json(replaced(value, made)) for name, value in self.bound.inputs.items()},
            identity=plain(self.bound.identity.config),
            code=self.bound.identity.code,
            execution=travelling(execution),
        )


class Graph:
    """Collects the stages of a run in the order in which the assembly names them. `compute`: of the run, for keys."""

    def __init__(self, compute: ComputeConfig | None = None) -> None:
        self.compute = compute
        self.nodes: dict[str, Node] = {}
        self._label_of: dict[str, str] = {}

    def add(self, stage: Stage, label: str, priority: float | None, arguments: Mapping[str, Any]) -> Artifact:
        """Called by `Stage.submit`."""
        if label in self.nodes:
            raise ValueError(f"two stages are called {label!r} in this run: give one a label of its own")
        bound = stage.bind(self.compute, **arguments)
        key = bound.identity.key
        used = [artifact.key for artifact in artifacts_in(bound.inputs)]
        needs = dict.fromkeys(self._label_of[one] for one in used if one in self._label_of)
        self.nodes[label] = Node(label, stage, bound, key, tuple(needs), priority)
        self._label_of.setdefault(key, label)
        return Artifact(stage.produces, key, _NoFacts(label))

    def made(self, kind: str) -> dict[str, Artifact]:
        """Handles of the artifacts of one kind that the assembly named so far, by label."""
        found = {label: node for label, node in self.nodes.items() if node.stage.produces == kind}
        return {label: Artifact(kind, node.key, _NoFacts(label)) for label, node in found.items()}

    def priorities(self) -> dict[str, float]:
        """By label, the seconds of the longest path that starts there: what holds up most goes first."""
        dependants: dict[str, list[str]] = {label: [] for label in self.nodes}
        for node in self.nodes.values():
            for need in node.needs:
                dependants[need].append(node.label)
        result: dict[str, float] = {}
        for label, node in reversed(self.nodes.items()):  # an assembly can only use what it named before
            below = max((result[other] for other in dependants[label]), default=0.0)
            result[label] = node.stage.seconds + below if node.priority is None else node.priority
        return result

    def only(self, names: Sequence[str]) -> Graph:
        """The part of the graph that these stages need, themselves included; by label, stage name or group.

        Raises:
            ConfigError: nothing has one of the names.
        """
        wanted: set[str] = set()
        for name in names:
            found = [label for label, node in self.nodes.items() if name in (label, node.stage.name, node.stage.group)]
            if not found:
                raise ConfigError(f"--only: no stage {name!r} in this run; there are {', '.join(self.nodes)}")
            wanted.update(found)
        for label, node in reversed(self.nodes.items()):
            if label in wanted:
                wanted.update(node.needs)
        part = Graph(self.compute)
        part.nodes = {label: node for label, node in self.nodes.items() if label in wanted}
        part._label_of = {key: label for key, label in self._label_of.items() if label in wanted}
        return part


def assemble(assembly: Callable[[Any, Graph], Any], cfg: Any) -> Graph:
    """Evaluate an assembly."""
    graph = Graph(cfg.compute)
    assembly(cfg, graph)
    return graph


def artifacts_in(inputs: Mapping[str, Any]) -> Iterator[Artifact]:
    for value in inputs.values():
        if isinstance(value, Artifact):
            yield value
        elif isinstance(value, Mapping):
            yield from value.values()
        else:
            yield from value


def replaced(value: Any, made: Mapping[str, Artifact]) -> Any:
    """Handles exchanged for the artifacts that were made."""
    if isinstance(value, Artifact):
        return made[value.key]
    if isinstance(value, Mapping):
        return {name: replaced(item, made) for name, item in value.items()}
    return [replaced(item, made) for item in value]
