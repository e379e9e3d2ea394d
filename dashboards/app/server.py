"""The server of the dashboard: pages that hold no data, and below `/api/` the data, bounded and behind the guard."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from dashboards.app.address import Address
from dashboards.app.outside import Outside
from dashboards.app.pages.registry import PAGES, Page
from dashboards.app.pages.runs import SQL, sparks
from dashboards.app.pages.sql import export, run_sql
from dashboards.app.pages.training import live_points
from dashboards.app.rows import ask, run_names
from dashboards.guard import Guard
from dashboards.run_data import UnknownRun
from storage.home import Home
from storage.rows import TableError

MAX_BODY = 64 * 1024
# Level 9 takes 40 ms of a slider's step, five times the query and the figure; 4 takes 8 and a tenth more bytes.
PACKED = 4
_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data: "
    f"blob:; connect-src 'self'; {_CLOSED}"
)


def warm(home: Home) -> None:
    """Ask what the first page asks: DuckDB's first query takes a second, which no visitor should wait for."""
    with contextlib.suppress(ValueError, OSError):  # the page itself will say what is wrong
        ask(home, SQL)


def make_app(home: Home, outside: Outside, hosts: frozenset[str], local_only: bool, token: str = "") -> ASGIApp:
    """The application.

    Args:
        home: whose tables it shows.
        outside: what it can do beside reading.
        hosts: names and addresses (without port) under which it is served.
        local_only: only this machine reaches it. Otherwise any IP address is accepted as its name as well.
        token: what requests for data must carry, "" for none.
    """
    pages: list[BaseRoute] = [Route(page.path, _shell(page, bool(token))) for page in PAGES]
    routes: list[BaseRoute] = [
        *pages,
        Route("/static/{version}/{name}", _static),
        Route("/plotly/{version}.js", _plotly),
        Route("/api/page/{slug}", _get(home, outside, _page)),
        Route("/api/sparks", _get(home, outside, lambda home, outside, request: sparks(home, _runs(request)))),
        Route("/api/runs", _get(home, outside, lambda home, outside, request: {"runs": run_names(home)})),
        Route("/api/live", _get(home, outside, _live)),
        Route("/api/sql", _post(home, outside, _sql), methods=["POST"]),
        Route("/api/export", _post(home, outside, _export), methods=["POST"]),
        Route("/api/start", _post(home, outside, _start), methods=["POST"]),
        Route("/api/stop", _post(home, outside, _stop), methods=["POST"]),
        Route("/api/chat", _post(home, outside, _chat), methods=["POST"]),
        Route("/api/prefer", _post(home, outside, _prefer), methods=["POST"]),
        Route("/report/{run}", _get(home, outside, _report)),
        Route("/mlflow/{run}", _get(home, outside, _mlflow)),
        Route("/icon.svg", lambda request: _file("icon.svg")),
    ]
    if outside.annotation is not None:
        routes.append(Route("/annotate", lambda request: RedirectResponse("/annotate/")))
        routes.append(Mount("/annotate", app=outside.annotation))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, minimum_size=2000, compresslevel=PACKED)],
        exception_handlers={HTTPException: _error, ValueError: _bad, UnknownRun: _bad, TableError: _bad},
    )
    return Guard(app, hosts, local_only, _POLICY, token)


# --- pages and files -----------------------------------------------------------------------------------------------


def _shell(page: Page, needs_token: bool) -> Callable[[Request], Response]:
    def serve(request: Request) -> Response:
        html = (
            _templates()
            .get_template("page.html")
            .render(
                page=page,
                pages=PAGES,
                version=_version(),
                plotly=plotly_version(),
                needs_token=needs_token,
                style_ids=_plotly_style_ids() if page.charts else (),
            )
        )
        return Response(html, media_type="text/html; charset=utf-8")

    return serve


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _version() -> str:
    """Changes with the files: browsers keep them until then."""
    content = b"".join(file.read_bytes() for file in sorted((_HERE / "static").iterdir()))
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def _plotly_file() -> Path:
    spec = find_spec("plotly")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


@cache
def plotly_version() -> str:
    """Of the script in the installed package; its importing takes half a second, and the script alone is needed."""
    found = re.search(rb"plotly\.js v([\d.]+)", _plotly_file().read_bytes()[:400])
    return found[1].decode() if found else "unknown"


@cache
def _plotly_style_ids() -> tuple[str, ...]:
    """Ids of the style elements that the script would add to the page, which our policy refuses: it leaves them out
    where an element of that id is there. The rules that we need of them are in `app.css`."""
    found = re.findall(r'getElementById\("([0-9a-f]{64})"\)', _plotly_file().read_text(encoding="utf-8"))
    return tuple(sorted(set(found)))


_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


def _plotly(request: Request) -> Response:
    return FileResponse(_plotly_file(), media_type="text/javascript; charset=utf-8", headers=_FOREVER)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if not re.fullmatch(r"[a-z_]+\.(js|css|svg)", name) or not (_HERE / "static" / name).is_file():
        raise HTTPException(404, "no such file")
    return _file(name, _FOREVER if request.path_params["version"] == _version() else {})


def _file(name: str, headers: dict[str, str] | None = None) -> Response:
    file = _HERE / "static" / name
    return Response(file.read_bytes(), media_type=f"{_TYPES[file.suffix]}; charset=utf-8", headers=headers)


# --- requests ------------------------------------------------------------------------------------------------------

Answer = Callable[[Home, Outside, Request], Any]
PostAnswer = Callable[[Home, Outside, dict[str, Any]], Any]


