"""The live view: the right states, speeds and times, on a terminal of any height and in a log."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from flows.engine.progress import Board, chosen, clock, short_number, showing


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until told."""
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def board_with(*labels: str) -> Board:
    board = Board("toy")
    board.expect([(label, label[0]) for label in labels])
    return board


def drawn(board: Board, height: int = 40) -> str:
    console = Console(file=StringIO(), width=160, height=height)
    console.print(board.render(height))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_speed_loss_and_time_left_are_those_of_this_attempt(at: list[float]) -> None:
    board = board_with("pretrain")
    board.set("pretrain", "running")
    at[0] += 5  # a stage that resumes at step 100 starts its count there
    board.progress("pretrain", 100, 300, {"tokens": 1000.0, "loss": 5.0})
    at[0] += 10
    board.progress("pretrain", 200, 300, {"tokens": 21000.0, "loss": 2.31})
    text = drawn(board)
    assert "2k tokens/s, loss 2.31, 10.0s left" not in text  # 10 s are shown as a clock
    assert "2k tokens/s, loss 2.31, 0:10 left" in text
    assert "0:15" in text
    at[0] += 4
    assert "6.0s left" in drawn(board)


def test_states_are_counted_and_failures_say_why(at: list[float]) -> None:
    board = board_with("a1", "a2", "b1", "c1")
    board.set("a1", "cached")
    board.set("a2", "running")
    at[0] += 75
    board.set("a2", "done")
    board.set("b1", "failed", "b1 failed: no such file\nmore")
    text = drawn(board)
    assert "1 waiting" in text
    assert "1 done" in text
    assert "1 cached" in text
    assert "1:15" in text
    assert "b1 failed: no such file" in text
    assert "more" not in text


def test_a_small_terminal_still_shows_what_runs_and_failed() -> None:
    labels = [f"{part}{n}" for part in "abcd" for n in range(20)]
    board = board_with(*labels)
    for label in labels[:30]:
        board.set(label, "done")
    board.set("b15", "running")
    board.set("b16", "failed", "why")
    text = drawn(board, height=16)
    assert len(text.splitlines()) <= 16
    assert "b15" in text
    assert "b16" in text
    assert "20 done" in text  # part a, in one line
    assert "20 waiting" in text


def test_everything_is_shown_where_it_fits() -> None:
    board = board_with("a1", "b1")
    assert chosen({"a": [board.rows["a1"]], "b": [board.rows["b1"]]}, 5) == [
        ("a", [board.rows["a1"]]),
        ("b", [board.rows["b1"]]),
    ]


def test_a_log_gets_a_line_an_event_and_no_control_codes() -> None:
    out = StringIO()
    board = Board("toy")
    with showing(board, Console(file=out, width=80)):
        board.expect([("count", "data")])
        board.set("count", "running")
        board.set("count", "running")
        board.set("count", "done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "lifespan · toy"
    assert [line.split("] ")[1] for line in lines[1:]][:2] == ["1 stages", "count: running"]
    assert "count: done in 0.0s" in lines[-1]
    assert "\x1b" not in out.getvalue()


def test_a_terminal_is_drawn_in_place() -> None:
    out = StringIO()
    board = board_with("count")
    with showing(board, Console(file=out, width=80, force_terminal=True)):
        board.set("count", "cached")
    assert "1 cached" in out.getvalue()
    assert "\x1b[?25h" in out.getvalue()  # the cursor is given back


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="state 'finished'; takes waiting"):
        board_with("a").set("a", "finished")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.96, "10.0s"), (10, "0:10"), (59.9, "0:59"), (61, "1:01"), (3661, "1:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23k"), (1.5e6, "1.5M"), (2e12, "2T")])
def test_short_number(value: float, text: str) -> None:
    assert short_number(value) == text
