"""The dashboard on a home of 1,000 generated runs in a real Chromium: part of `make bench`. No time is asserted.

    python tests/benchmarks/ui_speed.py

Wanted: rows within 1 s, a chart of ten runs within 1.5 s, a slider step within 100 ms, and the page of runs with at
most 150 kB in at most 10 requests.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from generated_runs import fill, run_name

from dashboards.app.outside import Outside
from dashboards.app.server import make_app
from flows.services.sockets import listen
from storage.home import Home

RUNS, POINTS, REPEATS, STEPS = 1000, 2000, 5, 12


def drawn(page: Any, more_than: int) -> None:
    while int(page.evaluate("document.body?.dataset.drawn || 0")) <= more_than:
        time.sleep(0.004)


def first_view(driver: Any, address: str, path: str) -> tuple[float, int, int]:
    """Seconds to the drawn page in a new browser, its bytes over the wire, and its requests."""
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    size, count = [0], [0]

    def arrived(event: dict[str, Any]) -> None:
        size[0] += int(event["encodedDataLength"])
        count[0] += 1

    session.on("Network.loadingFinished", arrived)
    began = time.perf_counter()
    page.goto(address + path, wait_until="commit")
    drawn(page, 0)
    seconds = time.perf_counter() - began
    time.sleep(1.0)  # what comes after the rows
    browser.close()
    return seconds, size[0], count[0]


def slider(driver: Any, address: str, path: str, name: str) -> float:
    """Median seconds from a key on a slider to the redrawn page."""
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page()
    page.goto(address + path)
    drawn(page, 0)
    page.locator(f"input[name={name}]").focus()
    taken = []
    for _ in range(STEPS):
        before = int(page.evaluate("document.body.dataset.drawn"))
        began = time.perf_counter()
        page.keyboard.press("ArrowRight")
        drawn(page, before)
        taken.append(time.perf_counter() - began)
        time.sleep(0.1)
    browser.close()
    return statistics.median(taken)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        home = Home(folder)
        fill(home, RUNS, POINTS)
        home.tables.compact()
        listener = listen("127.0.0.1", 0)
        app = make_app(home, Outside(), frozenset({"127.0.0.1"}), True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ten = ",".join(run_name(number) for number in range(10))
        for title, path in (("runs", "/"), ("compare of 10 runs", f"/compare?runs={ten}")):
            views = [first_view(driver, address, path) for _ in range(REPEATS + 1)][1:]  # the first reads the tables
            seconds, size, count = (statistics.median(view[i] for view in views) for i in range(3))
            print(f"{title:20} drawn in {seconds:.2f} s, {size / 1000:.0f} kB, {count:.0f} requests")
        step = slider(driver, address, f"/compare?runs={ten}&smooth=0.5", "smooth")
        print(f"{'smoothing of 10 runs':20} {1000 * step:.0f} ms a step")
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
