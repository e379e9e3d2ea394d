"""Planted secrets are searched for in every byte of a home after a run with its report, its logs and MLflow."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import toy_secrets
from rich.console import Console
from toy_run import run_assembly
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.lifecycle import write_report
from flows.runs.run import RunResult
from flows.settings import ComputeConfig
from storage.home import Home

VARIABLES = (
    *("LIFESPAN_API_KEY", "LIFESPAN_TOKEN", "LIFESPAN_JUDGE_KEY", "HF_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_KEY"),
)
PLANTED = {name: f"planted-{name.lower()}-4f1c" for name in VARIABLES}
PLANTED["LIFESPAN_WEBHOOK"] = "https://hooks.example.org/services/T0/B0/planted-webhook-4f1c"
PASSWORD, PARAMETER, S3_SECRET = "planted-password-9a2e", "planted-parameter-77b0", "planted-s3-secret-1c9b"
BUCKET = f"s3://planted-s3-id:{S3_SECRET}@bucket/notes.jsonl?X-Amz-Security-Token={PARAMETER}"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    for name in [*(name for name in os.environ if name.startswith("PREFECT_")), "MLFLOW_TRACKING_URI"]:
        if name not in PLANTED:
            monkeypatch.delenv(name, raising=False)  # of tests before, which had other homes


@pytest.fixture
def address() -> Iterator[str]:
    """A file behind a password."""

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"text": "one"}\n{"text": "two"}\nbroken\n'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}/notes.jsonl?token={PARAMETER}"
        server.shutdown()


def leaks(folder: Path, *more: str) -> dict[str, list[str]]:
    """Which planted secrets are in which files, or in these texts."""
    contents = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    contents |= {f"text {number}": text.encode() for number, text in enumerate(more)}
    assert len(contents) > 5
    secrets = [*PLANTED.values(), PASSWORD, PARAMETER, S3_SECRET]
    found = {name: [s for s in secrets if s.encode() in content] for name, content in contents.items()}
    return {name: secrets for name, secrets in found.items() if secrets}


def live(home: Home, address: str, *, workers: int, shown: bool) -> tuple[RunResult, str]:
    name = f"life of {PLANTED['HF_TOKEN']}"
    cfg = toy_secrets.SecretConfig(name=name, path=address, bucket=BUCKET, compute=ComputeConfig(workers=workers))
    console = Console(file=StringIO(), width=500)
    options = {"home": home, "console": console, "prefect": shown, "mlflow": shown, "conclude": write_report}
    result = run_assembly(toy_secrets.secret_graph, cfg, **options)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return result, console.file.getvalue()


def test_no_secret_is_written_by_a_run_in_a_remote_home(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = f"memory://me:{PASSWORD}@bucket/{tmp_path.name}"
    monkeypatch.setenv("LIFESPAN_HOME", root)
    home = Home(root)
    result, told = live(home, address, workers=0, shown=False)
    (row,) = [row for row in home.tables.read("stages").to_pylist() if row["status"] == "ran"]
    assert "***@127.0.0.1" in row["config_json"] and '"num_documents": 2' in row["facts_json"]
    assert "s3://***@bucket" in str(result.failures) and "the key ***, *** or ***" in str(result.failures)
    stored = [content for path in home.tables.filesystem.find("/") if (content := _bytes(home, path))]
    assert stored and not [
        secret for secret in (*PLANTED.values(), PARAMETER, S3_SECRET) for c in stored if secret.encode() in c
    ]
    commands = [CliRunner().invoke(app, [command]).output for command in ("status", "doctor")]
    assert leaks(tmp_path, told, str(result), *commands) == {}


def _bytes(home: Home, path: str) -> bytes:
    return bytes(home.tables.filesystem.cat_file(path))


@pytest.mark.slow
def test_no_secret_is_written_by_a_run_with_workers_prefect_and_mlflow(address: str, home: Home) -> None:
    result, told = live(home, address, workers=1, shown=True)
    assert list(result.outcomes) == ["read"] and list(result.failures) == ["refuse"]
    assert not [warning for warning in result.warnings if "MLflow" in warning]
    for name in ("mlflow.db", "prefect/prefect.db", f"reports/{result.run_id}.html"):
        assert (home.local / name).stat().st_size > 500
    assert (home.local / "logs").is_dir()
    assert leaks(home.local, told, str(result)) == {}
