"""The run as it goes, in the terminal: a table of stages with progress bars, or one plain line per event in a log.

`Board` is the state alone, safe to update from any thread; `showing` draws it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STATES = ("waiting", "running", "done", "cached", "failed", "held", "skipped", "interrupted")
LOOK = {  # state -> mark, style
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "cached": ("=", "blue"),
    "failed": ("✗", "bold red"),
    "held": ("…", "bold yellow"),  # waits for people
    "skipped": ("-", "yellow"),
    "interrupted": ("!", "yellow"),
}
REFRESH_PER_SECOND = 2.0  # a redraw of 60 rows takes some ms of the cores that train
PLAIN_PROGRESS_SECONDS = 15.0


@dataclass
class Row:
    """One stage of the run."""

    label: str
    group: str
    state: str = "waiting"
    started: float | None = None
    ended: float | None = None
    done: float = 0.0
    total: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    first: tuple[float, float, float] | None = None  # time, done, tokens at the first progress of this attempt
    last: float = 0.0
    message: str = ""

    def seconds(self, now: float) -> float:
        return (self.ended or now) - self.started if self.started is not None else 0.0

    def speed(self) -> float | None:
        """Tokens per second since the first progress report, if the stage counts tokens."""
        tokens = self.info.get("tokens")
        if self.first is None or not isinstance(tokens, float) or self.last <= self.first[0]:
            return None
        return (tokens - self.first[2]) / (self.last - self.first[0])

    def seconds_left(self, now: float) -> float | None:
        if self.first is None or self.done <= self.first[1] or self.last <= self.first[0]:
            return None
        rate = (self.done - self.first[1]) / (self.last - self.first[0])
        return max(0.0, (self.total - self.done) / rate - (now - self.last))


class Board:
    """What every stage of a run does now."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.status = "starting"
        self.began = time.monotonic()
        self.rows: dict[str, Row] = {}
        self.under_way: Callable[[], list[dict[str, Any]]] = list  # of the ledger, for whoever finds the run dead
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._said: dict[str, float] = {}

    def expect(self, stages: Sequence[tuple[str, str]]) -> None:
        """The stages of the graph as (label, group), all waiting."""
        with self._lock:
            self.rows = {label: Row(label, group) for label, group in stages}
            self._lines.append(f"{len(stages)} stages")

    def set(self, label: str, state: str, message: str = "") -> None:
        """A stage enters a state; `message` says why or what came out."""
        if state not in LOOK:
            raise ValueError(f"state {state!r}; takes {', '.join(LOOK)}")
        now = time.monotonic()
        with self._lock:
            row = self.rows[label]
            if row.state == state == "running":
                return
            row.state, row.message = state, message
            if state == "running":
                row.started, row.ended, row.first, row.done, row.info = now, None, None, 0.0, {}
            elif row.started is not None:
                row.ended = now
            if state != "waiting" or message:
                took = f" in {clock(row.seconds(now))}" if state == "done" else ""
                self._lines.append(f"{label}: {state}{took}{': ' + message if message else ''}")

    def progress(self, label: str, done: float, total: float, info: Mapping[str, Any]) -> None:
        now = time.monotonic()
        with self._lock:
            row = self.rows[label]
            tokens = info.get("tokens", 0.0)
            row.done, row.total, row.info, row.last = done, total, dict(info), now
            if row.first is None:
                row.first = (now, done, tokens if isinstance(tokens, float) else 0.0)
            if now - self._said.get(label, row.started or now) >= PLAIN_PROGRESS_SECONDS:
                self._said[label] = now
                self._lines.append(f"{label}: {done:g}/{total:g} {details(row, now)}".rstrip())

    def say(self, status: str) -> None:
        """What the run as a whole does now."""
        with self._lock:
            if status != self.status:
                self.status = status
                if status:
                    self._lines.append(status)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return count(self.rows.values())

    def take_lines(self) -> list[str]:
        """The events since the last call, as plain text."""
        with self._lock:
            lines, self._lines = self._lines, []
            return lines

    def snapshot(self) -> dict[str, Any]:
        """The board as JSON, for `lifespan status` in another terminal."""
        now = time.monotonic()
        under_way = self.under_way()
        with self._lock:
            return {
                "under_way": under_way,
                "title": self.title,
                "status": self.status,
                "seconds": now - self.began,
                "stages": [
                    {
                        "label": row.label,
                        "group": row.group,
                        "state": row.state,
                        "seconds": row.seconds(now),
                        "done": row.done,
                        "total": row.total,
                        "details": details(row, now) if row.state == "running" else row.message,
                    }
                    for row in self.rows.values()
                ],
            }

    def render(self, height: int = 40) -> RenderableType:
        """The table, at most `height` lines high: what runs or failed is always there, the rest as far as it fits."""
        now = time.monotonic()
        with self._lock:
            totals = count(self.rows.values())
            status = f" · {self.status}" if self.status else ""
            head = Text.assemble((f"lifespan · {self.title}", "bold"), f" · {clock(now - self.began)}{status}")
            tally = Text(" · ").join(Text(f"{n} {state}", LOOK[state][1]) for state, n in totals.items() if n)
            groups: dict[str, list[Row]] = {}
            for row in self.rows.values():
                groups.setdefault(row.group, []).append(row)
            table = Table.grid(padding=(0, 1))
            for _ in range(6):
                table.add_column(no_wrap=True)
            for label, rows in chosen(groups, max(3, height - 4)):
                add_rows(table, label, rows, len(groups[label]), count(groups[label]), now)
        return Group(head, tally, table)


