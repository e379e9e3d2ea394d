"""One TOML file in, checked and frozen settings out; every mistake is named where it was made.

A profile is a name from `flows/profiles/` or a path to a file of the user's own, which may start from another one
with `extends = "laptop"`. `--set a.b=c` goes on top. The sections are the plain frozen dataclasses of the components;
this module does the checking for them: unknown settings at any depth, wrong types, wrong values.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.cost.accounting import AVERAGE_PUE
from components.cost.hardware import find_hardware
from components.cost.ledger import AVERAGE_CARBON_GRAMS_PER_KWH, Rates
from components.cost.prices import find_price

PROFILES = Path(__file__).parent / "profiles"
MOST_WORKERS = 8  # more than a life has stages ready at a time


@dataclass(frozen=True)
class SeatConfig:
    """What a stage takes of the cluster's machine that it runs on.

    `cpus`: 0 for compute.threads_per_worker. `labels`: of Ray's nodes, by name, as in
    {"ray.io/accelerator-type" = "H100"}.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gb: float = 0.0  # 0: as much as there is
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if min(self.cpus, self.gpus, self.memory_gb) < 0:
            raise ValueError("cpus, gpus and memory_gb must be 0 or more")


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how stages run.

    Two settings are part of the key of every stage that computes, because they change in which order numbers are added
    and so the last bits of a result: threads_per_worker and device. The others change no result and enter no key. The
    same key gives the same bits on processors with the same instructions and with the same versions of the libraries.
    """

    # Processes side by side; 0 runs stages in the calling process, -1 takes one for every threads_per_worker cores.
    workers: int = -1
    # Two workers of one thread train faster than one of two up to d256 (docs/log.md).
    threads_per_worker: int = 1
    device: str = "cpu"
    hardware: str = "cpu-core"  # name in the `hardware` table, whose power sets the energy of the cost rows
    usd_per_core_hour: float = (
        -1.0  # of a busy core, or of an accelerator; -1: the price of `hardware` in the table `prices`
    )
    pue: float = AVERAGE_PUE  # energy of the data centre over that of its devices
    carbon_grams_per_kwh: float = AVERAGE_CARBON_GRAMS_PER_KWH  # of the grid; the default: the world's average of 2024
    # A killed stage loses at most about this much work, or as much as takes 19 times what saving its state does.
    checkpoint_seconds: float = 20.0
    grace_seconds: float = 5.0  # what stages have to save their state when a run is ended by SIGTERM or Ctrl-C
    stage_timeout_seconds: float = 0.0  # a stage that runs longer is ended and has failed; 0: no limit
    # Where the workers are: on this machine, or on the nodes of a Ray cluster (docs/cluster.md). With "ray" and
    # workers = -1 there are as many as the cluster can hold.
    engine: Literal["local", "ray"] = "local"
    address: str = ""  # of the Ray cluster, "10.0.0.1:6379"; empty starts one on this machine
    # By stage, what it takes of a machine of the cluster.
    seats: Mapping[str, SeatConfig] = field(default_factory=dict, hash=False)
    seat_timeout_seconds: float = 60.0  # a stage fails when no machine has had what it takes for so long
    # Processes of one machine that pretraining and fine-tuning are spread over, launched by torchrun. "ddp" keeps the
    # model whole on each, "fsdp2" shards it. They add in another order than one process does, so the last bits differ,
    # as a facts' `ranks` records; the key does not, so that what many ranks saved may go on on fewer.
    ranks: int = 1
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    rank_restarts: int = 2  # how often all ranks begin again from the last state when one was killed

    def __post_init__(self) -> None:
        if self.workers < -1:
            raise ValueError("workers must be 0 or more, or -1 for one for every threads_per_worker cores")
        if self.threads_per_worker < 1:
            raise ValueError("threads_per_worker must be 1 or more")
        if self.ranks < 1 or self.rank_restarts < 0:
            raise ValueError("ranks must be 1 or more, rank_restarts 0 or more")
        if self.seat_timeout_seconds <= 0:
            raise ValueError("seat_timeout_seconds must be above 0")
        if self.engine == "local" and self.address:
            raise ValueError(f'address is {self.address!r}, which engine = "ray" alone joins: set compute.engine=ray')
        if self.engine == "ray" and not self.workers:
            raise ValueError('workers = 0 runs stages in this process, and engine = "ray" on the nodes of a cluster')
        if not 1 <= self.pue < 100:
            raise ValueError(f"pue is {self.pue}: power usage effectiveness is at least 1, such as 1.2")
        if not self.carbon_grams_per_kwh >= 0:
            raise ValueError(f"carbon_grams_per_kwh is {self.carbon_grams_per_kwh}: give a number of at least 0")
        find_hardware(self.hardware)
        if self.usd_per_core_hour == -1:
            object.__setattr__(self, "usd_per_core_hour", find_price(self.hardware).usd_per_hour)
        if not self.usd_per_core_hour >= 0:
            raise ValueError(
                f"usd_per_core_hour is {self.usd_per_core_hour}: give a number of at least 0, or -1 for the price of "
                "hardware in the table prices"
            )

    @property
    def rates(self) -> Rates:
        """What the ledger reckons with."""
        return Rates(self.device, self.hardware, self.usd_per_core_hour, self.pue, self.carbon_grams_per_kwh)

    @property
    def numerics(self) -> dict[str, str | int]:
        """What the bits of a result depend on."""
        return {"device": self.device, "threads_per_worker": self.threads_per_worker}

    def counted(self) -> ComputeConfig:
        """The same settings with the number of workers that -1 stands for on this machine."""
        if self.workers >= 0 or self.engine == "ray":
            return self
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return dataclasses.replace(self, workers=max(1, min(MOST_WORKERS, cores // self.threads_per_worker)))


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may cost at most; 0: no limit. A run whose estimate is above it does not start, and one that reaches
    it stops as by Ctrl-C: what is sealed stays, and stages with a saved state resume."""

    max_usd: float = 0.0
    max_hours: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_usd", "max_hours"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0, or 0 for no limit")