def _get(home: Home, outside: Outside, answer: Answer) -> Callable[[Request], Response]:
    """Queries run in threads, so that a slow one holds up nobody else."""

    def endpoint(request: Request) -> Response:
        found = answer(home, outside, request)
        return found if isinstance(found, Response) else _json(found)

    return endpoint


def _post(home: Home, outside: Outside, answer: PostAnswer) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
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
        found = await run_in_threadpool(answer, home, outside, body)
        return found if isinstance(found, Response) else _json(found)

    return endpoint


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _json({"error": error.detail})
    response.status_code = error.status_code
    return response


def _bad(request: Request, error: Exception) -> Response:
    response = _json({"error": str(error)})
    response.status_code = 400
    return response


def _page(home: Home, outside: Outside, request: Request) -> dict[str, Any]:
    page = next((one for one in PAGES if one.slug == request.path_params["slug"]), None)
    if page is None:
        raise HTTPException(404, "no such page")
    view = page.view(home, Address(dict(request.query_params)), outside)
    return {**view.to_json(), "services": [list(one) for one in outside.services()]}


def _runs(request: Request) -> list[str]:
    return [one for one in request.query_params.get("runs", "")[:10_000].split(",") if one][:100]


def _live(home: Home, outside: Outside, request: Request) -> dict[str, Any]:
    cursors = dict(one.split("=", 1) for one in request.query_params.getlist("cursor")[:100] if "=" in one)
    run = request.query_params.get("run", "")
    return {**live_points(home, run, cursors), "running": run in outside.running()}


def _sql(home: Home, outside: Outside, body: dict[str, Any]) -> dict[str, Any]:
    return run_sql(home, _text(body, "sql", 50_000), _values(body))


def _export(home: Home, outside: Outside, body: dict[str, Any]) -> Response:
    kind = _text(body, "format", 10)
    content, media = export(home, _text(body, "sql", 50_000), _values(body), kind)
    return StreamingResponse(io.BytesIO(content), media_type=media)


def _values(body: dict[str, Any]) -> dict[str, str]:
    given = body.get("params", {})
    if not isinstance(given, dict) or not all(isinstance(v, str) and len(v) < 1000 for v in given.values()):
        raise HTTPException(400, "params: takes texts by name")
    return given


def _start(home: Home, outside: Outside, body: dict[str, Any]) -> dict[str, str]:
    if outside.start is None:
        raise HTTPException(404, "this server starts no runs")
    settings = body.get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(one, str) and len(one) < 500 for one in settings[:100]):
        raise HTTPException(400, "settings: takes a list of texts such as pretrain.steps=10")
    return {"said": outside.start(_text(body, "profile", 200), settings[:100])}


def _stop(home: Home, outside: Outside, body: dict[str, Any]) -> dict[str, str]:
    if outside.stop is None:
        raise HTTPException(404, "this server stops no runs")
    return {"said": outside.stop(_text(body, "run", 200))}


def _chat(home: Home, outside: Outside, body: dict[str, Any]) -> Response:
    """One JSON line a piece of the answer, and a last one with what it took or why it ended."""
    if outside.answer is None:
        raise HTTPException(404, "this server opens no models")
    model, prompt = _text(body, "model", 500), _text(body, "prompt", 20_000)
    temperature, most = body.get("temperature", 0.7), body.get("max_tokens", 200)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 100:
        raise HTTPException(400, "temperature: takes a number from 0 to 100")
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 4096:
        raise HTTPException(400, "max_tokens: takes a whole number from 1 to 4096")
    pieces = outside.answer(model, prompt, float(temperature), most)

    def lines() -> Iterator[bytes]:
        try:
            for piece in pieces:
                yield orjson.dumps({"piece": piece}) + b"\n"
            yield b'{"done": true}\n'
        except (ValueError, OSError, LookupError) as error:
            yield orjson.dumps({"error": str(error)}) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Content-Encoding": "identity"})


def _prefer(home: Home, outside: Outside, body: dict[str, Any]) -> dict[str, str]:
    if outside.prefer is None:
        raise HTTPException(404, "this server stores no preferences")
    models = {name: _text(body, name, 500) for name in ("chosen_model", "rejected_model")}
    prompt, chosen, rejected = (_text(body, name, 20_000) for name in ("prompt", "chosen", "rejected"))
    return {"said": outside.prefer(prompt, chosen, rejected, models)}


def _mlflow(home: Home, outside: Outside, request: Request) -> Response:
    """To a run's page in MLflow."""
    run = request.path_params["run"]
    found = outside.tracked(outside.mlflow, run) if outside.tracked and outside.mlflow else ""
    if not found:
        raise HTTPException(404, f"MLflow's pages are not up, or have no run {run}: `lifespan sync` brings it there")
    return RedirectResponse(found)


def _report(home: Home, outside: Outside, request: Request) -> Response:
    run = request.path_params["run"]
    file = home.local / "reports" / f"{run}.html"
    if not re.fullmatch(r"[\w.-]+", run) or not file.is_file():
        raise HTTPException(404, f"no report of run {run} yet: it is written when the run ends")
    policy = {"Content-Security-Policy": _report_policy(file.read_bytes())}
    return Response(file.read_bytes(), media_type="text/html; charset=utf-8", headers=policy)


def _report_policy(page: bytes) -> str:
    """A report brings its own policy, which names the hash of its script; the server's must not be stricter."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts[:1]]
    allowed = " ".join(hashes) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; {_CLOSED}"


def _text(body: dict[str, Any], field: str, longest: int) -> str:
    value = body.get(field, "")
    if not isinstance(value, str) or len(value) > longest:
        raise HTTPException(400, f"{field}: takes text of at most {longest} characters")
    return value
