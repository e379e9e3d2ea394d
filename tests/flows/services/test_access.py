"""Who gets in: nobody beyond loopback without a token, and with one Prefect and MLflow turn away all who lack it."""

from __future__ import annotations

import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.services import access, server_process, services
from flows.services.access import Access
from flows.settings import ConfigError
from storage.home import Home

TOKEN = "correct-horse-battery"


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFESPAN_TOKEN", raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What would be started, instead of starting it."""
    calls: list[dict[str, object]] = []

    def start(name, arguments, port, health, log, environment=None, access=access.LOCAL):  # type: ignore[no-untyped-def]
        calls.append({"name": name, "arguments": list(arguments), "environment": dict(environment or {})})

    monkeypatch.setattr(server_process, "start", start)
    return calls


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
@pytest.mark.parametrize("command", ["up", "ui"])
def test_an_address_that_others_reach_needs_a_token(command: str, host: str, home: Home) -> None:
    done = CliRunner().invoke(app, [command, "--host", host])
    assert done.exit_code == 2
    assert done.stderr.count("error:") == 1 and "LIFESPAN_TOKEN" in done.stderr
    assert services.running(home) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert Access(host).prefect_client() == {}
    assert Access(host).header == {}


def test_all_listen_on_loopback_and_ask_nothing_unless_told(started: list[dict[str, object]], home: Home) -> None:
    server_process.prefect_ui(home.local / "log", home.local / "ui", 4200)
    server_process.mlflow_ui(home.local / "log", home.mlflow_uri, home.mlflow_artifacts, 5000)
    for call in started:
        arguments = call["arguments"]
        assert isinstance(arguments, list)
        assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
        assert "basic-auth" not in arguments
        assert not [name for name in call["environment"] if "AUTH" in name]  # type: ignore[attr-defined]
    prefect = started[0]["environment"]
    assert prefect["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"  # type: ignore[index]


def test_a_token_reaches_both_servers_and_no_command_line(started: list[dict[str, object]], home: Home) -> None:
    wide = Access("0.0.0.0", TOKEN)
    server_process.prefect_ui(home.local / "log", home.local / "ui", 4200, wide)
    server_process.mlflow_ui(home.local / "log", home.mlflow_uri, home.mlflow_artifacts, 5000, wide)
    prefect, mlflow = (call["environment"] for call in started)
    assert isinstance(prefect, dict) and isinstance(mlflow, dict)
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] == prefect["PREFECT_API_AUTH_STRING"] == f"lifespan:{TOKEN}"
    assert prefect["PREFECT_SERVER_UI_API_URL"] == wide.page(4200) + "/api" != "http://0.0.0.0:4200/api"
    assert mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"] == TOKEN and len(mlflow["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert "--app-name basic-auth" in " ".join(started[1]["arguments"])  # type: ignore[arg-type]
    assert TOKEN not in str([call["arguments"] for call in started])
    settings = Path(mlflow["MLFLOW_AUTH_CONFIG_PATH"])
    for file in (settings, settings.with_suffix(".db")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert home.local in file.parents and TOKEN.encode() not in file.read_bytes()
    assert TOKEN not in repr(wide)


@pytest.mark.parametrize("token", ["", "short", "with a blank in it", "not-ascii-äöüß", "two\nlines-of-text"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(ConfigError, match="at least 12") as error:
        access.read_token(file)
    assert not token or token not in str(error.value)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.read_token() == ""
    monkeypatch.setenv("LIFESPAN_TOKEN", TOKEN)
    (tmp_path / "token").write_text(f"another-{TOKEN}\n")
    assert access.read_token() == TOKEN
    assert access.read_token(tmp_path / "token") == f"another-{TOKEN}"
    with pytest.raises(ConfigError, match="No such file"):
        access.read_token(tmp_path / "none")


def test_what_is_up_is_not_taken_for_what_is_asked_for() -> None:
    local = services.Running(1, (), "http://127.0.0.1:4200/api")
    assert services.check_access(local, Access()) is local
    with pytest.raises(ConfigError, match="requires no token"):
        services.check_access(local, Access(token=TOKEN))
    with pytest.raises(ConfigError, match=r"listen on 127\.0\.0\.1"):
        services.check_access(local, Access("0.0.0.0", TOKEN))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("127.0.0.1:4200", 200),
        ("localhost", 200),
        ("[::1]:4200", 200),
        ("evil.example:4200", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:4200", 403),
        ("", 403),
    ],
)
def test_a_site_whose_name_points_to_this_machine_is_not_answered_by_prefect(
    name: str, answer: int, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    pages = Starlette(routes=[Route("/", lambda request: PlainTextResponse("secrets"))])
    monkeypatch.setattr("prefect.server.api.server.create_app", lambda: pages)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    assert TestClient(access.prefect_app()).get("/", headers={"host": name}).status_code == answer
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "lifespan:token")  # no other site's pages know it
    assert TestClient(access.prefect_app()).get("/", headers={"host": name}).status_code == 200


def status(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_servers_turn_away_all_who_lack_the_token(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    told: list[str] = []
    monkeypatch.setenv("LIFESPAN_TOKEN", TOKEN)
    first = Access("0.0.0.0", TOKEN)
    try:
        found = services.up(home, told.append, first)
        mlflow = next(service.url for service in found.services if service.name == "MLflow")
        near = first.near(int(mlflow.rsplit(":", 1)[1]))
        places = [f"{found.prefect_api}/version", near, f"{near}/api/2.0/mlflow/experiments/get?experiment_id=0"]
        for place in places:
            assert status(place) == 401, place
            assert status(place, Access(token="wrong-" + TOKEN).header) == 401, place
            assert status(place, first.header) == 200, place
        assert services.join(home)  # with the token in the environment
        monkeypatch.delenv("PREFECT_API_URL")
        monkeypatch.setenv("LIFESPAN_TOKEN", "wrong-" + TOKEN)
        with pytest.raises(ConfigError, match="holds another one"):
            services.join(home)
    finally:
        services.down(home)
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            monkeypatch.delenv(name, raising=False)
    assert any("MLflow" in line for line in access.access_notes(found.host, found.needs_token))
    files = [file for file in home.local.rglob("*") if file.is_file()]
    assert files and not [file for file in files if TOKEN.encode() in file.read_bytes()]

    # A new token counts at the next start, and the old one no more.
    second = Access("127.0.0.1", "another-" + TOKEN)
    monkeypatch.setenv("LIFESPAN_TOKEN", second.token)
    server = server_process.mlflow_ui(
        home.local / "logs" / "mlflow.log", home.mlflow_uri, home.mlflow_artifacts, 5999, second
    )
    try:
        server.wait_healthy(services.START_SECONDS)
        assert status(f"{server.near}/", first.header) == 401
        assert status(f"{server.near}/", second.header) == 200
    finally:
        server.stop()