class Settings(BaseModel):
    """What every run has; a flow's own settings are a subclass with a dataclass for each section."""

    # No setting takes nan or an infinity: neither could be part of an artifact's identity.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "life"
    seed: int = 0
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    # Whom and what a run is booked to, such as team and project: columns of no table, see the view `run_tags`.
    tags: Mapping[str, str] = Field(default_factory=dict)
    # Settings that were chosen so that effects show, by dotted path, each with the reason: the report lists them. What
    # overrides such a setting removes its entry.
    chosen: Mapping[str, str] = Field(default_factory=dict)

    @classmethod
    def in_full(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """The settings without abbreviations, before they are checked. Raises ValueError for one that means nothing."""
        return dict(data)


class ConfigError(ValueError):
    """One or more mistakes in settings, a line each, ready to be shown to the user."""


C = TypeVar("C", bound=Settings)


@dataclass(frozen=True)
class Source:
    """Where settings came from: a TOML file with its text, or the command line."""

    name: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def holds(self, path: Sequence[str]) -> bool:
        here: Any = self.data
        for part in path:
            if not isinstance(here, Mapping) or part not in here:
                return False
            here = here[part]
        return True

    def where(self, path: Sequence[str]) -> str:
        """`file.toml:12` for the line that sets the field, else just the name."""
        line = find_line(self.text, path)
        return f"{self.name}:{line}" if line else self.name


def profile_names() -> list[str]:
    return sorted(file.stem for file in PROFILES.glob("*.toml"))


def load(profile: str | Path, overrides: Sequence[str], model: type[C]) -> C:
    """Read a profile, lay the overrides over it, check everything.

    Raises ConfigError with all mistakes found, a line each: file and line, dotted field, what was found, what it
    takes, and the nearest right name.
    """
    sources = read_profile(profile)
    sources.append(parse_overrides(overrides, model))
    merged: dict[str, Any] = {}
    for source in sources:
        merged = merge(_without_overridden(merged, source), source.data)
    merged.setdefault("name", Path(profile).stem)
    return check(merged, sources, model)


def _without_overridden(merged: dict[str, Any], source: Source) -> dict[str, Any]:
    """`merged` without the reasons for settings that the source sets, wholly or in part, to something else."""
    chosen = merged.get("chosen")
    if not isinstance(chosen, Mapping):
        return merged
    return merged | {"chosen": {path: why for path, why in chosen.items() if not source.holds(path.split("."))}}


def check(data: Mapping[str, Any], sources: Sequence[Source], model: type[C]) -> C:
    """Validate merged settings; `sources` (weakest first) say where a mistake was made."""

    def where(path: Sequence[str]) -> str:
        for length in range(len(path), 0, -1):  # of `sizes.1` the file knows `sizes`
            for source in reversed(sources):
                if source.holds(path[:length]):
                    return source.where(path[:length])
        return sources[0].name if sources else "settings"

    try:
        data = model.in_full(data)
    except ValueError as error:
        raise ConfigError(f"{where([str(error).partition(':')[0]])}: {error}") from None
    problems = [f"{where(path)}: {text}" for path, text in unknown_settings(model, data, ())]
    chosen = data.get("chosen")
    for path in chosen if isinstance(chosen, Mapping) else ():
        if annotation_at(model, path.split(".")) is None:
            holder = next(source for source in reversed(sources) if source.holds(("chosen", path)))
            place = holder.where(("chosen", *path.split(".")))  # a quoted key is found by its parts
            problems.append(f"{place}: chosen: there is no setting {path}")
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        # Strict and through JSON: "3" is no int, yet a TOML array may become a tuple and 1 a float.
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        for item in error.errors():
            path = [str(part) for part in item["loc"] if not isinstance(part, str) or part in _names(data, item["loc"])]
            problems.append(f"{where(path)}: {'.'.join(path) or 'settings'}: {describe(item)}")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def describe(item: Any) -> str:
    """Pydantic's finding in plain words."""
    if item["type"] == "missing":
        return "is required and was not set"
    message = re.sub(r"^(Input should be|Value error,) ?", "", item["msg"])
    for theirs, ours in (("a valid ", ""), ("string", "text"), ("integer", "whole number"), ("an object", "a section")):
        message = message.replace(theirs, ours)
    if item["type"] == "value_error":
        return message
    return f"takes {message}, found {shown(item['input'])}"


def shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _names(data: Any, loc: Sequence[Any]) -> set[str]:
    """The parts of an error's location that are keys in the data (unions add names of their own to it)."""
    names: set[str] = set()
    for part in loc:
        if isinstance(data, Mapping) and part in data:
            names.add(str(part))
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif isinstance(data, Mapping) and isinstance(part, str) and part.isidentifier():
            names.add(part)  # a missing required field
    return names


# --- files ---------------------------------------------------------------------------------------------------------


def profile_path(profile: str | Path, beside: Path | None = None) -> Path:
    """The file of a profile name or path; `beside` is the folder of the file that extends it."""
    text = str(profile)
    if text.endswith(".toml") or "/" in text:
        path = Path(text) if beside is None or Path(text).is_absolute() else beside / text
        if not _is_file(path):
            raise ConfigError(f"{text}: no such file. Profiles by name: {', '.join(profile_names())}")
        return path
    path = PROFILES / f"{text}.toml"
    if not _is_file(path):
        hint = nearest(text, profile_names())
        known = ", ".join(profile_names())
        raise ConfigError(f"no profile is called {text!r}{hint} Profiles: {known}, or a path to a .toml file")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        return False


def read_profile(profile: str | Path) -> list[Source]:
    """The file and all that it extends, weakest first."""
    chain: list[Source] = []
    seen: list[Path] = []
    target: str | Path | None = profile
    beside: Path | None = None
    while target is not None:
        path = profile_path(target, beside)
        if path.resolve() in seen:
            raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in seen)}")
        seen.append(path.resolve())
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start}); a profile is TOML") from None
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
            spot = f"{path}:{line[1]}:{line[2]}" if line else str(path)
            message = re.sub(r" \(at .*\)$", "", str(error))
            raise ConfigError(f'{spot}: not valid TOML: {message}. Text goes in quotes: name = "x"') from None
        target = data.pop("extends", None)
        if target is not None and not isinstance(target, str):
            raise ConfigError(f"{path}: extends: takes a profile name or a path, found {shown(target)}")
        beside = path.parent
        chain.append(Source(str(path), text, data))
    return chain[::-1]


