"""Clients that send slowly, do not read, come in crowds or stop half way: over real sockets."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from structlog.testing import capture_logs

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.catalogue import Catalogue
from tests.integration.conftest import serving
from tests.polling import until

Serve = Callable[..., str]
QUICK = {"header_timeout_s": 0.2, "body_timeout_s": 0.2, "write_timeout_s": 0.2}
HEAD = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture
def serve_with(untrained_bundles: Path) -> Iterator[Serve]:
    """A running service with some settings; its address."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    with ExitStack() as stack:

        def begin(**settings: Any) -> str:
            return stack.enter_context(serving(lambda _: Catalogue(bundles, "test-zephyr"), **settings))

        yield begin


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found


def request(**change: Any) -> bytes:
    body = json.dumps({"incident_energies_mev": [2000.0], "sampler": "gibbs", "seed": 1, **change})
    return (HEAD.format(len(body)) + body).encode()


def test_half_a_head_and_half_a_body_are_not_waited_for(serve_with: Serve) -> None:
    url = serve_with(**QUICK)
    with connect(url) as head, connect(url) as body, connect(url) as nothing:
        head.sendall(b"GET /health/live HTTP/1.1\r\nHost:")
        body.sendall(request()[:-5])
        for connection, said in ((head, b"the head of the request did not come within 0.2 s"), (body, b"within 0.2 s")):
            answer = all_of(connection)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert b"application/problem+json" in answer
            assert said in answer
        assert all_of(nothing) == b""
    assert httpx2.get(f"{url}/health/live").status_code == 200


def test_a_crowd_of_half_sent_requests_leaves_the_service_free(serve_with: Serve) -> None:
    url = serve_with(**QUICK)
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(url)) for _ in range(200)]
        for connection in crowd:
            connection.sendall(b"POST /generate HTTP/1.1\r\n")
        assert httpx2.get(f"{url}/health/live").status_code == 200
        assert all(b" 408 " in all_of(connection) for connection in crowd)


def test_an_idle_connection_may_wait_for_its_next_request(serve_with: Serve) -> None:
    """Longer than the time for a head, which begins with the head."""
    url = serve_with(**QUICK)
    with connect(url) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            connection.settimeout(1.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(60)


def test_more_connections_than_allowed_are_told_so(serve_with: Serve) -> None:
    url = serve_with(max_connections=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(url)).sendall(b"GET /health/live HTTP/1.1\r\n")
        refused = all_of(stack.enter_context(connect(url)))
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 30" in refused
    until(lambda: b" 200 " in answer_to(url, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))


def answer_to(url: str, sent: bytes) -> bytes:
    with connect(url) as connection:
        connection.sendall(sent)
        return all_of(connection)


def test_a_head_without_end(serve_with: Serve) -> None:
    url = serve_with()
    with connect(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(100)))
        assert b"HTTP/1.1 431 " in connection.recv(1 << 16)


def test_a_client_that_does_not_read_is_given_up(serve_with: Serve) -> None:
    url = serve_with(**QUICK)
    with socket.socket() as connection, capture_logs() as logged:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        parts = urlsplit(url)
        connection.connect((parts.hostname, parts.port))
        connection.settimeout(60)
        connection.sendall(request(showers_per_energy=1500))
        until(lambda: any(event.get("not_reading") == 1 for event in logged))
        begun = connection.recv(1 << 16)
        assert begun.startswith(b"HTTP/1.1 ")
        try:
            read = all_of(connection)
        except ConnectionResetError:
            read = b""
    assert not read.endswith(b"0\r\n\r\n"), "the answer's end never came"
    assert httpx2.get(f"{url}/health/live").status_code == 200


def test_a_client_that_sends_no_more_gets_its_answer(serve_with: Serve) -> None:
    url = serve_with()
    with connect(url) as connection:
        connection.sendall(request())
        connection.shutdown(socket.SHUT_WR)
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b'"provenance"' in answer
