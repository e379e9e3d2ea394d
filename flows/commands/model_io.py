"""Models out of the store and into it: `lifespan export`, `lifespan import`, and how a model is called by a user."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.model.hub.errors import UnsupportedModel
from components.model.hub.source import BaseConfig, digests, locate
from flows.engine.graph import Graph
from flows.engine.jobs import run_here
from flows.settings import ComputeConfig, ConfigError
from storage import durable
from storage.artifacts import Artifact, DamagedArtifact, MissingArtifact
from storage.home import Home

# What people call the models of a life -> labels or stages that make them, in order of preference.
ALIASES = {
    "base": ("pretrain", "import_model"),
    "sft": ("finetune",),
    "solver": ("finetune[puzzles]",),
    "imported": ("import_model",),
}
_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class FoundModel:
    """A model in the store. label: how its run calls it, or its stage. tokenizer: None where none leads to it."""

    label: str
    checkpoint: Artifact
    tokenizer: Artifact | None


def find_model(home: Home, name: str) -> FoundModel:
    """A model by the key of its artifact (or its first 8 digits), by label, stage or alias in the newest run that made
    one: `base`, `sft`, `grpo`, `ppo[kl_coef=0.1]`, …

    Raises ConfigError with the names that there are.
    """
    if _KEY.fullmatch(name):
        records = [record for record in home.store.records() if record.key.startswith(name)]
        if len(records) > 1:
            raise ConfigError(f"{name}: {len(records)} artifacts begin so: give more digits")
        if records:
            if records[0].artifact.kind != "checkpoint":
                raise ConfigError(f"{name}: is a {records[0].artifact.kind}, not a model")
            return _found(home, records[0].stage, records[0].key)
    made = _made(home)
    for wanted in (name, *ALIASES.get(name, ())):
        run_id = next((row["run_id"] for row in made if wanted in (row["label"], row["stage"])), None)
        of_run = [row for row in made if row["run_id"] == run_id]
        exact = [row for row in of_run if row["label"] == wanted] or [row for row in of_run if row["stage"] == wanted]
        if len(exact) > 1:
            raise ConfigError(f"{name}: run {run_id} has {', '.join(row['label'] for row in exact)}: name one of them")
        if exact:
            return _found(home, exact[0]["label"], exact[0]["key"])
    for wanted in (name, *ALIASES.get(name, ())):  # one that `lifespan import` brought, which is in no run
        latest = home.store.latest(wanted)
        if latest is not None and latest.artifact.kind == "checkpoint":
            return _found(home, wanted, latest.key)
    known = list(dict.fromkeys(row["label"] for row in made))
    there = f"there are {', '.join(known)}" if known else "no run of this home made a model yet"
    raise ConfigError(f"{name}: no such model: {there}; or give an artifact's key")


def _made(home: Home) -> list[dict[str, Any]]:
    """Run, label, stage and key of every model that a run made or found cached; the newest run first."""
    runs = home.tables.read("runs", ["run_id", "event", "time"]).to_pylist()
    began = {row["run_id"]: row["time"] for row in runs if row["event"] == "started"}
    columns = ["run_id", "label", "stage", "key", "kind", "status"]
    made = [
        row
        for row in home.tables.read("stages", columns).to_pylist()
        if row["kind"] == "checkpoint" and row["status"] in ("ran", "cached") and row["run_id"] in began
    ]
    made.sort(key=lambda row: row["label"])
    return sorted(made, key=lambda row: began[row["run_id"]], reverse=True)


def _found(home: Home, label: str, key: str) -> FoundModel:
    record = home.store.record(key)
    if record is None:
        raise ConfigError(f"{label}: its artifact {key[:12]} is no longer in the store: run its life again")
    return FoundModel(label, record.artifact, _tokenizer_of(home, key))


def _tokenizer_of(home: Home, key: str) -> Artifact | None:
    """The tokenizer that a model was trained with: among its inputs, or theirs."""
    waiting, seen = [key], {key}
    while waiting:
        record = home.store.record(waiting.pop(0))
        if record is None:
            continue
        if record.artifact.kind == "tokenizer":
            return record.artifact
        for value in record.inputs.values():
            for one in [value] if isinstance(value, str) else value:
                if one not in seen:
                    seen.add(one)
                    waiting.append(one)
    return None


def export(home: Home, name: str, folder: Path) -> FoundModel:
    """Write a model into a new folder in Hugging Face's layout, all of it or nothing.

    Raises ConfigError for an unknown model, one that no public layout holds, or a folder that holds something.
    """
    from safetensors.torch import load_file

    from components.data.tokenizer import Tokenizer
    from components.model.hub.folder import export_folder
    from components.training.checkpoints import WEIGHTS, load_config

    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already and not empty: name a new folder")
    if home.keeps(folder):
        raise ConfigError(f"{folder}: lies among the sealed artifacts or tables of {home.shown}: name another folder")
    found = find_model(home, name)
    try:
        source = home.store.path(found.checkpoint)
        tokenizer = Tokenizer.load(home.store.path(found.tokenizer)) if found.tokenizer else None
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}-{durable.unique_suffix()}"
        temporary.mkdir()
        try:
            with durable.explain_full_disk(folder):
                export_folder(temporary, load_config(source), load_file(source / WEIGHTS), tokenizer)
                for file in temporary.iterdir():
                    file.chmod(0o644)  # safetensors leaves its file to the owner alone
                    durable.fsync_file(file)
            temporary.rename(folder)
            durable.fsync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (ValueError, MissingArtifact, DamagedArtifact) as error:
        raise ConfigError(f"{found.label}: {error}") from None
    return found


def import_source(
    home: Home, source: str, revision: str = "main", context_length: int = 0, say: Callable[[str], None] = print
) -> tuple[Artifact, Artifact]:
    """Bring a model into the store; the tokenizer and the checkpoint. They are those that a life with the same
    `[base]` takes. Raises ConfigError for what is not a model or not one that can be read."""
    from flows.stages.imported import base_graph

    try:
        commit = locate(source, revision).commit
        if commit:
            say(f"{source} is at commit {commit}")
        config = BaseConfig(source, commit, context_length)
        graph = Graph()
        base_graph(config, graph, digests(config))
        made: dict[str, Artifact] = {}
        for node in graph.nodes.values():
            sealed = home.store.find(node.key)
            made[node.key] = sealed or run_here(node.job("import", home, ComputeConfig(), made), lambda event: None)
    except UnsupportedModel as error:
        raise ConfigError(str(error)) from None
    tokenizer, model = made.values()
    return tokenizer, model
