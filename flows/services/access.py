"""Where the servers listen, and what clients must present: nothing on loopback, a token everywhere else.

Prefect and MLflow check the token themselves, each with its own authentication. The token travels in environment
variables only: no file of the home, no command line and no log contains it, and MLflow's database only its hash.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.services.credentials import read_secret
from flows.services.sockets import ANY_ADDRESS, LOOPBACK, http_url, is_loopback, local_url
from storage.sqlite_url import sqlite_url

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

USER = "lifespan"
TOKEN_VARIABLE = "LIFESPAN_TOKEN"
MIN_TOKEN_LENGTH = 12  # MLflow accepts no shorter password


@dataclass(frozen=True)
class Access:
    """Where to listen, and the token that clients must present ("" for none).

    Raises ConfigError for an address that other machines can reach without a token.
    """

    host: str = LOOPBACK
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.host == LOOPBACK or self.token:
            return
        from flows.settings import ConfigError

        if not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines: set {TOKEN_VARIABLE} or pass --token-file "
                "FILE, so that only clients with the token are let in"
            )

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    def page(self, port: int) -> str:
        """The URL for a browser; a server that listens on every address is called by this machine's name."""
        return http_url(socket.gethostname() if self.host in ANY_ADDRESS else self.host, port)

    def near(self, port: int) -> str:
        """The URL for other processes of this machine."""
        return local_url(self.host, port)

    def prefect_server(self, port: int) -> dict[str, str]:
        """Environment of Prefect's server. Only its own pages may call it, not other sites open in the browser."""
        pages = dict.fromkeys([self.page(port), self.near(port), *([f"http://localhost:{port}"] * self.is_local)])
        authentication = {"PREFECT_SERVER_API_AUTH_STRING": self.basic, **self.prefect_client()} if self.token else {}
        return {
            "PREFECT_SERVER_UI_API_URL": f"{self.page(port)}/api",  # it would call port 4200 otherwise
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(pages),
            **authentication,
        }

    def prefect_client(self) -> dict[str, str]:
        """Environment of the clients of Prefect's server."""
        return {"PREFECT_API_AUTH_STRING": self.basic} if self.token else {}

    def mlflow_hosts(self, port: int) -> list[str]:
        """Host names that MLflow accepts: all of them when it listens on every address, where the token guards it."""
        names = [self.page(port), self.near(port), *([f"http://localhost:{port}"] * self.is_local)]
        known = ",".join(dict.fromkeys(name.removeprefix("http://") for name in names))
        hosts = ["--allowed-hosts", "*" if self.host in ANY_ADDRESS else known]
        return hosts if self.is_local else [*hosts, "--cors-allowed-origins", self.page(port)]

    def mlflow_server(self, folder: Path) -> dict[str, str]:
        """Environment of MLflow's server when it requires the token; its accounts are stored in `folder`."""
        if not self.token:
            return {}
        folder.mkdir(parents=True, exist_ok=True)
        accounts, settings = folder / "mlflow-accounts.db", folder / "mlflow-accounts.ini"
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = {sqlite_url(accounts)}", ""]
        for file in (accounts, settings):  # readable by the owner only, from the first byte on
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
            file.chmod(0o600)
        settings.write_text("\n".join(lines).replace("%", "%%"), encoding="utf-8")
        _change_password(accounts, self.token)
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.token,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        }

    @property
    def basic(self) -> str:
        """User and token in the form of HTTP basic authentication."""
        return f"{USER}:{self.token}"

    @property
    def header(self) -> dict[str, str]:
        """The header that every request must carry."""
        return {"Authorization": f"Basic {base64.b64encode(self.basic.encode()).decode()}"} if self.token else {}


LOCAL = Access()


def prefect_app() -> ASGIApp:
    """Prefect's server, for uvicorn. Without a token it only answers to this machine's loopback names."""
    from prefect.server.api.server import create_app

    app = create_app()
    return app if os.environ.get("PREFECT_SERVER_API_AUTH_STRING") else only_local_names(app)


def only_local_names(app: ASGIApp) -> ASGIApp:
    """`app`, but requests whose Host header is not a loopback name are answered with 403.

    A site can let its own name point to 127.0.0.1 after its page is loaded (DNS rebinding); its scripts then pass for
    the server's own pages. Whoever can talk to Prefect's server can have the worker run any command.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not is_loopback(re.sub(r":\d*$", "", host).strip("[]")):
                from starlette.responses import PlainTextResponse

                reason = "this server only answers requests to 127.0.0.1 or localhost\n"
                await PlainTextResponse(reason, 403)(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


def _change_password(accounts: Path, token: str) -> None:
    """MLflow sets the password only when it creates the account: a new token must be valid from now on."""
    from werkzeug.security import generate_password_hash

    with contextlib.closing(sqlite3.connect(accounts)) as database, database:
        exists = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'users'").fetchone()[0]
        if exists:
            database.execute(
                "UPDATE users SET password_hash = ? WHERE username = ?", (generate_password_hash(token), USER)
            )


def access_notes(host: str, needs_token: bool) -> list[str]:
    """What users should know about who can reach the servers and how to sign in."""
    lines = [] if is_loopback(host) else ["these pages can be reached from other machines, over unencrypted HTTP"]
    if needs_token:
        lines.append(f"sign in to MLflow as user {USER} with your token as the password, to Prefect with {USER}:TOKEN")
    return lines


def requested_access(host: str = LOOPBACK, token_file: Path | None = None) -> Access:
    """The access that the command line and LIFESPAN_TOKEN request.

    Raises ConfigError for an address that other machines can reach without a token, or for an invalid token.
    """
    return Access(host, read_token(token_file))


def read_token(file: Path | None = None) -> str:
    """The token of `--token-file`, or otherwise of LIFESPAN_TOKEN; "" for none. Raises ConfigError as `read_secret`."""
    return read_secret(TOKEN_VARIABLE, file, "--token-file", min_length=MIN_TOKEN_LENGTH)
