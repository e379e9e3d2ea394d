"""Every page on an empty home, a real life and many generated runs; its figures as data; what no link may break."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generated_runs
import httpx
import plotly.graph_objects as go
import pytest
from smoke_life import SmokeLife

from dashboards.app.address import Address
from dashboards.app.figures.base import painted
from dashboards.app.outside import Outside
from dashboards.app.pages.registry import PAGES
from dashboards.app.server import make_app
from storage.home import Home
from storage.queries import query

NOTHING = Outside()
HOSTS = frozenset({"127.0.0.1", "localhost"})
CSS = Path("dashboards/app/static/app.css").read_text(encoding="utf-8")
PALETTE = dict.fromkeys(re.findall(r"(--\w+):", CSS), (1, 2, 3))
TOKEN = "a-token-of-length"


def ask(home: Home, path: str, *, outside: Outside = NOTHING, token: str = "", **options: Any) -> httpx.Response:
    async def go_there() -> httpx.Response:
        transport = httpx.ASGITransport(app=make_app(home, outside, HOSTS, True, token))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8240") as client:
            return await client.request(options.pop("method", "GET"), path, **options)

    return asyncio.run(go_there())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("many"))
    generated_runs.fill(home, 40, points=50, name="<img src=x onerror=alert(1)>")
    return home


@pytest.fixture(params=["empty", "smoke", "many"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "empty":
        return Home(tmp_path)
    if request.param == "many":
        return request.getfixturevalue("many")  # type: ignore[no-any-return]
    life: SmokeLife = request.getfixturevalue("smoke")
    return life.home


def charts(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (block for block in blocks if block["kind"] == "chart")


@pytest.mark.parametrize("page", PAGES, ids=[page.slug for page in PAGES])
def test_a_page_says_something_and_its_figures_are_ones_that_plotly_takes(home: Home, page: Any) -> None:
    assert ask(home, page.path).status_code == 200
    answer = ask(home, f"/api/page/{page.slug}")
    assert answer.status_code == 200, answer.text
    view = answer.json()
    assert view["blocks"] and view["title"]
    ids = [block["id"] for block in view["blocks"] if "id" in block]
    assert len(ids) == len(set(ids))
    for chart in charts(view["blocks"]):
        go.Figure(painted(chart["figure"], PALETTE))  # raises for a property or a value that plotly does not know
        assert chart["figure"]["data"], chart["id"]


@pytest.mark.parametrize("page", PAGES, ids=[page.slug for page in PAGES])
def test_the_sql_beside_charts_and_tables_can_be_asked_as_it_stands(home: Home, page: Any) -> None:
    blocks = ask(home, f"/api/page/{page.slug}").json()["blocks"]
    for sql in {block["sql"] for block in blocks if block.get("sql")}:
        query(home, sql)


@pytest.mark.parametrize("page", PAGES, ids=[page.slug for page in PAGES])
def test_no_address_breaks_a_page(many: Home, page: Any) -> None:
    names = (
        "run",
        "runs",
        "run_a",
        "stage",
        "metric",
        "metrics",
        "x",
        "smooth",
        "n",
        "at",
        "policy",
        "item",
        "a",
        "months",
    )
    for value in ("", "nan", "-1e999", "'; DROP TABLE runs --", "x" * 2000, "%00", ",,,"):
        answer = ask(many, f"/api/page/{page.slug}", params=dict.fromkeys(names, value))
        assert answer.status_code in (200, 400), (page.slug, value, answer.text)
        if answer.status_code == 400:
            assert answer.json()["error"]


def test_an_address_shows_the_same_page_again(many: Home) -> None:
    first = ask(many, "/api/page/compare?smooth=0.5&logx=1").json()
    again = ask(many, "/api/page/compare", params=first["address"]).json()
    assert again == first and first["address"]["smooth"] == "0.5"


def test_what_runs_now_is_seen_and_what_was_killed_is_told_apart(many: Home) -> None:
    run = generated_runs.run_name(5)
    stage = {"label": "pretrain", "state": "running", "done": 1.0, "total": 2.0, "details": "loss 2", "seconds": 1.0}
    board = {"title": "life", "status": "", "pid": 1, "stages": [stage, {**stage, "state": "waiting"}]}
    view = ask(many, "/api/page/runs", outside=Outside(running=lambda: {run: board})).json()
    bars, table = view["blocks"][:2]
    assert bars["kind"] == "bars" and bars["items"][0]["share"] == 0.25 and view["refresh"] == 2.0
    states = dict(zip(table["rows"]["run_id"], table["rows"]["status"], strict=True))
    assert states[run] == "running" and states[generated_runs.run_name(11)] == "killed"


def test_curves_hold_the_spikes_and_seeds_become_one_line(many: Home) -> None:
    runs = ",".join(generated_runs.run_name(n) for n in range(10))
    plain = ask(many, f"/api/page/compare?runs={runs}").json()
    figure = next(charts(plain["blocks"]))["figure"]
    assert sum(trace.get("name") is not None and trace.get("hoverinfo") != "skip" for trace in figure["data"]) == 10
    grouped = ask(many, f"/api/page/compare?runs={runs}&seeds=1").json()
    lines = [t for t in next(charts(grouped["blocks"]))["figure"]["data"] if t.get("hoverinfo") != "skip"]
    assert len(lines) == 2 and "4 other seeds" in lines[0]["name"]
    rows = query(many, "SELECT value FROM metrics WHERE run_id = $r ORDER BY step", {"r": generated_runs.run_name(0)})
    drawn = next(t for t in figure["data"] if generated_runs.run_name(0) in t["name"] and t.get("hoverinfo") != "skip")
    assert drawn["y"] == pytest.approx(rows["value"].to_pylist(), rel=1e-4)  # 50 points are fewer than the buckets
    (table,) = [block for block in plain["blocks"] if block.get("id") == "differences"]
    assert "set_model.d_model" in table["rows"] and "set_seed" in table["rows"] and "set_data.words" in table["rows"]


def test_nobody_else_may_ask(many: Home) -> None:
    assert ask(many, "/api/page/runs", headers={"Host": "evil.example"}).status_code == 403
    assert ask(many, "/api/page/runs", headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask(many, "/api/page/runs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert ask(many, "/api/page/runs", token=TOKEN).status_code == 401
    assert ask(many, "/api/page/runs", token=TOKEN, headers={"Authorization": "Bearer no"}).status_code == 401
    assert ask(many, "/api/page/runs", token=TOKEN, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert ask(many, "/", token=TOKEN).status_code == 200  # holds no data
    assert ask(many, "/report/x", token=TOKEN).status_code == 401
    for path in ("/", "/api/page/runs", "/static/x/app.js", "/nothing"):
        policy = ask(many, path).headers["content-security-policy"]
        assert "script-src 'self';" in policy and "default-src 'none'" in policy


def test_the_editor_reads_and_nothing_else(many: Home) -> None:
    def run(sql: str, **more: Any) -> httpx.Response:
        return ask(many, "/api/sql", method="POST", json={"sql": sql, **more})

    found = run("SELECT 1 AS a, 'x' AS b").json()
    assert (found["names"], found["rows"], found["count"]) == (["a", "b"], {"a": [1], "b": ["x"]}, 1)
    assert "only reads" in run("DROP TABLE runs").json()["error"]
    assert "$x" in run("SELECT $x").json()["error"]
    assert run("SELECT $x AS y", params={"x": "7"}).json()["rows"] == {"y": ["7"]}
    assert ask(many, "/api/sql", method="POST", content="{}").status_code == 415
    assert run("x" * 70_000).status_code == 413
    csv = ask(many, "/api/export", method="POST", json={"sql": "SELECT 1 AS a", "format": "csv"})
    assert csv.text.split() == ["a", "1"]
    parquet = ask(many, "/api/export", method="POST", json={"sql": "SELECT 1 AS a", "format": "parquet"})
    assert parquet.content[:4] == b"PAR1"


def test_what_this_server_cannot_do_it_says(many: Home) -> None:
    for path in ("start", "stop", "chat", "prefer"):
        answer = ask(many, f"/api/{path}", method="POST", json={"profile": "smoke"})
        assert answer.status_code == 404 and "this server" in answer.json()["error"]
    for path in ("/static/x/../server.py", "/static/x/server.py", "/report/..%2f..%2fetc", "/api/page/none"):
        assert ask(many, path).status_code == 404


def test_an_answer_is_streamed_and_its_end_told(many: Home) -> None:
    def answer(model: str, prompt: str, temperature: float, most: int) -> Iterator[str]:
        yield from ("a", "<b>")
        raise ValueError("too long")

    said = ask(many, "/api/chat", method="POST", json={"model": "m", "prompt": "p"}, outside=Outside(answer=answer))
    assert said.text.splitlines() == ['{"piece":"a"}', '{"piece":"<b>"}', '{"error":"too long"}']


def test_numbers_that_are_not_there_are_null(tmp_path: Path) -> None:
    home = Home(tmp_path)
    generated_runs.fill(home, 1, points=1)
    rows = {"run_id": "r", "key": generated_runs.key_of(0, "pretrain"), "stage": "pretrain", "name": "loss"}
    home.tables.write("metrics", "nan", [{**rows, "step": 1, "value": float("nan")}])
    for page in PAGES:
        assert "NaN" not in ask(home, f"/api/page/{page.slug}").text
    assert Address({"n": "inf"}).number("n", 2.0) == 2.0


def test_a_run_leads_to_mlflow_where_it_is_up(many: Home) -> None:
    run = generated_runs.run_name(5)
    up = Outside(services=lambda: (("MLflow", "http://127.0.0.1:5000"),), tracked=lambda at, run: f"{at}/#/{run}")
    links = dict(ask(many, f"/api/page/run?run={run}", outside=up).json()["links"])
    assert links["MLflow"] == f"/mlflow/{run}"
    answer = ask(many, links["MLflow"], outside=up)
    assert (answer.status_code, answer.headers["location"]) == (307, f"http://127.0.0.1:5000/#/{run}")
    assert "MLflow" not in dict(ask(many, f"/api/page/run?run={run}").json()["links"])
    assert ask(many, f"/mlflow/{run}").status_code == 404


def test_numbers_stand_against_a_baseline_and_an_unknown_one_is_none(many: Home) -> None:
    runs = [generated_runs.run_name(n) for n in (3, 4)]
    view = ask(many, "/api/page/compare", params={"runs": ",".join(runs), "baseline": runs[0]}).json()
    (table,) = [block for block in view["blocks"] if block.get("id") == "differences"]
    first, second = table["rows"]["held_out_loss"]
    assert table["rows"]["than_held_out_loss"] == pytest.approx([0.0, second - first])
    assert view["address"]["baseline"] == runs[0]
    plain = ask(many, "/api/page/compare", params={"runs": ",".join(runs), "baseline": "nobody"}).json()
    assert not [name for block in plain["blocks"] for name in block.get("rows", {}) if name.startswith("than_")]
