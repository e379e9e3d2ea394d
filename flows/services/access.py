"""Where the servers listen, and what they ask of those who come: nothing on loopback, a token anywhere else.

Prefect and MLflow check the token themselves, by the authentication that each brings along. It travels in the
environment alone: no file of the home, command line or log holds it, and MLflow's database only a hash.
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

from flows.services.sockets import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
USER = "lifespan"
TOKEN_VARIABLE = "LIFESPAN_TOKEN"
SHORTEST_TOKEN = 12  # MLflow takes no shorter password
_ANY = {"0.0.0.0": LOOPBACK, "::": "::1"}  # every address of this machine -> one that is always there


@dataclass(frozen=True)
class Access:
    """Where to listen, and the token to ask for ("" for none).

    Raises ConfigError: an address that others reach, and no token.
    """

    host: str = LOOPBACK
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.host == LOOPBACK or self.token:
            return
        from flows.settings import ConfigError

        if not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} is open to other machines: set {TOKEN_VARIABLE} or give --token-file FILE, "
                "so that only those who know the token get in"
            )

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    def page(self, port: int) -> str:
        """The address for a browser. Of a server on every address it has this machine's name."""
        return f"http://{_bracketed(socket.gethostname() if self.host in _ANY else self.host)}:{port}"

    def near(self, port: int) -> str:
        """The address for other processes of this machine."""
        return near(self.host, port)

    def prefect_server(self, port: int) -> dict[str, str]:
        """Environment of Prefect's server. Only its own pages may call it: no other site that a browser shows."""
        pages = dict.fromkeys([self.page(port), self.near(port), *([f"http://localhost:{port}"] * self.is_local)])
        asked = {"PREFECT_SERVER_API_AUTH_STRING": self.basic, **self.prefect_client()} if self.token else {}
        return {
            "PREFECT_SERVER_UI_API_URL": f"{self.page(port)}/api",  # it would call port 4200 otherwise
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(pages),
            **asked,
        }

    def prefect_client(self) -> dict[str, str]:
        """Environment of what talks to Prefect's server."""
        return {"PREFECT_API_AUTH_STRING": self.basic} if self.token else {}

    def mlflow_hosts(self, port: int) -> list[str]:
        """Names under which MLflow may be called: any, where every address is listened on and the token guards it."""
        names = [self.page(port), self.near(port), *([f"http://localhost:{port}"] * self.is_local)]
        known = ",".join(dict.fromkeys(name.removeprefix("http://") for name in names))
        hosts = ["--allowed-hosts", "*" if self.host in _ANY else known]
        return hosts if self.is_local else [*hosts, "--cors-allowed-origins", self.page(port)]

    def mlflow_server(self, folder: Path) -> dict[str, str]:
        """Environment of MLflow's server when it asks for the token; its accounts lie in `folder`."""
        if not self.token:
            return {}
        folder.mkdir(parents=True, exist_ok=True)
        accounts, settings = folder / "mlflow-accounts.db", folder / "mlflow-accounts.ini"
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = sqlite:///{accounts}", ""]
        for file in (accounts, settings):  # nobody else's to read, from the first byte
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
        """User and token as HTTP's basic authentication joins them."""
        return f"{USER}:{self.token}"

    @property
    def header(self) -> dict[str, str]:
        """What a request must carry."""
        return {"Authorization": f"Basic {base64.b64encode(self.basic.encode()).decode()}"} if self.token else {}


LOCAL = Access()


def prefect_app() -> ASGIApp:
    """Prefect's server, for uvicorn. Without a token it answers under this machine's own names alone."""
    from prefect.server.api.server import create_app

    app = create_app()
    return app if os.environ.get("PREFECT_SERVER_API_AUTH_STRING") else only_local_names(app)


def only_local_names(app: ASGIApp) -> ASGIApp:
    """`app`, but 403 for requests under a name that is not one of this machine's loopback.

    A site can have its own name point to 127.0.0.1 after its page is loaded (DNS rebinding); its scripts then pass for
    the server's own pages. What talks to Prefect's server can have the worker run any command.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not is_loopback(re.sub(r":\d*$", "", host).strip("[]")):
                from starlette.responses import PlainTextResponse

                told = "this server is called by the names of this machine: 127.0.0.1 or localhost\n"
                await PlainTextResponse(told, 403)(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


def near(host: str, port: int) -> str:
    """Where processes of this machine reach what listens on `host`."""
    return f"http://{_bracketed(_ANY.get(host, host))}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _change_password(accounts: Path, token: str) -> None:
    """MLflow sets the password when it makes the account and never again: a new token must count from now on."""
    from werkzeug.security import generate_password_hash

    with contextlib.closing(sqlite3.connect(accounts)) as database, database:
        made = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'users'").fetchone()[0]
        if made:
            database.execute(
                "UPDATE users SET password_hash = ? WHERE username = ?", (generate_password_hash(token), USER)
            )


def told(host: str, asks: bool) -> list[str]:
    """What to tell the user of where servers listen and what they ask for."""
    lines = [] if is_loopback(host) else ["other machines reach these pages, over HTTP that is not encrypted"]
    if asks:
        lines.append(f"MLflow asks for the user {USER} and your token; Prefect for {USER}:TOKEN in one field")
    return lines


def asked_for(host: str = LOOPBACK, token_file: Path | None = None) -> Access:
    """What the command line and LIFESPAN_TOKEN ask for.

    Raises ConfigError: an address that others reach without a token, or a token that is none; never shows it.
    """
    return Access(host, read_token(token_file))


def read_token(file: Path | None = None) -> str:
    """The token: of the file, else of LIFESPAN_TOKEN, else none.

    Raises ConfigError: a file that cannot be read or that others can read, or no token of printable ASCII in it.
    """
    from flows.settings import ConfigError

    where = TOKEN_VARIABLE if file is None else f"--token-file {file}"
    if file is None:
        if TOKEN_VARIABLE not in os.environ:
            return ""
        token = os.environ[TOKEN_VARIABLE].strip()
    else:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"{where}: takes a file that holds the token ({reason})") from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: a token is {SHORTEST_TOKEN} or more characters of printable ASCII without blanks")
    return token
