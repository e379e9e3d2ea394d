"""Every page in a real browser, wide and narrow, light and dark: drawn, silent, inert, nobody else asked."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import generated_runs
import pytest
import uvicorn
from smoke_life import SmokeLife

from dashboards.app.outside import Outside
from dashboards.app.pages.registry import PAGES
from dashboards.app.server import make_app
from flows.services.sockets import listen
from storage.home import Home

NASTY = "<img src=x onerror=\"document.title='owned'\">"
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("home"))
    generated_runs.fill(home, 60, points=200, name=NASTY)
    listener = listen("127.0.0.1", 0)
    app = make_app(home, Outside(), frozenset({"127.0.0.1"}), True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="peer not installed: pip install '.[peers]'")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


def drawn(page: Any, more_than: int = 0) -> None:
    for _ in range(600):
        if int(page.evaluate("document.body.dataset.drawn || 0")) > more_than:
            return
        time.sleep(0.05)
    raise AssertionError("the page was not drawn")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (800, "dark")])
def test_every_page(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda one: problems.append(one.url) if not one.url.startswith((address, "data:")) else None)
    for one in PAGES:
        page.goto(address + one.path)
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{one.slug} is wider than the page"
        assert page.title() != "owned" and page.locator("img").count() == 0, one.slug
    assert problems == []
    context.close()


def test_the_keyboard_alone_finds_chooses_and_compares(browser: Any, address: str) -> None:
    page = browser.new_context().new_page()
    page.goto(address)
    drawn(page)
    page.keyboard.press("/")
    page.keyboard.type(generated_runs.run_name(59))
    assert page.locator("tbody tr[aria-rowindex]").count() == 1
    page.fill("input[type=search]", "")
    page.locator(".rows").focus()
    for key in ("x", "ArrowDown", "x"):
        page.keyboard.press(key)
    assert f"chosen={generated_runs.run_name(59)}%2C{generated_runs.run_name(58)}" in page.url
    page.click("text=Compare 2")
    drawn(page)
    assert page.locator(".js-plotly-plot").count() == 1
    before = page.url
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    drawn(page, 1)
    assert page.url != before and "smooth=0.01" in page.url
    page.keyboard.press("Escape")
    page.locator("body").press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/scaling")
    page.context.close()


def test_a_name_in_a_figure_stays_a_name(browser: Any, address: str) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{address}/compare")
    drawn(page)
    assert NASTY[:10] in page.locator(".js-plotly-plot .legend").first.text_content()
    assert page.title() != "owned"
    page.context.close()


def test_the_report_sorts_and_copies_and_asks_nobody(browser: Any, smoke: SmokeLife) -> None:
    """The policy in the page lets its own script run, and nothing else."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text))
    page.on("request", lambda one: problems.append(one.url) if not one.url.startswith(("file:", "data:")) else None)
    page.goto(smoke.home.report(smoke.run_id).as_uri())
    table = page.locator("#cost table").first
    column = table.locator("thead th").all_inner_texts().index("wall time")
    seconds = lambda: [_seconds(row) for row in table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()]  # noqa: E731
    before = seconds()
    table.locator("thead button").nth(column).click()
    assert seconds() == sorted(before, reverse=True) and table.locator("[aria-sort=descending]").count() == 1
    table.locator("thead button").nth(column).press("Enter")
    assert seconds() == sorted(before)
    assert page.locator(".copy").count() >= page.locator("main table").count()
    assert page.locator("#reasoning svg title").count() > 5
    folded = page.locator("#reasoning .table details").first
    assert folded.get_attribute("open") is None and page.locator("nav a").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and problems == []
    context.close()


def _seconds(text: str) -> float:
    """ "4.1 s", "1 min 04 s"."""
    words = text.split()
    return sum(float(number) * {"s": 1, "min": 60}[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
