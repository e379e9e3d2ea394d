"""The addresses and sockets of our servers: who can reach an address, and how a server comes to listen on it."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from contextlib import suppress
from typing import Any

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8240
ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}  # every address of this machine -> one that is always there
_BACKLOG = 1024  # clients that connect before the server is up wait for it


class CannotListen(OSError):
    """The port is in use, or the address does not belong to this machine."""


def is_loopback(host: str) -> bool:
    """Whether an address (`127.8.8.8`, `::1`) or the name `localhost` can only be reached from this machine."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def http_url(host: str, port: int) -> str:
    """`http://host:port`, with the brackets that an IPv6 address needs."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(host: str, port: int) -> str:
    """Where processes of this machine reach a server that listens on `host`."""
    return http_url(ANY_ADDRESS.get(host, host), port)


def open_directly(request: str | urllib.request.Request, timeout: float) -> Any:
    """`urllib.request.urlopen` for a server of our own: through no proxy, whatever the environment says."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


def listen(host: str, port: int, *, or_any_free: bool = False) -> socket.socket:
    """A socket that listens on `host` (an address or a name) and `port`; port 0 takes any free one.

    Args:
        host: where to listen.
        port: the wanted port.
        or_any_free: take any free port when the wanted one is in use.

    Raises:
        CannotListen: naming the host, the port, the reason and what to do.
    """
    problem: OSError
    for wanted in dict.fromkeys((port, 0) if or_any_free else (port,)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            problem = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    reason = problem.strerror or str(problem)
    advice = ": choose another port with --port" if port and not or_any_free else ""
    raise CannotListen(f"cannot listen on {host} port {port}: {reason}{advice}")


def free_port(preferred: int = 0, host: str = LOOPBACK) -> int:
    """A port that nobody listens on: the preferred one if it is free, otherwise any.

    Raises:
        CannotListen: there is none, or the address does not belong to this machine.
    """
    with listen(host, preferred, or_any_free=True) as probe:
        return int(probe.getsockname()[1])
