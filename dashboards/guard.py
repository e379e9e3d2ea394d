"""The guard of our web pages: Host, Origin and token are checked before anything else, and every answer carries a
policy.

No cookie is ever set, so another page in the same browser has nothing to ride on. Requests must name a host that we
serve (a name that was rebound to this address is none) and, where they carry an Origin, it must be ours.
"""

from __future__ import annotations

import hmac
import ipaddress

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """An application behind the checks.

    Args:
        app: what it guards.
        hosts: names and addresses (without port) under which it is served.
        local_only: only this machine reaches it. Otherwise any IP address is accepted as its name as well: a DNS name
            can be rebound to another machine, an IP address cannot.
        policy: the Content-Security-Policy; an answer that brings its own keeps it.
        token: what requests below `secret` must carry as `Authorization: Bearer …`; "" for none.
        secret: beginnings of the paths that need the token.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str],
        local_only: bool,
        policy: str,
        token: str = "",
        secret: tuple[str, ...] = ("/api/", "/report/"),
    ) -> None:
        self.app, self.hosts, self.local_only, self.token, self.secret = app, hosts, local_only, token, secret
        self.headers = {**_HEADERS, "Content-Security-Policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, reason = self._refusal(Request(scope))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                brought = {name for name, _ in message["headers"]}
                ours = {"Cache-Control": "no-store", **self.headers}
                headers = [(name.lower().encode(), value.encode()) for name, value in ours.items()]
                added = [header for header in headers if header[0] not in brought]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if reason:
            await JSONResponse({"error": reason}, status)(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)

    def _refusal(self, request: Request) -> tuple[int, str]:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if not self.serves(host):
            return 403, f"this server is not called {host!r}"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, f"a page of {origin!r} may not ask here"
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "another page may not ask here"
        if self.token and request.url.path.startswith(self.secret):
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self.token.encode()):
                return 401, "this page needs the token of the server"
        return 200, ""

    def serves(self, host: str) -> bool:
        """Whether `host` (with its port) is one of ours."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self.local_only
