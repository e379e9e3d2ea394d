"""An artifact is there whole or not at all, whoever is killed, full, or second."""

from __future__ import annotations

import copy
import errno
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import artifacts
from storage.artifacts import Artifact, DamagedArtifact, MissingArtifact, Record, Store

ROOT = Path(__file__).parents[2]
KEY = "ab" * 32


def record(key: str = KEY, stage: str = "clean", **facts: object) -> Record:
    return Record(Artifact("corpus", key, facts), stage, {"seed": 1}, {"raw": "c" * 64}, {"components.x": "d"}, "run-1")


def put(store: Store, key: str = KEY, text: str = "hello", stage: str = "clean", **facts: object) -> Artifact:
    with store.writing(key) as tmp:
        (tmp / "part").mkdir()
        (tmp / "part" / "a.txt").write_text(text)
        (tmp / "b.bin").write_bytes(b"\0" * 1000)
        return store.seal(tmp, record(key, stage, **facts))


@pytest.fixture(params=["local", "file", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes fresh stores (as another process would) over one place."""
    urls = {"local": str(tmp_path / "s"), "file": f"file://{tmp_path}/s", "memory": f"memory://{tmp_path.name}/s"}
    return lambda: Store(urls[request.param], cache=tmp_path / "cache")


def test_what_was_sealed_is_found_with_all_that_its_record_says(make_store: Callable[[], Store]) -> None:
    assert make_store().find(KEY) is None
    made = put(make_store(), num_tokens=7, usage={"flops": 1e18})
    store = make_store()
    assert store.find(KEY) == made == Artifact("corpus", KEY, {"num_tokens": 7, "usage": {"flops": 1e18}})
    folder = store.path(made)
    assert (folder / "part" / "a.txt").read_text() == "hello"
    found = store.record(KEY)
    assert found is not None
    assert found.files["part/a.txt"] == {
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",  # of "hello"
        "bytes": 5,
    }
    assert found.num_bytes == 1005
    assert (found.config, found.inputs, found.code) == ({"seed": 1}, {"raw": "c" * 64}, {"components.x": "d"})
    assert [r.key for r in store.records()] == [KEY]


def test_without_seal_nothing_is_there(make_store: Callable[[], Store], tmp_path: Path) -> None:
    store = make_store()

    def diverge() -> None:
        with store.writing(KEY) as tmp:
            (tmp / "a").write_text("x")
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()
    assert not list(tmp_path.rglob("a"))
    assert store.find(KEY) is None and list(store.records()) == []
    with pytest.raises(MissingArtifact, match=KEY):
        store.path(Artifact("corpus", KEY))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_first_sealer_wins_and_the_second_gets_the_firsts(make_store: Callable[[], Store]) -> None:
    first, second = make_store(), make_store()
    with first.writing(KEY) as one, second.writing(KEY) as two:
        (one / "who").write_text("first")
        (two / "who").write_text("second")
        assert first.seal(one, record(n=1)).facts == {"n": 1}
        assert second.seal(two, record(n=2)).facts == {"n": 1}
    assert (second.path(KEY) / "who").read_text() == "first"
    assert len(list(make_store().records())) == 1


def test_a_changed_byte_is_found_named_moved_aside_and_can_be_rebuilt(
    make_store: Callable[[], Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(make_store())
    store = make_store()
    if store._remote:
        (name,) = [p for p in store._remote.fs.find(store._remote.root) if p.endswith("a.txt")]
        store._remote.fs.pipe_file(name, b"jello")
        shutil.rmtree(store._folder(KEY))  # as on another machine than the one that wrote it
    else:
        (store._folder(KEY) / "part" / "a.txt").write_text("jello")
    assert store.find(KEY) is not None  # names and sizes are right: only reading it all can tell
    with pytest.raises(DamagedArtifact, match=r"part/a\.txt has a different SHA-256") as error:
        store.path(KEY)
    assert (error.value.key, error.value.file) == (KEY, "part/a.txt")
    assert copy.copy(error.value).file == "part/a.txt"  # as when it crosses process boundaries
    assert "damaged" in str(error.value) and caplog.records
    assert store.find(KEY) is None and make_store().find(KEY) is None
    put(store)
    assert (store.path(KEY) / "part" / "a.txt").read_text() == "hello"


def test_a_checksum_is_taken_once_a_process(make_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    put(make_store())
    store = make_store()
    store.path(KEY)
    monkeypatch.setattr(artifacts, "_checksum", lambda path: pytest.fail("read again"))
    store.path(KEY)


@pytest.mark.parametrize("damage", ["missing", "shorter", "record torn", "record binary", "record of another"])
def test_damage_that_shows_without_reading_is_found_by_find(tmp_path: Path, damage: str) -> None:
    put(Store(tmp_path))
    store = Store(tmp_path)
    folder = store.path(KEY)
    text = (folder / "record.json").read_text()
    match damage:
        case "missing":
            (folder / "b.bin").unlink()
        case "shorter":
            (folder / "b.bin").write_bytes(b"\0" * 999)
        case "record torn":
            (folder / "record.json").write_text(text[: len(text) // 2])
        case "record binary":
            (folder / "record.json").write_bytes(b"\xff\xfe\x00")
        case "record of another":
            (folder / "record.json").write_text(text.replace(KEY, "cd" * 32))
    assert Store(tmp_path).find(KEY) is None
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    put(store)
    assert Store(tmp_path).find(KEY) is not None


def test_a_damaged_download_is_fetched_again(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    put(Store(url, cache=tmp_path / "a"))
    (Store(url, cache=tmp_path / "b").path(KEY) / "b.bin").write_bytes(b"1" * 1000)
    assert (Store(url, cache=tmp_path / "b").path(KEY) / "b.bin").read_bytes() == b"\0" * 1000


def test_a_remote_record_lands_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{tmp_path.name}", cache=tmp_path)
    assert store._remote
    monkeypatch.setattr(
        store._remote.fs, "pipe_file", lambda *args, **more: (_ for _ in ()).throw(OSError("connection lost"))
    )
    with pytest.raises(OSError, match="connection lost"):
        put(store)
    assert Store(f"memory://{tmp_path.name}", cache=tmp_path).find(KEY) is None


def test_kill_9_in_the_middle_leaves_nothing_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    program = f"""
        import sys, time
        from storage.artifacts import Store
        with Store({str(tmp_path)!r}).writing({KEY!r}) as tmp:
            (tmp / "half").write_text("x" * 1000)
            print("writing", flush=True)
            time.sleep(60)
    """
    victim = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, cwd=ROOT)
    assert victim.stdout and victim.stdout.readline() == b"writing\n"
    store = Store(tmp_path)
    with store.writing("cd" * 32):  # a living writer's folder is left alone
        assert list((tmp_path / ".tmp").glob(f"{KEY}*/half"))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    assert store.find(KEY) is None
    assert list((tmp_path / ".tmp").glob(f"{KEY}*/half"))
    put(store)
    assert not list((tmp_path / ".tmp").iterdir())
    assert store.find(KEY) is not None


def test_processes_that_race_to_seal_one_key_agree(tmp_path: Path) -> None:
    program = f"""
        import sys
        from storage.artifacts import Artifact, Record, Store
        store = Store({str(tmp_path)!r})
        who = sys.argv[1]
        for n in range(20):
            key = f"{{n:064x}}"
            with store.writing(key) as tmp:
                (tmp / "who").write_text(who)
                sealed = store.seal(tmp, Record(Artifact("corpus", key, {{"who": who}}), "s", {{}}, {{}}, {{}}, who))
            assert (store.path(sealed) / "who").read_text() == sealed.facts["who"]
            print(sealed.facts["who"])
    """
    racers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), who], stdout=subprocess.PIPE, cwd=ROOT)
        for who in ("a", "b")
    ]
    told = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert told[0] == told[1] and len(told[0].split()) == 20


def test_threads_that_race_agree_too(tmp_path: Path) -> None:
    stores = [Store(tmp_path)] * 2 + [Store(tmp_path)] * 2
    won: list[object] = []
    barrier = threading.Barrier(len(stores))

    def race(number: int) -> None:
        barrier.wait()
        won.append(put(stores[number], number=number).facts["number"])

    threads = [threading.Thread(target=race, args=[n]) for n in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 4 and len(set(won)) == 1


def test_a_full_disk_says_what_to_do_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def fill() -> None:
        with store.writing(KEY) as tmp:
            (tmp / "a").write_text("x")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"disk is full .*LIFESPAN_HOME") as error:
        fill()
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="disk is full"):
        put(store)
    assert store.find(KEY) is None and not list((tmp_path / ".tmp").iterdir())


@pytest.mark.parametrize("bad", ["link", "record.json"])
def test_what_an_artifact_cannot_hold_is_refused(tmp_path: Path, bad: str) -> None:
    store = Store(tmp_path)
    with store.writing(KEY) as tmp:
        if bad == "link":
            (tmp / "link").symlink_to("/etc/passwd")
        else:
            (tmp / "record.json").write_text("{}")
        with pytest.raises(ValueError, match=bad):
            store.seal(tmp, record())
    assert store.find(KEY) is None


def test_facts_are_plain_json(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    made = put(Store(tmp_path), loss=math.nan, n=numpy.int64(3), x=numpy.float32(0.5), flags=(numpy.bool_(True),))
    assert made.facts == {"loss": None, "n": 3, "x": 0.5, "flags": [True]}
    assert Artifact.from_json(made.to_json()) == made
    assert Artifact.from_json(json.loads(made.to_json())) == made
    with pytest.raises(TypeError, match=r"facts\.curve\[1\]: got a set"):
        put(Store(tmp_path), "cd" * 32, curve=[1, {2}])


@pytest.mark.parametrize("key", ["", "ab", "../" + "a" * 61, "AB" * 32])
def test_a_key_is_no_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        Store(tmp_path).find(key)


def test_latest_is_the_newest_of_its_stage(make_store: Callable[[], Store]) -> None:
    store = make_store()
    for number, stage in enumerate(["clean", "train", "clean"]):
        put(store, f"{number:064x}", stage=stage)
    assert [r.key[-1] for r in (make_store().latest("clean"), make_store().latest("train")) if r] == ["2", "1"]
    assert store.latest("nothing") is None


def test_remove_forgets(make_store: Callable[[], Store]) -> None:
    store = make_store()
    made = put(store)
    store.path(made)
    assert store.remove(KEY) and not store.remove(KEY)
    assert store.find(KEY) is None
    with pytest.raises(MissingArtifact):
        store.path(made)


def test_a_find_of_forty_keys_takes_milliseconds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [f"{n:064x}" for n in range(40)]
    for key in keys:
        put(store, key)

    def seconds() -> float:
        start = time.perf_counter()
        assert all(store.find(key) for key in keys)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.02
    store = Store(tmp_path)
    assert seconds() < 0.2  # cold: reads and parses every record


def test_sealing_warns_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        put(Store(tmp_path))
        put(Store(tmp_path))
    assert not caplog.records
