from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from storage.annotations import AnnotationError, Annotations

BATCH = "ab" * 16


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    made = Annotations(tmp_path / "annotations")
    made.publish(BATCH, "stories", 2, [{"item_id": "1"}])
    return made


def line(form: str) -> dict[str, Any]:
    return {"form": form, "item_id": "1", "ranks": (1, 2), "submitted_at": form}


def _record(folder: Path, name: str, first: int) -> None:
    for number in range(first, first + 25):
        Annotations(folder).record(BATCH, name, line(f"{number:016x}"))


def test_processes_that_write_one_journal_lose_nothing(annotations: Annotations) -> None:
    context = multiprocessing.get_context("fork")
    starts = [0, 100, 0]  # the third sends what the first sends
    workers = [context.Process(target=_record, args=(annotations.folder, "ann", start)) for start in starts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    forms = sorted(one["form"] for one in annotations.judgements(BATCH))
    assert forms == [f"{n:016x}" for n in (*range(25), *range(100, 125))]


def test_marks_name_what_was_there_whatever_comes_later(annotations: Annotations) -> None:
    annotations.record(BATCH, "ann", line("a" * 16))
    marks = annotations.marks(BATCH)
    annotations.record(BATCH, "ann", line("b" * 16))
    annotations.record(BATCH, "Zoë", line("c" * 16))
    assert [one["form"] for one in annotations.marked(BATCH, marks)] == ["a" * 16]
    later = annotations.marks(BATCH)
    assert later != marks and len(annotations.marked(BATCH, later)) == 3
    journal = next(annotations.folder.rglob("ann.jsonl"))
    journal.write_text(journal.read_text().replace('"ranks": [1, 2]', '"ranks": [2, 1]', 1))
    with pytest.raises(AnnotationError, match=r"ann\.jsonl was changed by hand"):
        annotations.marked(BATCH, marks)


def test_a_disk_that_fills_up_leaves_no_part_of_a_line(
    annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations.record(BATCH, "ann", line("a" * 16))
    whole = os.pwrite

    def short(descriptor: int, content: bytes, at: int) -> int:
        if len(content) < 60:
            raise OSError(28, "No space left on device")
        return whole(descriptor, content[: len(content) - 50], at)

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError, match="disk is full"):
        annotations.record(BATCH, "ann", line("b" * 16))
    monkeypatch.undo()
    assert [one["form"] for one in annotations.judgements(BATCH)] == ["a" * 16]
    assert annotations.record(BATCH, "ann", line("b" * 16)) is True


def test_a_damaged_line_is_named(annotations: Annotations) -> None:
    annotations.record(BATCH, "ann", line("a" * 16))
    journal = next(annotations.folder.rglob("ann.jsonl"))
    journal.write_bytes(journal.read_bytes() + b"{broken}\n")
    with pytest.raises(AnnotationError, match=r"ann\.jsonl:2: damaged"):
        annotations.judgements(BATCH)


def test_annotators_come_and_go(annotations: Annotations) -> None:
    first = annotations.add("Zoë B.")
    assert annotations.who(first) == "Zoë B."
    with pytest.raises(AnnotationError, match="already exists"):
        annotations.add("Zoë B.")
    annotations.remove("Zoë B.")
    assert annotations.who(first) is None
    with pytest.raises(AnnotationError, match="unknown annotator"):
        annotations.remove("Zoë B.")
    second = annotations.add("Zoë B.")
    assert annotations.who(second) == "Zoë B." and annotations.who(first) is None
    for bad in ("", "../x", "a/b", "a\nb", "x" * 65, "-a"):
        with pytest.raises(AnnotationError, match="takes 1 to 64"):
            annotations.add(bad)


def test_every_text_of_instructions_has_its_number_for_ever(annotations: Annotations) -> None:
    first = annotations.instruct("Look closely.")
    second = annotations.instruct("Look twice.")
    assert (first.version, second.version) == (1, 2)
    assert annotations.instruct("Look closely.\n\n") == first
    assert [one.text for one in annotations.instructions()] == ["Look closely.\n", "Look twice.\n"]
    with pytest.raises(AnnotationError, match="are empty"):
        annotations.instruct(" \n")


def test_what_was_never_published_is_named(annotations: Annotations) -> None:
    with pytest.raises(AnnotationError, match="no batch"):
        annotations.record("0" * 32, "ann", line("a" * 16))
    with pytest.raises(AnnotationError, match="hex digits"):
        annotations.batch("../../etc")
    assert json.loads(json.dumps(annotations.batches()))[0]["overlap"] == 2
