"""Files of a source: one by its name, a folder, a pattern, an fsspec URL, a dataset of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import fsspec
from fsspec.spec import AbstractFileSystem

from components.data.records import decompressed

PACKED = (".gz", ".bz2", ".xz", ".zst")
_BYTES_PER_COMPRESSED_BYTE = 4  # of text; only guides how thinly a budget is spread
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # beside data sets
_SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev)(?=[/_.-]|\d|$)", re.IGNORECASE)


class SourceError(ValueError):
    """A source that gives nothing, with what was found and what to do."""


@dataclass(frozen=True)
class Quarantined:
    """A record that was not taken: a row of the quarantine table."""

    source: str
    file: str
    line: int  # of the file, or number of the record in an array or in Parquet, from 1; 0: the file as a whole
    reason: str
    excerpt: str


class Noted(Quarantined):
    """Something to know of a file that is no unusable record: that it was not read, or how."""


def packed(*endings: str) -> tuple[str, ...]:
    """The endings, and those of the same files compressed."""
    return (*endings, *(ending + more for ending in endings for more in PACKED))


# Of records, in the order in which a hub dataset is looked through for them.
RECORDS = tuple(map(packed, (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")))
RECORD_ENDINGS = tuple(ending for endings in RECORDS for ending in endings)


def list_files(
    where: str, path: str, endings: tuple[str, ...], filesystem: AbstractFileSystem | None = None
) -> tuple[AbstractFileSystem, list[str]]:
    """The files of a path, sorted; of a folder those with one of the endings that are not hidden.

    Raises SourceError, which begins with `where`, when there is none.
    """
    try:
        fs, path = (filesystem, path) if filesystem else fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:  # a kind of address that needs a package, or that nobody knows
        raise SourceError(f"{where}: {path}: {error}") from None
    if fs.isfile(path):
        return fs, [path]  # named by itself: whatever its ending
    if fs.isdir(path):
        files = sorted(f for f in fs.find(path) if f.endswith(endings) and not _skipped(f, path))
        if not files:
            plain = [ending for ending in endings if not ending.endswith(PACKED)]
            raise SourceError(f"{where}: folder {path} has no {' or '.join(plain)} file")
        return fs, files
    files = sorted(f for f in fs.glob(path) if fs.isfile(f)) if any(c in path for c in "*?[") else []
    if not files:
        raise SourceError(f"{where}: {path}: no such file, folder or match")
    return fs, files


def unread_files(fs: AbstractFileSystem, path: str, files: Sequence[str]) -> list[str]:
    """What a folder holds beside `files`, hidden files and descriptions of data sets left out; empty for no folder."""
    path = fs._strip_protocol(path)
    if not fs.isdir(path):
        return []
    read = set(files)
    return sorted(f for f in fs.find(path) if f not in read and not _skipped(f, path))


def hub_files(
    where: str, path: str, revision: str, filesystem: AbstractFileSystem | None = None
) -> tuple[AbstractFileSystem, list[str]]:
    """Files of records of a hub dataset ``owner/dataset``, Parquet before JSON lines, JSON and CSV; a pattern that
    follows the name narrows them.

    Raises SourceError, which begins with `where`, when there are none, or of several splits or configurations and no
    pattern says of which.
    """
    where = f"{where}: hub dataset {path!r}"
    parts = path.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise SourceError(f"{where}: expected owner/dataset, with a file pattern after it if need be")
    owner, dataset, *pattern = parts
    if filesystem is None:
        from huggingface_hub import HfFileSystem

        filesystem = HfFileSystem()
    root = f"datasets/{owner}/{dataset}@{revision}"
    patterns = [tuple(pattern)] if pattern else [tuple(f"**/*{end}" for end in endings) for endings in RECORDS]
    for names in patterns:
        try:
            found = {str(f) for name in names for f in filesystem.glob(f"{root}/{name}")}
        except Exception as error:  # offline, unknown, private, rate-limited: many types, one meaning
            raise SourceError(
                f"{where} can't be listed ({type(error).__name__}: {error}); check the name and the network, "
                "or download it and use kind = 'parquet' or 'jsonl' with a path"
            ) from error
        files = sorted(f for f in found if PurePosixPath(f).name not in _DESCRIPTIONS)
        if files:
            if not pattern:
                _refuse_several(where, path, [f.split(f"@{revision}/", 1)[-1] for f in files])
            return filesystem, files
    tried = " or ".join(names[0] for names in patterns)
    raise SourceError(f"{where}@{revision} has no file like {tried}")


def _refuse_several(where: str, path: str, names: Sequence[str]) -> None:
    """Raise for files of more than one split, or of more than one configuration: their rows are not one data set."""
    splits: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        if found := _SPLIT.search(name):
            splits.setdefault(found[1].lower(), name)
        top, slash, _ = name.partition("/")
        if slash and top != "data" and not _SPLIT.fullmatch(top):
            folders.setdefault(top, name)
    if len(splits) > 1:
        chosen = splits.get("train", names[0])
        raise SourceError(
            f"{where} has the splits {', '.join(sorted(splits))}: say which with a pattern, as in "
            f"'{path}/{re.sub('[0-9]+', '*', chosen)}'"
        )
    if len(folders) > 1:
        raise SourceError(
            f"{where} has the configurations {', '.join(sorted(folders)[:8])}: say which with a pattern, as in "
            f"'{path}/{min(folders)}/*'"
        )


def digests(fs: AbstractFileSystem, files: Sequence[str]) -> dict[str, str]:
    """sha256 of each file by its path below the files' common folder."""
    found = {}
    for name, file in zip(relative(files), files, strict=True):
        whole = hashlib.sha256()
        with fs.open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
        found[name] = whole.hexdigest()
    return found


@contextmanager
def opened(where: str, fs: AbstractFileSystem, file: str) -> Iterator[io.BufferedReader]:
    """The decompressed bytes of a file. What makes no sense to decompress is raised when it is read."""
    try:
        handle = fs.open(file, "rb")
    except OSError as error:
        raise SourceError(f"{where}: {file}: {error.strerror or error}") from error
    with handle:
        yield decompressed(handle)


def size_of(fs: AbstractFileSystem, file: str) -> int:
    """Bytes of a file, as many as a compressed one may hold."""
    size = int(fs.size(file) or 0)
    return size * _BYTES_PER_COMPRESSED_BYTE if file.endswith(PACKED) else size


def relative(files: Sequence[str]) -> list[str]:
    """Names below the files' common folder, so that an id doesn't depend on where the corpus lies."""
    parents = [PurePosixPath(f).parent.parts for f in files]
    common = 0
    while all(len(p) > common and p[common] == parents[0][common] for p in parents):
        common += 1
    return ["/".join(PurePosixPath(f).parts[common:]) for f in files]


def _skipped(file: str, folder: str) -> bool:
    parts = PurePosixPath(file[len(folder) :]).parts
    return any(part.startswith(".") for part in parts) or parts[-1] in _DESCRIPTIONS
