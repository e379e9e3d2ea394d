"""Whatever a user calls a thing, nothing is written, moved or read outside the home for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.data.shards import _file_name as shard_name
from flows.commands.query import run_query, wanted_query
from flows.runs.models import export_model
from flows.settings import ConfigError, profile_path
from storage.annotations import AnnotationError
from storage.artifacts import DamagedArtifact, Store
from storage.home import Home
from storage.queries import Limits
from storage.tables import SCHEMAS, TableError

# What climbs, what hides, what ends a name early, and anything else.
pieces = st.sampled_from(["..", ".", "/", "\\", "~", "%2e%2e", "\0", "\n", "a", "$HOME", ":", "*", " ", "é", "x" * 300])
names = st.one_of(st.lists(pieces, max_size=6).map("".join), st.text(max_size=12))
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def untouched(outside: Path) -> Iterator[None]:
    """Nothing appears, goes or changes beside the home."""

    def seen() -> set[tuple[str, int]]:
        found = (path for path in outside.rglob("*") if "home" not in path.relative_to(outside).parts[:1])
        return {(str(path), path.stat().st_size) for path in found}

    before = seen()
    yield
    assert seen() == before


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with the home and, beside it, what must stay as it is."""
    (tmp_path / "secret").write_text("secret")
    return tmp_path


@given(name=names)
@few
@example("../secret")
def test_keys_runs_and_locks(outside: Path, name: str) -> None:
    home = Home(outside / "home")
    with untouched(outside):
        for use in (home.store.find, home.store.path, home.store.remove, home.store.set_unsealed_aside):
            with pytest.raises(ValueError, match="artifact key"):
                use(name)
        with pytest.raises(ValueError, match="artifact key"), home.store.writing(name):
            pass
        assert home.report(name).parent == home.reports
        assert home.scratch(name).parent == home.local / "scratch"
        with home.lock(name):
            pass


@given(table=names, part=names)
@few
@example("../secret", "a")
@example("metrics", "../../secret")
def test_tables_and_parts(outside: Path, table: str, part: str) -> None:
    home = Home(outside / "home")
    row = {"name": "cpu"}
    with untouched(outside):
        for use in (home.tables.path, home.tables.read, home.tables.damage, home.tables.set_damaged_aside):
            if table not in SCHEMAS:
                with pytest.raises(TableError):
                    use(table)
        with contextlib.suppress(TableError):
            home.tables.write("hardware", part, [row])
        assert {file.parent for file in home.tables.path("hardware").glob("*")} <= {home.tables.path("hardware")}


@given(name=names)
@few
@example("../../../secret")
def test_annotators_batches_and_sources(outside: Path, name: str) -> None:
    home = Home(outside / "home")
    with untouched(outside):
        with contextlib.suppress(AnnotationError):
            home.annotations.add(name)
            home.annotations.remove(name)
        with contextlib.suppress(AnnotationError, LookupError, ValueError):
            home.annotations.record(name, name, {"item_id": "x"})
    if "\0" not in name:
        assert Path(shard_name(name)).name == shard_name(name)


@given(name=names)
@few
@example("../pyproject")
def test_a_profile_by_name_is_one_of_ours(name: str) -> None:
    if name.endswith(".toml") or "/" in name:
        return  # a path, which a user may choose freely
    with contextlib.suppress(ConfigError):
        assert profile_path(name).parent.name == "profiles"


def test_nothing_is_written_among_what_is_sealed(outside: Path) -> None:
    home = Home(outside / "home")
    home.tables.write("hardware", "p", [{"name": "cpu"}])
    (outside / "link").symlink_to(home.root)
    own = Path(home.root)
    for place in (own / "artifacts" / "ab" / "x", own / "tables" / "x", own / "y" / ".." / "tables" / "x"):
        with pytest.raises(ConfigError, match="lies inside the sealed"):
            export_model(home, "sft", place)
    for place in (own / "tables" / "hardware" / "p.parquet", outside / "link" / "artifacts" / "x.csv"):
        with pytest.raises(ValueError, match="lies inside the sealed"):
            run_query(home, wanted_query("SELECT 1", None, None), {}, None, place, Limits())
    assert not home.keeps(own / "reports" / "x") and not home.keeps(outside / "x")


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/../../secret"])
def test_a_record_cannot_name_files_outside_its_artifact(outside: Path, name: str) -> None:
    key = "a" * 64
    record = {"artifact": {"kind": "k", "key": key, "facts": {}}, "stage": "s", "config": {}, "inputs": {}, "code": {}}
    record |= {"run_id": "r", "created": "", "lifespan": "", "files": {name: {"sha256": "", "bytes": 6}}}
    folder = outside / "home" / "artifacts" / "aa" / key
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    assert Home(outside / "home").store.find(key) is None
    remote = Store(f"memory://{outside.name}", cache=outside / "home" / "cache")
    import fsspec

    fsspec.filesystem("memory").pipe(
        f"/{outside.name}/aa/{key}/record.json", json.dumps(record | {"folder": "f"}).encode()
    )
    with untouched(outside), pytest.raises(DamagedArtifact):
        remote.path(key)
