"""The annotation server: in this process for what it answers, as a process of its own for what it must survive."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.rlhf.judgements import Candidate, Item, batch_id, shown_order
from dashboards.annotate.server import make_app
from dashboards.annotate.table import write_judgements
from storage.home import Home

ROOT = Path(__file__).parents[3]
HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
NASTY = "</script><img src=x onerror=alert(1)> & \u2028"


def items(number: int) -> list[Item]:
    made = [
        Item(f"request {i}", tuple(Candidate(f"answer {i}.{k}", f"secret{k}", 0.7) for k in range(3)))
        for i in range(number - 1)
    ]
    return [*made, Item(NASTY, (Candidate(NASTY, "secret0"), Candidate("plain", "secret1")))]


def publish(home: Home, number: int = 3, overlap: int = 2) -> str:
    made = items(number)
    batch = batch_id(made)
    home.annotations.publish(batch, "stories", overlap, [item.to_json() for item in made])
    return batch


def ask(home: Home, method: str, path: str, token: str = "", local_only: bool = True, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        app = make_app(home.annotations, home.annotations.instruct("Look closely."), HOSTS, local_only)
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8230") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(go())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def filled(page: dict[str, Any], digit: str, **fields: Any) -> dict[str, Any]:
    item = page["item"]
    places = list(range(1, len(item["answers"]) + 1))
    told = page["instructions"]["sha256"]
    made = {"form": digit * 16, "batch": item["batch"], "item_id": item["item_id"], "places": places}
    return {**made, "confidence": 3, "comment": "", "seconds": 1.5, "instructions_sha256": told, **fields}


def test_an_item_is_shown_without_its_origin_in_the_annotators_own_order(home: Home) -> None:
    publish(home)
    token = home.annotations.add("ann")
    answer = ask(home, "GET", "/api/next", token)
    assert answer.status_code == 200 and "secret" not in answer.text and "0.7" not in answer.text
    page = answer.json()
    item = next(i for i in items(3) if i.item_id == page["item"]["item_id"])
    assert page["item"]["answers"] == [item.answers[i].text for i in shown_order(item, "ann")]
    assert page["instructions"] == {"version": 1, "sha256": page["instructions"]["sha256"], "text": "Look closely.\n"}
    assert (page["mine"], page["done"], page["wanted"]) == (0, 0, 6)


def test_a_judgement_is_stored_with_all_that_belongs_to_it(home: Home) -> None:
    batch = publish(home)
    token = home.annotations.add("ann")
    page = ask(home, "GET", "/api/next", token).json()
    item = next(i for i in items(3) if i.item_id == page["item"]["item_id"])
    places = [2] * (len(item.answers) - 1) + [7]  # all tie but the last one shown, which is worse
    body = filled(page, "a", places=places, comment="näïve ✓ " + NASTY, confidence=2, seconds=12.3456)
    assert ask(home, "POST", "/api/judgements", token, json=body).json() == {"stored": True, "new": True}
    (line,) = home.annotations.judgements(batch)
    order = shown_order(item, "ann")
    assert line["order"] == list(order)
    assert [line["ranks"][i] for i in order] == [1] * (len(order) - 1) + [2]
    assert (line["annotator"], line["confidence"], line["seconds"]) == ("ann", 2, 12.346)
    assert line["comment"] == "näïve ✓ " + NASTY
    assert (line["instructions_version"], line["instructions_sha256"]) == (1, page["instructions"]["sha256"])
    assert line["submitted_at"].endswith("+00:00")


def test_sent_twice_is_stored_once_and_sent_changed_is_refused(home: Home) -> None:
    batch = publish(home)
    token = home.annotations.add("ann")
    body = filled(ask(home, "GET", "/api/next", token).json(), "b")
    assert ask(home, "POST", "/api/judgements", token, json=body).json()["new"] is True
    assert ask(home, "POST", "/api/judgements", token, json=body).json() == {"stored": True, "new": False}
    changed = {**body, "comment": "another"}
    assert ask(home, "POST", "/api/judgements", token, json=changed).status_code == 409
    assert len(home.annotations.judgements(batch)) == 1


def test_undo_brings_the_last_one_back_and_the_new_word_counts(home: Home) -> None:
    batch = publish(home)
    token = home.annotations.add("ann")
    first = ask(home, "GET", "/api/next", token).json()
    ask(home, "POST", "/api/judgements", token, json=filled(first, "c", places=None, comment="hm"))
    page = ask(home, "GET", "/api/next", token).json()
    assert page["previous"] == {"batch": batch, "item_id": first["item"]["item_id"]}
    back = ask(home, "GET", "/api/item", token, params={"batch": batch, "item": page["previous"]["item_id"]}).json()
    assert back["answers"] == first["item"]["answers"]
    assert back["before"] == {"places": None, "confidence": 3, "comment": "hm"}
    ask(home, "POST", "/api/judgements", token, json=filled(first, "d"))
    assert len(home.annotations.judgements(batch)) == 2
    write_judgements(home)
    rows = home.tables.read("judgements").to_pylist()
    assert sorted((row["superseded"], row["skipped"]) for row in rows) == [(False, False), (True, True)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"places": [1]}, "places must be"),
        ({"places": [0, 1, 2]}, "places must be"),
        ({"places": "1 2 3"}, "places: takes a list"),
        ({"confidence": 9}, "confidence must be one of 1, 2, 3"),
        ({"seconds": -1}, "seconds must be a number from 0 up"),
        ({"seconds": "soon"}, "seconds: takes a number"),
        ({"comment": "x" * 4001}, "the comment has 4001 characters"),
        ({"comment": "\ud800"}, "lone surrogate"),
        ({"form": "zz"}, "form: takes 16 to 64 hex digits"),
        ({"instructions_sha256": "0" * 64}, "never shown here"),
        ({"item_id": "0" * 24}, "no such item"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_stored(home: Home, change: dict[str, Any], says: str) -> None:
    batch = publish(home, number=2)
    token = home.annotations.add("ann")
    home.annotations.record(batch, "ann", judgement_of_the_nasty_item(home))  # so that the item with 3 answers comes
    page = ask(home, "GET", "/api/next", token).json()
    answer = ask(home, "POST", "/api/judgements", token, content=json.dumps(filled(page, "e", **change)),
                 headers={"Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code in (400, 404) and says in answer.json()["error"]
    assert len(home.annotations.judgements(batch)) == 1


def judgement_of_the_nasty_item(home: Home) -> dict[str, Any]:
    item = items(2)[-1]
    return {"form": "f" * 16, "item_id": item.item_id, "ranks": [1, 2], "order": [0, 1], "seconds": 1.0,
            "submitted_at": "2026-01-01T00:00:00+00:00"}  # fmt: skip


def test_strangers_other_pages_and_rebound_names_are_turned_away(home: Home) -> None:
    publish(home)
    token = home.annotations.add("ann")
    assert ask(home, "GET", "/api/next").status_code == 401
    assert ask(home, "GET", "/api/next", "guessed").status_code == 401
    assert ask(home, "GET", "/api/next", token, headers={"Host": "evil.example"}).status_code == 403
    assert ask(home, "GET", "/", headers={"Host": "10.0.0.1"}).status_code == 403
    assert ask(home, "GET", "/", headers={"Host": "10.0.0.1"}, local_only=False).status_code == 200  # cannot be rebound
    assert ask(home, "GET", "/", headers={"Host": "evil.example"}, local_only=False).status_code == 403
    assert ask(home, "GET", "/api/next", token, headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask(home, "GET", "/api/next", token, headers={"Origin": "null"}).status_code == 403
    assert ask(home, "GET", "/api/next", token, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    same = ask(home, "GET", "/api/next", token, headers={"Origin": "http://127.0.0.1:8230"})
    assert same.status_code == 200
    body = filled(same.json(), "a")
    assert ask(home, "POST", "/api/judgements", token, data=body).status_code == 415  # what a plain form could send
    large = {**body, "comment": "x" * 70_000}
    assert ask(home, "POST", "/api/judgements", token, json=large).status_code == 413
    home.annotations.remove("ann")
    assert ask(home, "GET", "/api/next", token).status_code == 401


def test_the_page_asks_for_nothing_from_outside(home: Home) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        answer = ask(home, "GET", path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)
        assert "set-cookie" not in answer.headers
    script = ask(home, "GET", "/page.js").text
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_tokens_are_not_kept(home: Home) -> None:
    token = home.annotations.add("ann")
    stored = b"".join(path.read_bytes() for path in home.annotations.folder.rglob("*") if path.is_file())
    assert token.encode() not in stored
    assert home.annotations.who(token) == "ann" and home.annotations.who("") is None


# -- as a process --------------------------------------------------------------------------------------------------


@contextmanager
def serving(home: Home) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.commands.cli", "annotate", "--no-open", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "LIFESPAN_HOME": home.root, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        url = next(line.strip() for line in process.stdout if line.startswith("http://"))
        yield url.rstrip("/"), process
    finally:
        process.kill()
        process.wait()


def client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)


def test_two_annotators_side_by_side_and_a_kill(home: Home) -> None:
    """Both judge everything at once; then the server is killed the moment it answered, and nothing is missing."""
    batch = publish(home, number=12)
    tokens = {name: home.annotations.add(name) for name in ("ann", "bob", "cleo")}
    problems: list[str] = []

    def judge_all(url: str, name: str) -> None:
        with client(url, tokens[name]) as http:
            for number in range(13):
                page = http.get("/api/next").json()
                if page["item"] is None:
                    return
                body = filled(page, f"{number:x}")
                answers = [http.post("/api/judgements", json=body).json() for _ in range(2)]
                if answers != [{"stored": True, "new": True}, {"stored": True, "new": False}]:
                    problems.append(f"{name}: {answers}")

    with serving(home) as (url, process):
        threads = [threading.Thread(target=judge_all, args=(url, name)) for name in ("ann", "bob")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        publish(home, number=13)  # another batch: one more item differs
        with client(url, tokens["cleo"]) as http:
            page = http.get("/api/next").json()
            body = filled(page, "f")
            assert http.post("/api/judgements", json=body).json()["new"] is True
            process.send_signal(signal.SIGKILL)
    said = home.annotations.judgements(batch)
    for item in items(12):
        assert sorted(one["annotator"] for one in said if one["item_id"] == item.item_id) == ["ann", "bob"]
    everywhere = [line for b in home.annotations.batches() for line in home.annotations.judgements(b["batch"])]
    assert [line["form"] for line in everywhere if line["annotator"] == "cleo"] == ["f" * 16]
    # What a kill tore was never acknowledged: it is cut off, and the next judgement stands whole.
    journal = next((home.annotations.folder / "batches").glob("*/journals/cleo.jsonl"))
    with journal.open("ab") as file:
        file.write(b'{"form": "torn')
    with serving(home) as (url, _), client(url, tokens["cleo"]) as http:
        assert http.post("/api/judgements", json=body).json() == {"stored": True, "new": False}
        page = http.get("/api/next").json()
        assert http.post("/api/judgements", json=filled(page, "e")).json()["new"] is True
    forms = [json.loads(line)["form"] for line in journal.read_text().splitlines()]
    assert forms == ["f" * 16, "e" * 16]
