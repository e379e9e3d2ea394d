"""The models of a home: how users call them, how one is opened, and how one leaves the store."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import ConfigError
from storage import durable
from storage.artifacts import Artifact, DamagedArtifact, MissingArtifact
from storage.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from components.data.tokenizer import Tokenizer
    from components.inference.capacity import Weights
    from components.model.config import ModelConfig
    from components.model.transformer import Transformer

# What people call the models of a run -> the labels or stages that make them, the preferred one first.
ALIASES: dict[str, tuple[str, ...]] = {
    "base": ("pretrain", "import_model"),
    "sft": ("finetune",),
    "aligned": ("grpo", "ppo"),
    "solver": ("finetune[puzzles]",),
    "imported": ("import_model",),
}
_FLOATS = ("f32", "f16", "bf16")
EXPORT_DTYPES = {"safetensors": _FLOATS, "gguf": (*_FLOATS, "q8_0"), "peft": _FLOATS}
_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class FoundModel:
    """A model in the store. label: what its run calls it, or its stage. tokenizer: None if none leads to it."""

    label: str
    checkpoint: Artifact
    tokenizer: Artifact | None


@dataclass(frozen=True)
class OpenedModel:
    """A model with its tokenizer, ready to generate. name: what clients call it. weight_error: relative, of weights in
    8 bits (see `components.model.quantized.quantize`)."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    weight_error: float = 0.0


def find_model(home: Home, name: str) -> FoundModel:
    """A model by the key of its artifact (or the first 8 or more digits), or by its label, stage or alias in the newest
    run that made one: `base`, `sft`, `grpo`, `ppo[kl_coef=0.1]`, …

    Raises ConfigError listing the names that exist.
    """
    if _KEY.fullmatch(name):
        records = [record for record in home.store.records() if record.key.startswith(name)]
        if len(records) > 1:
            raise ConfigError(f"{name}: {len(records)} artifacts have keys that begin so: give more digits")
        if records:
            if records[0].artifact.kind != "checkpoint":
                raise ConfigError(f"{name}: this artifact is a {records[0].artifact.kind}, not a model")
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
    available = f"there are {', '.join(known)}" if known else "no run of this home has made a model yet"
    raise ConfigError(f"{name}: no such model: {available}; an artifact's key works too")


def model_names(home: Home) -> list[str]:
    """Labels of the models of the newest run that made any."""
    made = _made(home)
    return [row["label"] for row in made if row["run_id"] == made[0]["run_id"]]


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
        raise ConfigError(f"{label}: its artifact {key[:12]} is no longer in the store: run the profile again")
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


def open_model(
    home: Home,
    name: str,
    context_length: int = 0,
    weights: Weights = "float32",
    check: Callable[[ModelConfig], object] = lambda cfg: None,
) -> OpenedModel:
    """A model by any name that `find_model` takes, or a saved one: a folder of ours or in Hugging Face's layout with
    its tokenizer, a GGUF file, `package:NAME`, or `owner/model` of the hub, with `@revision` after it if need be.
    `context_length` shortens its context; 0 leaves it as it is. `check` sees its configuration before its weights are
    read, and may refuse it with a ValueError.

    Raises ConfigError listing the names that exist, or naming what is wrong with the folder or file.
    """
    from components.data.tokenizer import Tokenizer
    from components.inference.serving_weights import load_for_serving
    from components.model.hub.source import PACKAGE, is_hub_name
    from components.training.checkpoints import load_config

    path = Path(name).expanduser()
    if path.exists() or name.startswith(PACKAGE):
        return _open_saved(str(path), context_length, weights, check)
    repository, _, revision = name.partition("@")
    if is_hub_name(repository):
        return _open_saved(repository, context_length, weights, check, revision or "main")
    if "/" in name or name.endswith(".gguf"):
        raise ConfigError(f"{name}: no such folder or file")
    found = find_model(home, name)
    if found.tokenizer is None:
        raise ConfigError(f"{name}: none of its inputs leads to a tokenizer")
    tokenizer = Tokenizer.load(home.store.path(found.tokenizer))
    folder = home.store.path(found.checkpoint)
    try:
        check(load_config(folder))
        model, error = load_for_serving(folder, weights)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None
    return OpenedModel(name, model, tokenizer, error)


def _called(name: str) -> str:
    """What clients call a saved model: the end of its path or of its name at the hub."""
    return re.sub(r"\.gguf$", "", Path(name).resolve().name, flags=re.IGNORECASE).removeprefix("package:")


