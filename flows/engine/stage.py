"""A stage: a plain function that makes one artifact, and all that a platform needs to know about it.

How to write a stage (in `flows/stages/`; keep imports at the top light, import torch-heavy components inside):

    @stage(produces="checkpoint", group="pretraining", seconds=90)
    def pretrain(work: Work, *, config: PretrainConfig, seed: int, shards: Artifact) -> PretrainResult:
        for step, record in enumerate(train(config, seed, work.open(shards))):   # a generator of components/
            work.log(step, record); work.progress(step, config.steps, tokens=…, loss=…); work.usage(tokens=…, flops=…)
        save_checkpoint(model, work.out)                                         # what lies in work.out is the artifact
        return PretrainResult(num_params=…, loss=…)                              # a dataclass; its fields are the facts

Arguments that are artifacts (or lists, tuples, dicts of them) are inputs; all others are identity settings, made of
dataclasses, scalars and tuples. A stage whose result is the same bytes whatever the threads and the device, as of pure
text, says `exact=True`; for all others both are part of the key. To survive a kill: `work.load_state()` first, then
`work.save_state(…)` whenever `work.state_due()`.

How to write an assembly, one line per stage; it serves for the run and for `lifespan plan`, so it cannot look at facts.
It reads nothing either: what lies outside is read once before and handed to it.

    def lifecycle_graph(cfg: RunConfig, run: Graph, outside: Outside) -> None:
        corpus = build_corpus.submit(run, config=cfg.data, raw=outside.sources)
        shards = tokenize.submit(run, config=cfg.tokenizer, corpus=corpus)
        for beta in cfg.ppo.kl_coefs:
            ppo.submit(run, label=f"ppo[kl_coef={beta}]", config=replace(cfg.ppo.base, kl_coef=beta), shards=shards)

In a unit test call the function itself: `pretrain.fn(Work(out, state, store=store), config=…, seed=0, shards=…)`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from flows.engine.wire import arrived, input_keys, travelling
from flows.settings import ComputeConfig
from storage.artifacts import Artifact
from storage.fingerprint import Identity, code_fingerprint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

StageFunction = Callable[..., "DataclassInstance"]


class Assembly(Protocol):
    """What collects the stages of a run: `flows.engine.graph.Graph`."""

    def add(self, stage: Stage, label: str, priority: float | None, arguments: Mapping[str, Any]) -> Artifact:
        """The handle of the artifact that the stage will make."""
        ...


@dataclass(frozen=True)
class Bound:
    """A stage with its arguments, checked and told apart.

    Attributes:
        settings: as the function wants them.
        arguments: the same as JSON that survives the trip to a worker.
        inputs: artifacts, or lists or dicts of them, by parameter.
        identity: what the key is made of.
    """

    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    inputs: Mapping[str, Any]
    identity: Identity


@dataclass(frozen=True)
class Stage:
    """A stage's function with its name and what it makes; see the module's text.

    Attributes:
        fn: the plain function `(work, **arguments) -> result`, a dataclass of components/stage_results.py.
        produces: kind of the artifact.
        group: part of the life: data, pretraining, sft, rlhf, scaling, moe, architecture, emergence, reasoning, cost or
            report.
        seconds: about how long it takes with the default profile; only orders the work (longest path first).
        exact: its result does not depend on the number of threads or the device, so neither is in its key.
    """

    fn: StageFunction
    produces: str
    group: str
    seconds: float = 10.0
    exact: bool = False

    @property
    def name(self) -> str:
        return self.fn.__name__

    @property
    def address(self) -> str:
        """`module:function`, by which a worker finds it."""
        return f"{self.fn.__module__}:{self.fn.__qualname__}"

    @cached_property
    def hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.fn)

    def bind(self, compute: ComputeConfig | None = None, /, **arguments: Any) -> Bound:
        """Check the arguments against the function's signature and tell inputs from settings. `compute`: of the run, by
        default as it is by default.

        Raises:
            TypeError: missing or unknown argument, missing annotation, or a setting that has no JSON form.
        """
        try:
            bound = inspect.signature(self.fn).bind(None, **arguments)
        except TypeError as error:
            raise TypeError(f"stage {self.name}: {error}") from None
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        inputs = {name: value for name, value in given.items() if is_input(value, self.hints.get(name))}
        settings = {name: value for name, value in given.items() if name not in inputs}
        sent: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in self.hints:
                raise TypeError(f"stage {self.name}: parameter {name} has no annotation, so a worker can't rebuild it")
            sent[name] = travelling(value)
            if arrived(name, sent[name], self.hints[name]) != value:
                raise TypeError(f"stage {self.name}: parameter {name} changes on its way through JSON: {value!r}")
        numerics = {} if self.exact else {"compute": (compute or ComputeConfig()).numerics}
        identity = Identity(self.name, settings | numerics, input_keys(inputs), code_fingerprint(self.fn))
        return Bound(settings, sent, inputs, identity)

    def key(self, **arguments: Any) -> str:
        """The key of what this stage would make from these arguments: name, settings, input keys, code."""
        return self.bind(**arguments).identity.key

    def submit(
        self, run: Assembly, *, label: str | None = None, priority: float | None = None, **arguments: Any
    ) -> Artifact:
        """Put the stage into the graph of a run; the handle returned has a key, and facts only once it ran.

        Args:
            run: the graph that the assembly was handed.
            label: unique name in the run where a stage appears more than once: `ppo[kl_coef=0.1]`.
            priority: higher starts earlier; by default the seconds of the longest path that hangs on it.
        """
        return run.add(self, label or self.name, priority, arguments)


def stage(*, produces: str, group: str, seconds: float = 10.0, exact: bool = False) -> Callable[[StageFunction], Stage]:
    """Make a function a stage. `produces` is the artifact's kind, `group` the part of the life it belongs to; `exact`:
    see `Stage`."""

    def wrap(fn: StageFunction) -> Stage:
        parameters = list(inspect.signature(fn).parameters.values())
        if not parameters or parameters[0].name != "work":
            raise TypeError(
                f"stage {fn.__name__}: its first parameter is the Work: def {fn.__name__}(work: Work, *, …)"
            )
        if any(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters[1:]):
            raise TypeError(f"stage {fn.__name__}: arguments after `work` are given by name: put a * after it")
        if any(p.name == "compute" for p in parameters):
            raise TypeError(f"stage {fn.__name__}: `compute` is the run's own, see work.execution: name it otherwise")
        return Stage(fn, produces, group, seconds, exact)

    return wrap


def is_input(value: Any, annotation: Any) -> bool:
    """True for an artifact and for collections of artifacts; the annotation decides for an empty collection."""
    if isinstance(value, Artifact):
        return True
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        return False
    if not items:
        return mentions_artifact(annotation)
    found = [isinstance(item, Artifact) for item in items]
    if any(found) and not all(found):
        raise TypeError("a collection holds artifacts or settings, not both")
    return all(found)


def mentions_artifact(annotation: Any) -> bool:
    return annotation is Artifact or any(mentions_artifact(part) for part in typing.get_args(annotation))
