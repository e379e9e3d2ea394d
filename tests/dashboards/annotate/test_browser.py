"""The page in a real browser: keyboard, mouse, reload, a server that dies, texts that try to be markup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.rlhf.judgements import Candidate, Item, Judgement, batch_id, shown_order
from storage.home import Home

ROOT = Path(__file__).parents[3]
NASTY = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")]


@contextmanager
def serving(home: Home, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.commands.cli", "annotate", "--no-open", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "LIFESPAN_HOME": home.root, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield next(line.strip() for line in process.stdout if line.startswith("http://")), process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="peer not installed: pip install '.[peers]'")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def desk(tmp_path: Path) -> tuple[Home, str, list[Item]]:
    home = Home(tmp_path / "home")
    items = [Item(f"request {i} {NASTY}", tuple(Candidate(f"{c}{i} {NASTY}") for c in "xyz")) for i in range(3)]
    home.annotations.publish(batch_id(items), "stories", 1, [item.to_json() for item in items])
    return home, home.annotations.add("ann"), items


def ready(page: Any, part: str = "#work") -> None:
    page.wait_for_selector(f"{part}:not([hidden])")


def by_text(home: Home, items: list[Item], one: Item) -> dict[str, int]:
    """Rank by the first letter of the answer."""
    lines = [line for line in home.annotations.judgements(batch_id(items)) if line["item_id"] == one.item_id]
    said = Judgement.from_json(lines[-1])
    assert said.ranks is not None
    return {answer.text[0]: rank for answer, rank in zip(one.answers, said.ranks, strict=True)}


def current(page: Any, items: list[Item]) -> Item:
    return next(item for item in items if item.prompt == page.inner_text("#prompt"))


def test_a_whole_session(browser: Any, desk: tuple[Home, str, list[Item]]) -> None:
    home, token, items = desk
    batch = batch_id(items)
    context = browser.new_context(viewport={"width": 1100, "height": 1400})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if "127.0.0.1" not in request.url else None)
    with serving(home) as (url, process):
        port = int(url.rsplit(":", 1)[1].strip("/"))
        page.goto(url)
        ready(page, "#login")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice:not([hidden])")
        assert "not known" in page.inner_text("#notice")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        ready(page)
        first = current(page, items)

        # Texts are texts.
        assert page.title() != "owned" and page.locator("#work img, #work script").count() == 0
        assert page.inner_text(".answer[data-position='0'] p") == first.answers[shown_order(first, "ann")[0]].text

        # Keyboard: third is best, first and second tie behind it; a draft survives a reload.
        page.keyboard.press("3")
        page.keyboard.press("2")
        page.keyboard.press("u")
        page.keyboard.press("1")
        page.keyboard.press("=")
        page.keyboard.press("n")
        page.keyboard.type("first = second")
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.reload()
        ready(page)
        assert current(page, items) == first
        assert page.inner_text("#places").split() == ["1st", "3", "›", "2nd", "1", "next", "place"]
        assert page.input_value("#comment") == "first = second"
        page.keyboard.press("=")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_function("text => document.querySelector('#prompt').innerText !== text", arg=first.prompt)
        shown = [first.answers[i].text[0] for i in shown_order(first, "ann")]
        assert by_text(home, items, first) == {shown[2]: 1, shown[0]: 2, shown[1]: 2}
        (line,) = home.annotations.judgements(batch)
        assert (line["comment"], line["confidence"]) == ("first = second", 1) and 0 < line["seconds"] < 600

        # Mouse: click one, drag another before it; the one that is left comes last.
        second = current(page, items)
        page.click(".answer[data-position='1']")
        page.drag_and_drop(".answer[data-position='2'] p", "#places .gap >> nth=0")
        assert page.inner_text("#places").split()[:5] == ["1st", "3", "›", "2nd", "2"]

        # The server dies before the form arrives: nothing is lost, and it is stored once when it is back.
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.click("#submit")
        page.wait_for_selector("#notice:not([hidden])")
        assert "Not stored yet" in page.inner_text("#notice")
        page.close()
    with serving(home, port) as (url, process):
        page = context.new_page()
        page.goto(url)
        ready(page)
        third = current(page, items)
        assert third not in (first, second)
        shown = [second.answers[i].text[0] for i in shown_order(second, "ann")]
        assert by_text(home, items, second) == {shown[2]: 1, shown[1]: 2, shown[0]: 3}

        # Skip, see that nothing is left, take it back, judge it after all.
        page.keyboard.press("s")
        ready(page, "#done")
        assert "All judgements are in" in page.inner_text("#thanks")
        page.click("#back")
        ready(page)
        assert current(page, items) == third
        for key in ("1", "2", "3", "Enter"):
            page.keyboard.press(key)
        ready(page, "#done")
        shown = [third.answers[i].text[0] for i in shown_order(third, "ann")]
        assert by_text(home, items, third) == {shown[0]: 1, shown[1]: 2, shown[2]: 3}
        assert len(home.annotations.judgements(batch)) == 4
    assert problems == []
    context.close()


def test_two_annotators_in_one_browser_do_not_mix_their_drafts(
    browser: Any, desk: tuple[Home, str, list[Item]]
) -> None:
    home, token, _ = desk
    other = home.annotations.add("bob")
    context = browser.new_context()
    page = context.new_page()
    with serving(home) as (url, _):
        page.goto(f"{url}#token={token}")
        ready(page)
        assert "token" not in page.url
        page.keyboard.press("1")
        page.click("#leave")
        ready(page, "#login")
        page.fill("#token", other)
        page.keyboard.press("Enter")
        ready(page)
        assert page.inner_text("#name") == "bob" and page.inner_text("#places") == "next place"
        page.click("#leave")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        ready(page)
        page.wait_for_function("document.querySelector('#places').innerText.startsWith('1st')")
        assert page.inner_text("#name") == "ann"
    context.close()
