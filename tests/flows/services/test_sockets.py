"""Where servers listen: loopback or not, the port that is wanted, another one, or one clear error."""

from __future__ import annotations

import socket

import pytest

from flows.services.sockets import CannotListen, free_port, http_url, is_loopback, listen, local_url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org", ""])
def test_what_others_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_urls_of_ipv6_addresses_have_brackets_and_every_address_is_reached_by_loopback() -> None:
    assert http_url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert http_url("::1", 80) == "http://[::1]:80"
    assert local_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert local_url("::", 80) == "http://[::1]:80"
    assert local_url("10.0.0.1", 80) == "http://10.0.0.1:80"


def test_a_port_in_use_is_an_error_or_replaced_by_a_free_one() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1 port {port}: Address already in use: .*--port"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", port, or_any_free=True) as second:
            assert second.getsockname()[1] not in (0, port)
        assert free_port(port) != port
    assert free_port(port) == port
    with listen("127.0.0.1", port, or_any_free=True) as again:
        assert again.getsockname()[1] == port


def test_a_client_that_connects_before_the_server_accepts_waits_for_it() -> None:
    with listen("localhost", 0) as listener, socket.create_connection(("localhost", listener.getsockname()[1])):
        assert listener.accept()


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1 port 0: Cannot assign"):
        free_port(host="192.0.2.1")
    with pytest.raises(CannotListen, match=r"cannot listen on no-such-host\.invalid"):
        listen("no-such-host.invalid", 8000)
