"""The pages, in the order of the navigation: a new page is a function and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboards.app.address import Address
from dashboards.app.outside import Outside
from dashboards.app.pages.alignment import alignment_page
from dashboards.app.pages.chat import chat_page
from dashboards.app.pages.compare import compare_page
from dashboards.app.pages.cost import cost_page
from dashboards.app.pages.data import data_page
from dashboards.app.pages.experts import experts_page
from dashboards.app.pages.paired import paired_page
from dashboards.app.pages.reasoning import reasoning_page
from dashboards.app.pages.run import run_page
from dashboards.app.pages.runs import runs_page
from dashboards.app.pages.scaling import scaling_page
from dashboards.app.pages.sql import sql_page
from dashboards.app.pages.training import training_page
from dashboards.app.view import View
from storage.home import Home


@dataclass(frozen=True)
class Page:
    """A page. charts: it needs the library that draws. key: the letter that goes there, after `g`."""

    slug: str
    path: str
    title: str
    view: Callable[[Home, Address, Outside], View]
    charts: bool = True
    key: str = ""


PAGES = (
    Page("runs", "/", "Runs", runs_page, charts=False, key="r"),
    Page("run", "/run", "Run", run_page, key="u"),
    Page("compare", "/compare", "Compare", compare_page, key="c"),
    Page("training", "/training", "Training", training_page, key="t"),
    Page("reasoning", "/reasoning", "Reasoning", reasoning_page, key="e"),
    Page("paired", "/paired", "Paired items", paired_page, key="p"),
    Page("alignment", "/alignment", "Alignment", alignment_page, key="a"),
    Page("scaling", "/scaling", "Scaling", scaling_page, key="s"),
    Page("cost", "/cost", "Cost", cost_page, key="o"),
    Page("data", "/data", "Data", data_page, key="d"),
    Page("experts", "/experts", "Experts", experts_page, key="x"),
    Page("chat", "/chat", "Chat", chat_page, charts=False, key="h"),
    Page("sql", "/sql", "SQL", sql_page, key="q"),
)
