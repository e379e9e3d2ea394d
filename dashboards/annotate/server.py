"""The server of the annotation page: a token in a header says who asks, and a judgement is on the disk when the
answer goes out.

No cookie is ever set, so another page in the same browser has nothing to ride on; the token lies in the storage of
this page's origin. Requests must name a host that we serve (a name that was rebound to this address is none) and, where
they carry an Origin, it must be ours. The page's policy allows its own script and style and nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from components.rlhf.judgements import CONFIDENCES, Item, Judgement, judged, newest, next_item, progress, shown_order
from dashboards.guard import Guard
from storage.annotations import AnnotationError, Annotations, Instructions

MAX_BODY = 64 * 1024
IN_HAND_SECONDS = 300.0  # an item that someone looks at goes to others last for so long
_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css", "/icon.svg": "icon.svg"}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class _Batch:
    """A published batch as the annotators' requests need it."""

    id: str
    title: str
    overlap: int
    items: tuple[Item, ...]


class _Desk:
    """What the requests share: the store, and which items lie before whom. No lock is held over a disk write, and each
    annotator writes a file of their own, so nobody waits for anybody."""

    def __init__(self, annotations: Annotations, instructions: Instructions, stored: Callable[[], None]) -> None:
        self.annotations, self.instructions, self.stored = annotations, instructions, stored
        self._in_hand: dict[tuple[str, str], tuple[str, float]] = {}  # (batch, annotator) -> item, since
        self._lock = threading.Lock()

    def batches(self) -> list[_Batch]:
        return [
            _Batch(b["batch"], b["title"], int(b["overlap"]), tuple(Item.from_json(item) for item in b["items"]))
            for b in self.annotations.batches()
        ]

    def judgements(self, batch: str) -> list[Judgement]:
        return [Judgement.from_json(line) for line in self.annotations.judgements(batch)]

    def next_for(self, annotator: str, wish: tuple[str, str] | None = None) -> dict[str, Any]:
        """The next item with how far everything is; `item` is None when nothing is left for this annotator. `wish`:
        batch and item of a draft, which is shown again."""
        mine = done = wanted = 0
        found: dict[str, Any] | None = None
        if wish is not None:
            with suppress(HTTPException):
                found = shown(*self.find(*wish), annotator)
        for batch in self.batches():
            said = self.judgements(batch.id)
            state = progress(batch.items, said, batch.overlap)
            mine, done, wanted = mine + state.by_annotator.get(annotator, 0), done + state.done, wanted + state.wanted
            if found is None:
                item = next_item(batch.items, said, annotator, batch.overlap, self._others(batch.id, annotator))
                if item is not None:
                    self._take(batch.id, annotator, item.item_id)
                    found = shown(batch, item, annotator)
        previous = self._previous(annotator)
        return {"item": found, "mine": mine, "done": done, "wanted": wanted, "previous": previous}

    def _previous(self, annotator: str) -> dict[str, str] | None:
        """The item that the annotator judged last, which `undo` brings back."""
        last: tuple[str, str, str] | None = None
        for batch in self.annotations.batches():
            for line in self.annotations.judgements(batch["batch"]):
                if line["annotator"] == annotator and (last is None or line["submitted_at"] >= last[0]):
                    last = (line["submitted_at"], batch["batch"], line["item_id"])
        return None if last is None else {"batch": last[1], "item_id": last[2]}

    def again(self, annotator: str, batch_id: str, item_id: str) -> dict[str, Any]:
        """An item that the annotator judged, with what they said."""
        batch, item = self.find(batch_id, item_id)
        said = [j for j in newest(self.judgements(batch.id)) if (j.annotator, j.item_id) == (annotator, item_id)]
        if not said:
            raise HTTPException(404, "you have not judged this item")
        order = said[0].order
        places = None if said[0].ranks is None else [said[0].ranks[i] for i in order]
        before = {"places": places, "confidence": said[0].confidence, "comment": said[0].comment}
        return {**shown(batch, item, annotator), "before": before}

    def find(self, batch_id: str, item_id: str) -> tuple[_Batch, Item]:
        for batch in self.batches():
            for item in batch.items if batch.id == batch_id else ():
                if item.item_id == item_id:
                    return batch, item
        raise HTTPException(404, "no such item: reload the page")

    def _others(self, batch: str, annotator: str) -> Mapping[str, int]:
        now = time.monotonic()
        with self._lock:
            return Counter(
                item
                for (where, who), (item, since) in self._in_hand.items()
                if where == batch and who != annotator and now - since < IN_HAND_SECONDS
            )

    def _take(self, batch: str, annotator: str, item: str) -> None:
        with self._lock:
            self._in_hand[batch, annotator] = (item, time.monotonic())


def shown(batch: _Batch, item: Item, annotator: str) -> dict[str, Any]:
    """An item as the page gets it: the answers in this annotator's order, and not a word of where they came from."""
    return {
        "batch": batch.id,
        "title": batch.title,
        "item_id": item.item_id,
        "context": [{"role": turn.role, "content": turn.content} for turn in item.context],
        "prompt": item.prompt,
        "answers": [item.answers[i].text for i in shown_order(item, annotator)],
    }