def chosen(groups: Mapping[str, Sequence[Row]], room: int) -> list[tuple[str, list[Row]]]:
    """Which rows of each group to draw in `room` lines; a group whose rows are left out keeps its counting line."""
    if sum(len(rows) for rows in groups.values()) <= room:
        return [(group, list(rows)) for group, rows in groups.items()]
    states = ("running", "failed", "held")
    lively = {group: [row for row in rows if row.state in states] for group, rows in groups.items()}
    left = room - sum(1 + len(rows) for rows in lively.values())
    result = []
    for group, rows in groups.items():
        extra = len(rows) - len(lively[group])
        if lively[group] and extra <= left:  # the part of the life that is going on is worth its lines
            left -= extra
            result.append((group, list(rows)))
        else:
            result.append((group, lively[group]))
    return result


def add_rows(table: Table, group: str, rows: Sequence[Row], size: int, states: Mapping[str, int], now: float) -> None:
    name = Text(group, "bold")
    if len(rows) < size:
        summary = ", ".join(f"{n} {state}" for state, n in states.items() if n)
        table.add_row(name, "", Text(summary, "dim"))
        name = Text()
    for row in rows:
        mark, style = LOOK[row.state]
        bar: RenderableType = ""
        if row.state == "running":
            bar = ProgressBar(total=row.total or None, completed=row.done, width=24, pulse=False) if row.total else ""
            said = details(row, now)
        else:
            said = row.message if row.state in ("failed", "held", "skipped") else ""
        took = clock(row.seconds(now)) if row.started is not None else ""
        short = said.splitlines()[0][:90] if said else ""
        label = Text(row.label, style if row.state != "done" else "")
        table.add_row(name, Text(mark, style), label, Text(took, "dim", justify="right"), bar, Text(short, "dim"))
        name = Text()


def details(row: Row, now: float) -> str:
    """`1.2M tokens/s, loss 2.31, 0:12 left`, as far as the stage tells."""
    parts = []
    if (speed := row.speed()) is not None:
        parts.append(f"{short_number(speed)} tokens/s")
    for name, value in row.info.items():
        if name != "tokens":
            parts.append(f"{name} {value if isinstance(value, str) else format(value, '.4g')}")
    if (left := row.seconds_left(now)) is not None and row.done < row.total:
        parts.append(f"{clock(left)} left")
    return ", ".join(parts)


def count(rows: Any) -> dict[str, int]:
    totals = dict.fromkeys(STATES, 0)
    for row in rows:
        totals[row.state] += 1
    return totals


def clock(seconds: float) -> str:
    """3.2s, 0:42, 1:05:10."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def short_number(value: float) -> str:
    """1234567 -> 1.23M."""
    for limit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


@contextmanager
def showing(board: Board, console: Console | None = None) -> Iterator[None]:
    """Draw the board until the block ends: in place on a terminal, else one line per event."""
    console = console or Console()
    if console.is_terminal:
        with _Drawing(board, console):
            yield
        return
    stop = threading.Event()

    def speak() -> None:
        for line in board.take_lines():
            text = f"[{clock(time.monotonic() - board.began):>6}] {line}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    def listen() -> None:
        while not stop.wait(0.2):
            speak()

    board.say("starting")
    console.print(f"lifespan · {board.title}", markup=False, highlight=False)
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        speak()


class _Drawing(Live):
    """Rich's live display, asking the board at each refresh."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        super().__init__(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=False)

    def get_renderable(self) -> RenderableType:
        return self._board.render(self.console.height)
