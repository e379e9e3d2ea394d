"""Leases by conditional put: one owner, takeover of the silent, fencing of those who come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3_server import S3, s3_server

from storage.durable import LockTimeout
from storage.home import Home, HomeError
from storage.leases import LeaseLost, Leases, probe
from storage.remote import RemoteStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3"), patch) as found:
        yield found


@pytest.fixture
def leases(server: S3, request: pytest.FixtureRequest) -> Leases:
    return Leases(fsspec.filesystem("s3"), f"lifespan/{request.node.name}", seconds=1.0)


def test_one_of_many_holds_a_lease(leases: Leases) -> None:
    inside, most = [], 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal most
        with leases.holding("stage"):
            with lock:
                inside.append(number)
                most = max(most, len(inside))
            time.sleep(0.05)
            with lock:
                inside.remove(number)

    with ThreadPoolExecutor(4) as many:
        list(many.map(work, range(4)))
    assert most == 1


def test_a_held_lease_is_kept_for_as_long_as_its_holder_lives(leases: Leases) -> None:
    with leases.holding("stage") as lease:
        with pytest.raises(LockTimeout, match=r"held by another machine after 2\.5 s"), leases.holding("stage", 2.5):
            pass
        assert not lease.lost.is_set()
        leases.check("stage", lease.token)
    with leases.holding("stage", 0) as after:
        assert after.token == lease.token + 1


def test_the_lease_of_a_silent_holder_is_taken_over_and_it_is_told(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = threading.Event()
    theirs = Leases(fsspec.filesystem("s3", skip_instance_cache=True), leases.root, seconds=1.0)
    sent = theirs.filesystem.pipe_file

    def unreachable(*args: Any, **more: Any) -> Any:
        if cut_off.is_set():
            raise ConnectionError("no route to host")
        return sent(*args, **more)

    monkeypatch.setattr(theirs.filesystem, "pipe_file", unreachable)
    with theirs.holding("stage") as old:
        cut_off.set()
        with leases.holding("stage", 20) as new:
            assert old.lost.is_set()  # it knew before anyone took over
            assert new.token == old.token + 1
            leases.check("stage", new.token)
            with pytest.raises(LeaseLost, match="another machine makes it now"):
                theirs.check("stage", old.token)
        cut_off.clear()
    with leases.holding("stage", 0) as last:  # the old holder's end took nothing from anyone
        assert last.token == new.token + 1


def test_the_probe_accepts_a_store_that_honours_both_conditions(server: S3) -> None:
    s3 = fsspec.filesystem("s3")
    assert probe(s3, "lifespan/probe") == ""
    assert s3.find("lifespan/probe") == []


@pytest.mark.parametrize(("ignored", "reason"), [("mode", "If-None-Match"), ("IfMatch", "by an old version")])
def test_the_probe_finds_a_store_that_ignores_a_condition(
    server: S3, monkeypatch: pytest.MonkeyPatch, ignored: str, reason: str
) -> None:
    lax = fsspec.filesystem("s3", skip_instance_cache=True)
    sent = lax.pipe_file
    monkeypatch.setattr(
        lax, "pipe_file", lambda *args, **more: sent(*args, **{k: v for k, v in more.items() if k != ignored})
    )
    assert reason in probe(lax, "lifespan/lax")


def test_the_probe_says_why_a_store_without_versions_cannot_hold_leases() -> None:
    assert "no version (ETag)" in probe(fsspec.filesystem("memory"), "/probe")


def test_of_many_that_seal_one_key_one_wins_and_all_read_its_files(server: S3, tmp_path: Path) -> None:
    key = "ab" * 32
    (tmp_path / "who").write_text("a file")

    def seal(number: int) -> str | None:
        store = RemoteStore("s3://lifespan/store")
        return store.upload(key, tmp_path, iter(["who"]), {"number": number})

    with ThreadPoolExecutor(6) as many:
        ends = list(many.map(seal, range(6)))
    store = RemoteStore("s3://lifespan/store")
    record = store.read_record(key)
    assert ends.count(None) == 1
    assert all(end == record for end in ends if end is not None)
    assert len(store.fs.find("lifespan/store")) == 2  # what the others uploaded is gone


@pytest.mark.parametrize(
    ("bucket", "address", "reason"),
    [("nowhere", "", "bucket does not exist"), ("lifespan", "http://127.0.0.1:9", "connect")],
)
def test_a_store_that_cannot_be_used_is_told_in_one_line(
    server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, address: str, reason: str
) -> None:
    if address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    told = rf"^LIFESPAN_HOME=s3://{bucket}/home: nothing can be written there: .*{reason}"
    try:
        with pytest.raises(HomeError, match=told):
            Home(f"s3://{bucket}/home", local=tmp_path).check_store()
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
