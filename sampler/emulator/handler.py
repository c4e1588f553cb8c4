"""One connection of the solver API."""

from __future__ import annotations

import hmac
import selectors
import socket
import time
import zlib
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from qshower.sampler.emulator.corrupt import corrupt_answer
from qshower.sampler.emulator.fault_injection import FAULTS, parse_fault
from qshower.sampler.errors import InvalidInputError

if TYPE_CHECKING:
    from qshower.sampler.emulator.jobs import SolverBackend

API_PATH = "/sapi/v2/"
VERSION = "3.0.0"
MAX_BODY_BYTES = 64 * 2**20
MAX_LONG_POLL_S = 30.0

_STATUS_OF_ACTION = {action: int(action) for action in ("400", "401", "403", "404", "429", "500", "503")}
_MESSAGES = {
    400: "Bad request",
    401: "Invalid token",
    403: "Access forbidden",
    404: "Not found",
    409: "Conflict",
    413: "Request too large",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service unavailable",
}


class _ReplyError(Exception):
    """A request that is answered with an HTTP error."""

    def __init__(self, status: int, message: str | None = None) -> None:
        self.status = status
        super().__init__(message or _MESSAGES[status])


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
                raise _ReplyError(403, "Web pages have no business here")
            url = urlsplit(self.path)
            if url.path.startswith("/admin/"):
                self._send(200, orjson.dumps(self._admin(method, url.path, body)), "application/json")
            elif url.path.startswith(API_PATH):
                self._check_token()
                self._api(method, url.path.removeprefix(API_PATH).strip("/").split("/"), parse_qs(url.query), body)
            else:
                raise _ReplyError(404)
        except _ReplyError as error:
            reply = {"error_code": error.status, "error_msg": str(error)}
            self._send(error.status, orjson.dumps(reply), "application/json")

    def _api(self, method: str, path: list[str], query: dict[str, list[str]], body: bytes) -> None:
        match method, path:
            case "GET", ["solvers", "remote", *name] if len(name) <= 1:
                stage, kind = "solvers", "solver-definition" if name else "solver-definition-list"
            case "POST", ["problems"]:
                stage, kind = "submit", "problems"
            case "GET", ["problems"]:
                stage, kind = "poll", "problems"
            case "GET", ["problems", _]:
                stage, kind = "answer", "problem"
            case "DELETE", ["problems"]:
                stage, kind = "cancel", "problems"
            case "DELETE", ["problems", _]:
                stage, kind = "cancel", "problem"
            case _:
                raise _ReplyError(404)
        fault = self.backend.faults.strike(stage)
        action = fault.action if fault is not None else ""
        if action in _STATUS_OF_ACTION:
            raise _ReplyError(_STATUS_OF_ACTION[action])
        if stage == "solvers":
            reply = self._solvers(unquote(path[2]) if len(path) > 2 else None, query, offline=action == "offline")
        elif stage == "submit":
            reply = self._submit(body, refuse=action == "refused")
        elif stage == "poll":
            reply = self._poll(query, omit=action == "omits_id")
        elif stage == "answer":
            reply = corrupt_answer(action, self._answer(path[1]))
        else:
            reply = self._cancel(path[1:], body)
        self._send_api(orjson.dumps(reply), kind, action)

    def _solvers(self, name: str | None, query: dict[str, list[str]], *, offline: bool) -> Any:
        definition = self.backend.definition()
        if name is not None and name != definition["identity"]["name"]:
            raise _ReplyError(404, "Solver does not exist or apikey does not have access")
        if offline:
            definition["status"] = "OFFLINE"
        terms = query.get("filter", ["all"])[0].split(",")
        fields = set() if terms[0] == "none" else set(definition)
        for term in terms[1:]:
            fields = fields | {term[1:]} if term.startswith("+") else fields - {term.removeprefix("-")}
        chosen = {field: value for field, value in definition.items() if field in fields}
        return chosen if name is not None else [chosen]

    def _submit(self, body: bytes, *, refuse: bool) -> Any:
        jobs = _json(body)
        several = isinstance(jobs, list)
        replies = []
        for job in jobs if several else [jobs]:
            if not isinstance(job, dict):
                raise _ReplyError(400, "A job must be an object")
            if refuse:
                replies.append({"error_code": 400, "error_msg": "Problem not accepted"})
            else:
                replies.append(self.backend.submit(job))
        return replies if several else replies[0]

    def _poll(self, query: dict[str, list[str]], *, omit: bool) -> Any:
        if "id" not in query:
            return self.backend.every_status()[:1000]
        try:
            timeout_s = min(max(float(query.get("timeout", ["0"])[0]), 0.0), MAX_LONG_POLL_S)
        except ValueError as error:
            raise _ReplyError(400, "timeout must be a number") from error
        statuses = self.backend.statuses(query["id"][0].split(","), 0.0 if omit else timeout_s)
        if statuses is None:
            raise _ReplyError(404, "Problem does not exist")
        return statuses[1:] if omit else statuses

    def _answer(self, identifier: str) -> dict[str, Any]:
        reply = self.backend.result(identifier)
        if reply is None:
            raise _ReplyError(404, "Problem does not exist")
        return reply

    def _cancel(self, path: list[str], body: bytes) -> Any:
        if path:
            return self.backend.cancel(path[0])
        identifiers = _json(body) if body else []
        if not isinstance(identifiers, list) or not all(isinstance(item, str) for item in identifiers):
            raise _ReplyError(400, "A list of problem ids is needed")
        return [self.backend.cancel(identifier) for identifier in identifiers]

    def _admin(self, method: str, path: str, body: bytes) -> Any:
        if method == "GET" and path == "/admin/state":
            return self.backend.state()
        if method == "GET" and path == "/admin/fault":
            return {name: fault.effect for name, fault in FAULTS.items()}
        if path != "/admin/fault" or method not in ("POST", "DELETE"):
            raise _ReplyError(404)
        asked = _json(body) if body else {}
        name, count = (asked.get("name"), asked.get("count")) if isinstance(asked, dict) else (None, None)
        if name is not None and not isinstance(name, str):
            raise _ReplyError(400, "The name of a fault is a string")
        if method == "DELETE":
            self.backend.faults.clear(name)
        else:
            try:
                fault, times = parse_fault(str(name) if count is None else f"{name}:{count}")
            except InvalidInputError as error:
                raise _ReplyError(400, str(error)) from error
            # Maintenance asked for without a count starts now, not with the next problem.
            if fault.action == "maintenance" and count is None:
                self.backend.start_maintenance()
            else:
                self.backend.faults.arm(fault, times)
        return self.backend.state()

    def _check_token(self) -> None:
        given, wanted = self.headers.get("X-Auth-Token", ""), self.backend.config.token
        if not given or (wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode())):
            raise _ReplyError(401)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._read_chunks()
        else:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal():
                raise self._cut(_ReplyError(400, "Content-Length must be a number"))
            if int(length) > MAX_BODY_BYTES:
                raise self._cut(_ReplyError(413))
            body = self.rfile.read(int(length))
        if self.headers.get("Content-Encoding", "").lower() != "deflate":
            return body
        try:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(body, MAX_BODY_BYTES)
        except zlib.error as error:
            raise _ReplyError(400, "The body is not deflated") from error
        if inflater.unconsumed_tail:
            raise _ReplyError(413)
        return inflated

    def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            try:
                size = int(self.rfile.readline(64).split(b";")[0], 16)
            except ValueError as error:
                raise self._cut(_ReplyError(400, "A chunk has no size")) from error
            total += size
            if total > MAX_BODY_BYTES:
                raise self._cut(_ReplyError(413))
            parts.append(self.rfile.read(size))
            self.rfile.readline(4)
            if size == 0:
                return b"".join(parts)

    def _cut(self, error: _ReplyError) -> _ReplyError:
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
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(payload if sent is None else payload[:sent])
        self.wfile.flush()


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _ReplyError(400, "The body is not JSON") from error
