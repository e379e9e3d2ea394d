"""The final report of a life: collected from the tables, and written as one HTML file."""

from __future__ import annotations

from pathlib import Path

from dashboards.claims import earlier_verdicts, training_of
from dashboards.report_model import LifeReport, build
from dashboards.run_data import read_run
from storage.durable import write_bytes
from storage.home import Home


def collect(home: Home, run_id: str | None = None) -> LifeReport:
    """The report of a run, by default of the one that started last.

    Raises:
        dashboards.run_data.UnknownRun: no such run; names those that are there.
    """
    rows = read_run(home, run_id)
    training = training_of(home, rows)
    return build(rows, training, earlier_verdicts(home, training))


def write_page(life: LifeReport, path: str | Path) -> Path:
    """Write the HTML report, in one step: a reader sees the old file or the new one.

    Raises:
        OSError: the file cannot be written; a full disk is named as such.
    """
    from dashboards.html import render_html  # here: matplotlib is only paid for when a page is drawn

    target = Path(path)
    write_bytes(target, render_html(life).encode())
    return target


def write_report(home: Home, run_id: str | None, path: str | Path) -> Path:
    """Collect a run and write its page. Raises as `collect` and `write_page` do."""
    return write_page(collect(home, run_id), path)