def _open_saved(
    name: str,
    context_length: int,
    weights: Weights,
    check: Callable[[ModelConfig], object],
    revision: str = "main",
) -> OpenedModel:
    import torch

    from components.data.tokenizer import Tokenizer
    from components.inference.serving_weights import load_for_serving, narrowed
    from components.model.hub import imports
    from components.model.hub.folder import read_json, shortened
    from components.model.hub.source import locate
    from components.native.fuse import fuse
    from components.training.checkpoints import load_config

    path = Path(name)
    try:
        config = path / "config.json"
        if config.is_file() and read_json(config).get("format") is not None:
            check(shortened(load_config(path), 0))  # size limits hold for a folder in our layout from elsewhere, too
            model, off = load_for_serving(path, weights)
            return OpenedModel(path.resolve().name, model, Tokenizer.load(path), off)
        source = locate(name, revision)
        check(imports.read_config(source, context_length))
        dtype = torch.float32 if weights == "float32" else torch.bfloat16
        model = imports.import_model(source, dtype, context_length=context_length)
        if weights == "float32":
            fuse(model)
        off = narrowed(model, weights)
        return OpenedModel(_called(name), model, imports.import_tokenizer(source), off)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{name}: {error}" if name not in str(error) else str(error)) from None


def export_model(
    home: Home, name: str, target: Path | None, form: str = "", dtype: str = ""
) -> tuple[FoundModel, Path]:
    """Write a model to a new folder in Hugging Face's layout, or to a new GGUF file; completely or not at all.

    target: by default the model's name in the current folder. form: safetensors, gguf, or peft for the adapters alone
    of a model that was trained with LoRA; by default what the target's ending says. dtype: of the matrices; by
    default as they are stored, f16 in a GGUF file.
    Raises ConfigError for an unknown model, one that the format cannot hold, or a target that is there already.
    """
    from components.data.tokenizer import Tokenizer
    from components.model.hub.config_file import architecture_for
    from components.model.hub.folder import export_folder
    from components.model.hub.gguf_export import export_gguf
    from components.model.hub.peft_adapter import export_adapter
    from components.training.checkpoints import load_config, load_tensors
    from components.training.lora import ADAPTERS, load_lora

    form = form or ("gguf" if target is not None and target.suffix.lower() == ".gguf" else "safetensors")
    takes = EXPORT_DTYPES.get(form)
    if takes is None:
        raise ConfigError(f"--format {form}: takes one of {', '.join(EXPORT_DTYPES)}")
    if dtype and dtype not in takes:
        raise ConfigError(f"--dtype {dtype}: {form} takes one of {', '.join(takes)}")
    target = target or Path(re.sub(r"[^\w.=-]+", "-", name).strip("-") + (".gguf" if form == "gguf" else ""))
    target = target.expanduser().absolute()
    if target.exists() and (form == "gguf" or not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: already exists{'' if form == 'gguf' else ' and is not empty'}: name a new one")
    if home.keeps(target):
        raise ConfigError(f"{target}: lies inside the sealed artifacts or tables of {home.shown}: name another place")
    found = find_model(home, name)
    try:
        source = home.store.path(found.checkpoint)
        tokenizer = Tokenizer.load(home.store.path(found.tokenizer)) if found.tokenizer else None
        cfg, tensors = load_config(source), load_tensors(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}-{durable.unique_suffix()}"
        temporary.mkdir()
        try:
            with durable.explain_full_disk(target):
                if form == "gguf":
                    export_gguf(temporary / "model.gguf", cfg, tensors, tokenizer, dtype or "f16", found.label)
                elif form == "peft":
                    adapters, alphas = load_lora(_adapters(found, source / ADAPTERS))
                    names = architecture_for(cfg).names
                    export_adapter(temporary, cfg, names, as_dtype(adapters, dtype), alphas)
                else:
                    export_folder(temporary, cfg, as_dtype(tensors, dtype), tokenizer)
                for file in temporary.iterdir():
                    file.chmod(0o644)  # safetensors makes its file readable by the owner only
                    durable.fsync_file(file)
            (temporary / "model.gguf" if form == "gguf" else temporary).rename(target)
            durable.fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (ValueError, MissingArtifact, DamagedArtifact) as error:
        raise ConfigError(f"{found.label}: {error}") from None
    return found, target


def _adapters(found: FoundModel, file: Path) -> Path:
    if not file.is_file():
        raise ConfigError(f"{found.label} has no adapters of its own: it was not trained with LoRA")
    return file


def as_dtype(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Weights rounded to f32, f16 or bf16; as they are for "". Raises ConfigError for what f16 cannot hold."""
    import torch

    if not dtype:
        return dict(tensors)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    rounded = {name: tensor.to(kind) for name, tensor in tensors.items()}
    for name, tensor in rounded.items():
        if not torch.isfinite(tensor).all() and torch.isfinite(tensors[name]).all():
            raise ConfigError(f"{name} has values that {dtype} cannot hold: take bf16")
    return rounded
