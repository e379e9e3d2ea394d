"""What the dashboard is given from above: what runs now, how to start and stop it, models to talk with, other pages.

The dashboard reads a home and imports nothing that orchestrates; whoever serves it passes these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def _nothing() -> Mapping[str, Any]:
    return {}


def _no_links() -> Sequence[tuple[str, str]]:
    return ()


@dataclass(frozen=True)
class Outside:
    """Functions of whoever serves the dashboard; None where something cannot be done.

    Attributes:
        running: the boards of the runs that go on now, by run id, as `lifespan status` reads them.
        services: name and address of the other pages that are up (MLflow, Prefect).
        profiles: names of the profiles that can be run.
        start: begins a run of a profile with overrides like `pretrain.steps=10`; returns a sentence.
        stop: asks a run to end; returns a sentence.
        models: names of the models that can be asked.
        answer: pieces of a model's answer: name, prompt, temperature, most tokens.
        prefer: stores that one of two answers is better: prompt, chosen, rejected, and whose they are; returns a
            sentence.
        tracked: from the address of MLflow's pages and the id of a run, the address of that run there; "" for none.
        annotation: the application of the annotation page, if it is to be part of this one.

    `start`, `stop`, `answer` and `prefer` raise ValueError with a sentence for the user.
    """

    running: Callable[[], Mapping[str, Any]] = _nothing
    services: Callable[[], Sequence[tuple[str, str]]] = _no_links
    profiles: tuple[str, ...] = ()
    start: Callable[[str, Sequence[str]], str] | None = None
    stop: Callable[[str], str] | None = None
    models: Callable[[], Sequence[str]] | None = None
    answer: Callable[[str, str, float, int], Iterator[str]] | None = None
    prefer: Callable[[str, str, str, Mapping[str, str]], str] | None = None
    tracked: Callable[[str, str], str] | None = None
    annotation: Any = None

    @property
    def mlflow(self) -> str:
        """The address of MLflow's pages; "" while they are not up, or runs cannot be found there."""
        at = dict(self.services()).get("MLflow", "") if self.tracked else ""
        return at if at.startswith(("http://", "https://")) else ""
