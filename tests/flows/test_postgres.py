"""A run whose Prefect and MLflow keep their state in a real PostgreSQL, by settings alone."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Postgres:
    port: int
    password: str
    bin: Path

    def url(self, driver: str, database: str) -> str:
        return f"postgresql+{driver}://lifespan:{self.password}@127.0.0.1:{self.port}/{database}"

    def ask(self, database: str, sql: str) -> str:
        """The answer of one query, a row a line."""
        command = [
            self.bin / "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "lifespan",
            "-d",
            database,
            "-Atc",
            sql,
        ]
        environment = {**os.environ, "PGPASSWORD": self.password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server on a free port with the databases `prefect` and `mlflow`."""
    pytest.importorskip("psycopg2", reason="pip install '.[postgres]' brings MLflow's driver")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    bin = found[-1].parent
    user: list[str] = []
    folder = Path("/tmp") / f"lifespan-postgres-{secrets.token_hex(4)}"  # short: a socket's path has a limit
    folder.mkdir(mode=0o755)
    if os.geteuid() == 0:  # it refuses root
        try:
            other = pwd.getpwnam("postgres")
        except KeyError:
            other = pwd.getpwnam("nobody")
        os.chown(folder, other.pw_uid, other.pw_gid)
        user = ["setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)

    def run(*command: str | Path) -> None:
        subprocess.run([*user, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data, options = folder / "data", f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder}"
    try:
        run(
            bin / "initdb",
            "-D",
            data,
            "-U",
            "lifespan",
            "--auth=scram-sha-256",
            f"--pwfile={folder}/password",
            "-E",
            "UTF8",
        )
        run(bin / "pg_ctl", "-w", "-D", data, "-l", folder / "log", "-o", options, "start")
        server = Postgres(port, password, bin)
        try:
            for database in ("prefect", "mlflow"):
                server.ask("postgres", f"CREATE DATABASE {database}")
            yield server
        finally:
            run(bin / "pg_ctl", "-m", "immediate", "-D", data, "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_prefect_and_mlflow_keep_a_run_in_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LIFESPAN_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url("asyncpg", "prefect"),
        "MLFLOW_TRACKING_URI": postgres.url("psycopg2", "mlflow"),
    }
    command = [sys.executable, "-m", "flows.commands.cli", "run", "smoke", "--only", "data"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert postgres.ask("prefect", "SELECT DISTINCT state_type FROM flow_run") == "COMPLETED"
    tasks = int(postgres.ask("prefect", "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED'"))
    runs = int(postgres.ask("mlflow", "SELECT count(*) FROM runs WHERE status = 'FINISHED'"))
    assert tasks >= 2
    assert runs == tasks + 1  # one of the life, one a stage
    assert not list(tmp_path.rglob("mlflow.db"))
    assert not list(tmp_path.rglob("prefect.db"))
    logged = "".join(p.read_text(errors="replace") for p in (tmp_path / "home").rglob("*.log"))
    assert postgres.password not in done.stdout + done.stderr + logged