def make_app(
    annotations: Annotations,
    instructions: Instructions,
    hosts: frozenset[str],
    local_only: bool,
    stored: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The application.

    Args:
        annotations: where everything lies.
        instructions: what the page shows.
        hosts: names and addresses (without port) under which it is served.
        local_only: only this machine reaches it. Otherwise any IP address is accepted as its name as well.
        stored: called after each new judgement.
    """
    desk = _Desk(annotations, instructions, stored)
    routes = [Route(path, _file(name)) for path, name in _FILES.items()]
    routes += [
        Route("/api/next", _api(desk, _next)),
        Route("/api/item", _api(desk, _item)),
        Route("/api/judgements", _api(desk, _judge), methods=["POST"]),
    ]
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: _error, AnnotationError: _conflict, OSError: _disk}
    )
    return Guard(app, hosts, local_only, _POLICY)


def _file(name: str) -> Callable[[Request], Response]:
    path = Path(__file__).with_name(name)
    kind = _TYPES[path.suffix]

    def serve(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=f"{kind}; charset=utf-8")

    return serve


def _api(desk: _Desk, answer: Callable[[_Desk, str, Request, Any], dict[str, Any]]) -> Callable[[Request], Any]:
    """A request of a known annotator. The work is done in a thread: a slow disk holds up nobody else."""
    from starlette.concurrency import run_in_threadpool

    async def endpoint(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        name = await run_in_threadpool(desk.annotations.who, token) if scheme.lower() == "bearer" and token else None
        if name is None:
            raise HTTPException(401, "the token is not known here: ask for a new one", {"WWW-Authenticate": "Bearer"})
        body: Any = None
        if request.method == "POST":
            if request.headers.get("content-type", "").split(";")[0] != "application/json":
                raise HTTPException(415, "send application/json")
            content = b""
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY:
                    raise HTTPException(413, f"more than {MAX_BODY} bytes")
            try:
                body = json.loads(content)
            except (ValueError, RecursionError):
                raise HTTPException(400, "not JSON") from None
            if not isinstance(body, dict):
                raise HTTPException(400, "send a JSON object")
        return JSONResponse(await run_in_threadpool(answer, desk, name, request, body))

    return endpoint


def _next(desk: _Desk, name: str, request: Request, body: Any) -> dict[str, Any]:
    told = {"version": desk.instructions.version, "sha256": desk.instructions.sha256, "text": desk.instructions.text}
    confidences = [{"value": value, "name": text} for value, text in CONFIDENCES.items()]
    batch, item = request.query_params.get("batch"), request.query_params.get("item")
    wish = (batch, item) if batch and item else None
    return {"annotator": name, "instructions": told, "confidences": confidences, **desk.next_for(name, wish)}


def _item(desk: _Desk, name: str, request: Request, body: Any) -> dict[str, Any]:
    return desk.again(name, request.query_params.get("batch", ""), request.query_params.get("item", ""))


def _judge(desk: _Desk, name: str, request: Request, body: Any) -> dict[str, Any]:
    """Store one filled-in form. The same form again is stored once."""
    form, batch_id, item_id = (_text(body, field, 64) for field in ("form", "batch", "item_id"))
    if not (len(form) >= 16 and all(c in "0123456789abcdef" for c in form)):
        raise HTTPException(400, "form: takes 16 to 64 hex digits")
    digest = _text(body, "instructions_sha256", 64)
    told = next((one for one in desk.annotations.instructions() if one.sha256 == digest), None)
    if told is None:
        raise HTTPException(400, "instructions_sha256: these instructions were never shown here: reload the page")
    places, seconds, confidence = (body.get(field) for field in ("places", "seconds", "confidence"))
    if places is not None and not isinstance(places, list):
        raise HTTPException(400, "places: takes a list of whole numbers, or null for a skip")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise HTTPException(400, "seconds: takes a number")
    if confidence is not None and (isinstance(confidence, bool) or not isinstance(confidence, int)):
        raise HTTPException(400, "confidence: takes a whole number or null")
    batch, item = desk.find(batch_id, item_id)
    try:
        judgement = judged(
            item,
            name,
            places,
            seconds=min(float(seconds), 86_400.0),
            submitted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            confidence=confidence,
            comment=_text(body, "comment", 100_000),
            instructions_version=told.version,
            instructions_sha256=told.sha256,
        )
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    new = desk.annotations.record(batch.id, name, {"form": form, **judgement.to_json()})
    if new:
        desk.stored()
    return {"stored": True, "new": new}


def _text(body: Mapping[str, Any], field: str, longest: int) -> str:
    value = body.get(field, "")
    if not isinstance(value, str) or len(value) > longest:
        raise HTTPException(400, f"{field}: takes text of at most {longest} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise HTTPException(400, f"{field}: holds half a character (a lone surrogate)") from None
    return value


def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _conflict(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


def _disk(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"not stored: {error}"}, 507)
