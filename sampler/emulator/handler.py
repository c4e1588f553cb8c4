"""One connection of the solver API."""

from __future__ import annotations

import hmac
import selectors
import socket
import time
import zlib
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import orjson

from qshower.sampler.emulator.solver_api import ReplyError, SolverApi

if TYPE_CHECKING:
    from qshower.sampler.emulator.jobs import SolverBackend

API_PATH = "/sapi/v2/"
VERSION = "3.0.0"
MAX_BODY_BYTES = 64 * 2**20
ERROR_PAGE = b"""<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title></head>
<body><h1>502 Bad Gateway</h1><p>upstream solver-api-7.internal did not answer</p></body></html>
"""
"""What a proxy in front of the API answers with when the API is down."""


class ApiHandler(BaseHTTPRequestHandler):
    """Reads requests of one connection, one after the other, and answers them."""

    protocol_version = "HTTP/1.1"
    server_version = "emulator"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def backend(self) -> SolverBackend:
        """The solver behind this server."""
        backend: SolverBackend = self.server.backend  # type: ignore[attr-defined]
        return backend

    def do_GET(self) -> None:
        """Answer a GET."""
        self._dispatch("GET")

    def do_POST(self) -> None:
        """Answer a POST."""
        self._dispatch("POST")

    def do_DELETE(self) -> None:
        """Answer a DELETE."""
        self._dispatch("DELETE")

    def log_message(self, *_: object) -> None:
        """Keep quiet: requests carry tokens."""

    def _dispatch(self, method: str) -> None:
        try:
            body = self._read_body()
            if "Origin" in self.headers:
                raise ReplyError(403, "Web pages have no business here")
            url = urlsplit(self.path)
            if url.path.startswith("/admin/"):
                reply = SolverApi(self.backend).admin(method, url.path, body)
                self._send(200, orjson.dumps(reply), "application/json")
            elif url.path.startswith(API_PATH):
                self._check_token()
                path, query = url.path.removeprefix(API_PATH), parse_qs(url.query)
                token = self.headers["X-Auth-Token"]
                reply, kind, action = SolverApi(self.backend).reply(method, path, query, body, token)
                self._send_api(orjson.dumps(reply), kind, action)
            else:
                raise ReplyError(404)
        except ReplyError as error:
            if error.page:
                self._send(error.status, ERROR_PAGE, "text/html; charset=utf-8")
            else:
                message = {"error_code": error.status, "error_msg": str(error)}
                self._send(error.status, orjson.dumps(message), "application/json")

    def _check_token(self) -> None:
        given, wanted = self.headers.get("X-Auth-Token", ""), self.backend.config.token
        if not given or (wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode())):
            raise ReplyError(401)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._read_chunks()
        else:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal():
                raise self._cut(ReplyError(400, "Content-Length must be a number"))
            if int(length) > MAX_BODY_BYTES:
                raise self._cut(ReplyError(413))
            body = self.rfile.read(int(length))
        if self.headers.get("Content-Encoding", "").lower() != "deflate":
            return body
        try:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(body, MAX_BODY_BYTES)
        except zlib.error as error:
            raise ReplyError(400, "The body is not deflated") from error
        if inflater.unconsumed_tail:
            raise ReplyError(413)
        return inflated

    def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            try:
                size = int(self.rfile.readline(64).split(b";")[0], 16)
            except ValueError as error:
                raise self._cut(ReplyError(400, "A chunk has no size")) from error
            total += size
            if total > MAX_BODY_BYTES:
                raise self._cut(ReplyError(413))
            parts.append(self.rfile.read(size))
            self.rfile.readline(4)
            if size == 0:
                return b"".join(parts)

    def _cut(self, error: ReplyError) -> ReplyError:
        """``error``, after which the connection ends: the rest of the request was not read."""
        self.close_connection = True
        return error

    def _send_api(self, payload: bytes, kind: str, action: str) -> None:
        content_type = f"application/vnd.dwave.sapi.{kind}+json; version={VERSION}"
        if action == "slow":
            self._wait(self.backend.config.slow_s)
        if action == "hang":
            self._wait(None)
        if action in ("hang", "drop"):
            self.close_connection = True
        elif action == "truncated":
            self._send(200, payload, content_type, sent=len(payload) // 2)
            self.close_connection = True
        elif action == "bad_json":
            self._send(200, payload[: len(payload) // 2] + b"<", content_type)
        elif action == "wrong_type":
            self._send(200, payload, "text/html; charset=utf-8")
        else:
            self._send(200, payload, content_type)

    def _wait(self, seconds: float | None) -> None:
        """Sleep, but no longer than the client stays connected and the emulator runs."""
        ends_at = None if seconds is None else time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            while not self.backend.closing:
                left = 0.1 if ends_at is None else min(0.1, ends_at - time.monotonic())
                if left <= 0.0:
                    return
                if not selector.select(left):
                    continue
                if not self.connection.recv(1, socket.MSG_PEEK):
                    return
                # The next request is here already; it has to wait its turn.
                time.sleep(left)

    def _send(self, status: int, payload: bytes, content_type: str, *, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(payload)))
        # A client that keeps solver definitions on disk would meet yesterday's emulator on the same port.
        self.send_header("Cache-Control", "no-store")
        if status in (429, 503):
            self.send_header("Retry-After", str(self.backend.config.retry_after_s))
        self.end_headers()
        self.wfile.write(payload if sent is None else payload[:sent])
        self.wfile.flush()