def find_line(text: str, path: Sequence[str]) -> int | None:
    """The line that sets a dotted path in TOML text, by its table headers and keys; None when it isn't plain to see."""
    if not path:
        return None
    table: list[str] = []
    best: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := re.match(r"\[\[?\s*([^\]]+?)\s*\]\]?", stripped):
            table = [part.strip().strip("\"'") for part in header[1].split(".")]
            if table == list(path):
                best = best or number
        elif key := re.match(r"([A-Za-z0-9_.\-\"' ]+?)\s*=", stripped):
            full = table + [part.strip().strip("\"'") for part in key[1].split(".")]
            if full == list(path):
                return number
            if full == list(path[: len(full)]) or (best is None and full[: len(path)] == list(path)):
                best = number  # an inline table or array that holds it, or a dotted key within it
    return best


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        held = result.get(key)
        result[key] = merge(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return result


# --- overrides -----------------------------------------------------------------------------------------------------


def parse_overrides(overrides: Sequence[str], model: type[BaseModel]) -> Source:
    """`a.b=c`, where c is a TOML value, or text where the field takes text."""
    data: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        path = [part.strip() for part in name.split(".")]
        if not equals or not all(path):
            raise ConfigError(f"--set {override}: takes a setting and a value, as in --set seed=1")
        here = data
        for part in path[:-1]:
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {override}: {part} was set to a plain value before")
            here = inner
        here[path[-1]] = parse_value(text.strip(), annotation_at(model, path))
    return Source("--set", "", data)


def parse_value(text: str, annotation: Any) -> Any:
    if annotation is str or (_is_literal_text(annotation)):
        quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _is_literal_text(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Literal and all(isinstance(a, str) for a in typing.get_args(annotation))


def annotation_at(model: type, path: Sequence[str]) -> Any:
    """The type of the field at a dotted path; None where there is no such field."""
    here: Any = model
    for part in path:
        names = next((found for option in options(here) if (found := fields_of(option)) is not None), None)
        if names is None:
            mapping = next((o for o in options(here) if typing.get_origin(o) in (dict, Mapping)), None)
            here = typing.get_args(mapping)[1] if mapping is not None and len(typing.get_args(mapping)) == 2 else None
        else:
            here = names.get(part)
        if here is None:
            return None
    return here


# --- unknown settings ----------------------------------------------------------------------------------------------


@cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def fields_of(annotation: Any) -> dict[str, Any] | None:
    """Name -> type of a section (pydantic model or dataclass); None for anything else."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, BaseModel):
        return {name: info.annotation for name, info in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation):
        hints = _type_hints(annotation)
        return {item.name: hints[item.name] for item in dataclasses.fields(annotation) if item.init}
    return None


def options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(inner for option in typing.get_args(annotation) for inner in options(option))
    return (annotation,)


def unknown_settings(annotation: Any, data: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Walk types and data together; yield the path and the message of each setting that no field takes."""
    sections = [found for option in options(annotation) if (found := fields_of(option)) is not None]
    if isinstance(data, Mapping) and len(sections) > 1:  # kinds of one thing, told apart by their field `kind`
        mine = [found for found in sections if data.get("kind") in typing.get_args(found.get("kind"))]
        sections = mine or sections
    if isinstance(data, Mapping):
        if sections:
            known: dict[str, Any] = {name: kind for section in reversed(sections) for name, kind in section.items()}
            for name, value in data.items():
                full = (*path, name)
                if name in known:
                    yield from unknown_settings(known[name], value, full)
                else:
                    section = ".".join(path) or "the top level"
                    hint = nearest(name, known, ".".join(path)) or "."
                    yield full, f"{'.'.join(full)}: no such setting in {section}{hint} It takes: {', '.join(known)}"
        else:
            for option in options(annotation):
                arguments = typing.get_args(option)
                if typing.get_origin(option) in (dict, Mapping) and len(arguments) == 2:
                    for name, value in data.items():
                        yield from unknown_settings(arguments[1], value, (*path, str(name)))
    elif isinstance(data, list):
        for option in options(annotation):
            items = [argument for argument in typing.get_args(option) if argument is not Ellipsis]
            if len(items) == 1 and typing.get_origin(option) in (list, tuple, Sequence):
                for value in data:
                    yield from unknown_settings(items[0], value, path)


def nearest(name: str, names: typing.Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    if not close:
        return "."
    return f"; did you mean {prefix + '.' if prefix else ''}{close[0]}?"
