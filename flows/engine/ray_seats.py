"""Seats on the nodes of a Ray cluster: an actor a seat, which holds one worker process on its node.

Ray places the actors by what they take (`[compute.seats]`); what runs in them is the worker of `flows.engine.seats`, so
keys, tables and artifacts are those of a run on one machine. Jobs and events travel as JSON text. Credentials do not
travel: a node has its own environment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import socket
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.engine.device import ON_DEVICE, TRAINING
from flows.engine.seats import LocalSeat, SeatDied, SeatLost, import_path, worker_environment
from flows.engine.wire import Job
from flows.settings import ComputeConfig, ConfigError

GIB = 2**30
_ANSWER_SECONDS = 30.0  # of one remote call


@dataclass(frozen=True)
class SeatKind:
    """What a seat takes of a node."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs"] + [f"{self.gpus:g} GPUs"] * bool(self.gpus)
        parts += [f"{self.memory_gb:g} GiB of memory"] * bool(self.memory_gb)
        parts += [f"the label {name}={value}" for name, value in self.labels]
        return ", ".join(parts)

    def fits(self, node: Mapping[str, Any]) -> int:
        """How many of these an empty node (an entry of `ray.nodes()`) has room for; 0 for a dead one."""
        labels, held = node.get("Labels") or {}, node.get("Resources") or {}
        if not node.get("Alive") or any(labels.get(name) != value for name, value in self.labels):
            return 0
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_gb * GIB}
        return min(int(held.get(name, 0.0) // amount) for name, amount in wanted.items() if amount)


def needs(compute: ComputeConfig, stage: str) -> SeatKind:
    """What the stage of this name takes: its entry in `[compute.seats]`, else the threads of its ranks, and a GPU for
    each where it computes on one."""
    told = compute.seats.get(stage)
    ranks = compute.ranks if stage in TRAINING else 1
    if told is None:
        on_gpu = compute.device.startswith("cuda") and stage in ON_DEVICE
        return SeatKind(float(compute.threads_per_worker * ranks), float(ranks) if on_gpu else 0.0)
    cpus = told.cpus or float(compute.threads_per_worker * ranks)
    return SeatKind(cpus, told.gpus, told.memory_gb, tuple(sorted(told.labels.items())))


class Desk:
    """The actor: a worker process on this node, and what it says. Its methods run in threads of their own."""

    def __init__(self, threads: int, log: str, caches: str, preload: Sequence[str], witness: str) -> None:
        self._missing = "" if not witness or Path(witness).exists() else witness
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        self._starter = ThreadPoolExecutor(1)  # a worker dies with the thread that started it
        arguments = Path(log), worker_environment(threads, Path(caches)), preload
        self._seat = self._starter.submit(LocalSeat, *arguments).result()

    def ready(self) -> dict[str, str]:
        """Who answers, and a file of the home that this node does not see."""
        return {"node": socket.gethostname(), "missing": self._missing}

    def run(self, text: str) -> Iterator[str]:
        """The events of a job as JSON, at the end perhaps one more: `died`."""
        try:
            for event in self._seat.run(Job.from_json(text)):
                yield json.dumps(event)
        except SeatDied as death:
            yield json.dumps({"event": "died", "error": death.error})

    def ask(self) -> None:
        self._seat.ask()

    def kill(self) -> None:
        self._seat.kill()

    def close(self, seconds: float) -> None:
        self._seat.close(seconds)


class RaySeat:
    """One actor, from this side."""

    def __init__(self, actor: Any, log: Path) -> None:
        self._actor = actor
        self.log: Path | None = log
        self.node = ""
        self._answer = actor.ready.remote()
        self._lost = self._left = False

    def ready(self, seconds: float) -> bool:
        import ray

        try:
            if not ray.wait([self._answer], timeout=seconds)[0]:
                return False
            answer = ray.get(self._answer, timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            raise self._gone(error) from error
        if answer["missing"]:
            raise SeatLost(
                f"the node {answer['node']} does not see {answer['missing']}: every node needs the home on the same "
                "path, or in an object store (LIFESPAN_HOME=s3://…)"
            )
        self.node = answer["node"]
        return True

    def alive(self) -> bool:
        return not self._lost

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        import ray

        try:
            for answer in self._actor.run.options(num_returns="streaming").remote(job.to_json()):
                event = json.loads(ray.get(answer, timeout=_ANSWER_SECONDS))
                if event["event"] == "died":
                    raise SeatDied(event["error"])
                yield event
        except ray.exceptions.RayTaskError:
            raise  # a mistake in the actor's code, not a loss
        except ray.exceptions.RayError as error:
            raise self._gone(error) from error
        except SeatDied:
            self._lost = True
            raise

    def ask(self) -> None:
        if not self._lost:
            self._actor.ask.remote()

    def kill(self) -> None:
        if not self._lost:
            self._actor.kill.remote()

    def close(self, seconds: float) -> None:
        """Wait for the worker's end where that was asked for, and give the actor's resources back."""
        import ray

        if self._left:
            return
        self._left = True
        try:
            if not self._lost and seconds > 0 and self.node:
                ray.wait([self._actor.close.remote(seconds)], timeout=seconds + 2.0)
        finally:
            self._lost = True
            with contextlib.suppress(ray.exceptions.RayError):  # its node is gone, or it never came
                ray.kill(self._actor, no_restart=True)

    def _gone(self, error: Exception) -> SeatLost:
        self._lost = True
        where = self.node or "a node"
        return SeatLost(f"{where} of the Ray cluster was lost: {str(error).strip().splitlines()[0]}")


class RaySeats:
    """As many seats as the cluster has room for, by what a stage takes.

    Args:
        compute: `address`, `seats`, `workers`, `threads_per_worker`, `device`.
        logs, caches: folders on the nodes.
        preload: modules that a worker imports while it has no job.
        shared: the home is a folder, which every node has to see.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """

    eager = False

    def __init__(
        self, compute: ComputeConfig, logs: Path, caches: Path, preload: Sequence[str] = (), shared: bool = True
    ) -> None:
        self._compute, self._preload = compute, list(preload)
        self._logs, self._caches = logs, caches
        self._witness = str(logs) if shared else ""
        logs.mkdir(parents=True, exist_ok=True)
        cpus = max(os.cpu_count() or 1, compute.workers * compute.threads_per_worker)
        self._owns = _connect(compute.address, cpus)
        self._lanes: dict[SeatKind, int] = {}

    def kind(self, job: Job) -> SeatKind:
        return needs(self._compute, job.stage.rpartition(":")[2])

    def count(self, kind: Hashable) -> int:
        """At least one: a cluster that grows by demand has to see some."""
        assert isinstance(kind, SeatKind)
        room = sum(kind.fits(node) for node in _nodes())
        most = self._compute.workers if self._compute.workers > 0 else room
        return max(1, min(room, most))

    def missing(self, kind: Hashable) -> str:
        assert isinstance(kind, SeatKind)
        nodes = _nodes()
        if any(kind.fits(node) for node in nodes):
            return ""
        limit, where = self._compute.seat_timeout_seconds, self._compute.address or "on this machine"
        have = "; ".join(described(node) for node in nodes) or "no node at all"
        return (
            f"no machine of the Ray cluster {where} has had {kind} for compute.seat_timeout_seconds = {limit:g}. "
            f"It has {have}. Ask for less in [compute.seats], or add such a machine"
        )

    def open(self, kind: Hashable, number: int) -> RaySeat:
        import ray

        assert isinstance(kind, SeatKind)
        log = self._logs / f"seat-{self._lanes.setdefault(kind, len(self._lanes))}-{number}.log"
        options: dict[str, Any] = {
            "num_cpus": kind.cpus,
            "num_gpus": kind.gpus,
            "max_concurrency": 4,
            "max_restarts": 0,
            "runtime_env": {"env_vars": {"PYTHONPATH": import_path()}},
        }
        if kind.memory_gb:
            options["memory"] = int(kind.memory_gb * GIB)
        if kind.labels:
            options["label_selector"] = dict(kind.labels)
        arguments = self._compute.threads_per_worker, str(log), str(self._caches), self._preload, self._witness
        return RaySeat(ray.remote(Desk).options(**options).remote(*arguments), log)

    def close(self) -> None:
        """Leave the cluster; end it if it is ours."""
        import ray

        if self._owns:
            self._owns = False
            ray.shutdown()


def check_ray(compute: ComputeConfig) -> None:
    """Told before anything runs.

    Raises:
        ConfigError: Ray is not installed, or nobody listens at `compute.address`.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('compute.engine = "ray" needs Ray, which is not installed: pip install ".[ray]"')
    if not compute.address:
        return
    host, _, port = compute.address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f'compute.address is {compute.address!r}: takes host:port of a Ray head, "10.0.0.1:6379"')
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise ConfigError(
            f"compute.address = {compute.address!r}: no Ray cluster answers there ({error.strerror or error}); "
            "`ray start --head` starts one"
        ) from None


def _connect(address: str, cpus: int) -> bool:
    """Join the cluster at the address, or start one of this machine; whether it is ours to end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address and (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray sets it itself only for a cluster that it starts
    import ray

    if ray.is_initialized():
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"compute.address = {address!r}: cannot join this Ray cluster: {reason}") from error
    return True


def _nodes() -> list[dict[str, Any]]:
    """The cluster's living nodes; none when its head does not answer."""
    import ray

    try:
        return [node for node in ray.nodes() if node["Alive"]]
    except Exception:  # Ray has no one class for this; who asks then finds no room, and waits
        return []


def described(node: Mapping[str, Any]) -> str:
    """`10.0.0.7 with 8 CPUs, 1 GPUs, 30.2 GiB`."""
    held = node.get("Resources") or {}
    parts = [f"{held.get('CPU', 0.0):g} CPUs"] + [f"{held['GPU']:g} GPUs"] * ("GPU" in held)
    return f"{node['NodeManagerAddress']} with {', '.join(parts)}, {held.get('memory', 0.0) / GIB:.1f} GiB"
