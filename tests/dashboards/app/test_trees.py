"""A search as a tree: places by hand, the way to the solution, what a node says, and the page that draws it."""

from __future__ import annotations

import asyncio

import httpx
from smoke_life import SmokeLife

from dashboards.app.figures.trees import Thought, places, tree_figure, way_to_solution
from dashboards.app.outside import Outside
from dashboards.app.server import make_app
from storage.queries import query

#        0
#      1   2
#     3 4   5
PARENTS = [None, 0, 0, 1, 1, 2]


def thought(place: int, status: str = "expanded") -> Thought:
    return Thought(f"step {place} <a href='http://x'>", PARENTS[place], 0.5, status, 3)


def test_leaves_stand_side_by_side_and_parents_in_the_middle_over_them() -> None:
    assert places(PARENTS) == [(1.25, 0), (0.5, 1), (2.0, 1), (0.0, 2), (1.0, 2), (2.0, 2)]
    deep = places([None, *range(5000)])
    assert deep[-1] == (0.0, 5000)


def test_the_way_to_the_solution_is_thick_and_a_label_is_no_link() -> None:
    nodes = [thought(place, "solved" if place == 4 else "expanded") for place in range(6)]
    assert way_to_solution(nodes) == {0, 1, 4}
    assert way_to_solution(nodes[:4]) == set()
    figure = tree_figure(nodes)
    thin, thick, *marks = figure["data"]
    assert (len(thin["x"]), len(thick["x"])) == (3 * 3, 3 * 2) and thick["line"]["width"] > thin["line"]["width"]
    assert sum(len(one["x"]) for one in marks) == 6
    told = [text for one in marks for text in one["hovertext"]]
    assert not any("<a" in text for text in told) and all("value 0.50 · 3 tokens" in text for text in told)


def test_an_item_of_a_real_search_is_drawn_with_every_node_that_was_written(smoke: SmokeLife) -> None:
    sql = "SELECT strategy, item_id, count(*) AS n FROM trees GROUP BY ALL ORDER BY n DESC, item_id LIMIT 1"
    (one,) = query(smoke.home, sql).to_pylist()
    asked = {"run": smoke.run_id, "suite": "puzzles", "model": "puzzles", "strategy": one["strategy"]}

    async def page() -> httpx.Response:
        app = make_app(smoke.home, Outside(), frozenset({"127.0.0.1"}), True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            return await client.get("/api/page/reasoning", params={**asked, "item": one["item_id"]})

    blocks = asyncio.run(page()).json()["blocks"]
    (chart,) = [block for block in blocks if block["kind"] == "chart" and block["id"] == "tree"]
    (words,) = [block for block in blocks if block["kind"] == "tree"]
    marks = [trace for trace in chart["figure"]["data"] if trace["mode"].startswith("markers")]
    assert sum(len(trace["x"]) for trace in marks) == len(words["nodes"]) == one["n"]
