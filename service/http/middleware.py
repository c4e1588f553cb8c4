"""Pure-ASGI middleware: who may call, how large a body may be, what is counted, and what nobody expected.

Pure ASGI, because a middleware made from a function keeps a handler from ever seeing that its client has gone.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qshower.service.api_keys import ApiKeys
from qshower.service.http import docs_page
from qshower.service.http.problem_json import problem_of, problem_response
from qshower.service.http.root_path import route_path
from qshower.service.metrics import Metrics
from qshower.service.service_errors import MisdirectedError, TooLargeError, UnauthorisedError

_log = structlog.get_logger("qshower.service")

METRICS = "/metrics"
PROBES = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = PROBES | docs_page.PATHS | {"/openapi.json"}


class UnexpectedErrors:
    """Answers an error that nothing else answers with 500, and logs it once.

    If the answer has begun, nothing can be said any more: it stays without its end, and the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:  # while its body was read; nobody is there to answer
            return
        except Exception as error:  # whatever it is, the caller learns only that it happened
            _log.error("unexpected error", method=scope["method"], path=scope["path"], exc_info=error)
            if not begun:
                await problem_response(*problem_of(error, 1.0))(scope, receive, send)


class HostCheck:
    """Answers requests for other hosts than ``allowed``, such as ``*.example.org``, with 421; the probes always."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421."""
        if scope["type"] == "http" and route_path(scope) not in PROBES:
            given = Headers(scope=scope).get("host", "")
            host = re.sub(r":\d*$", "", given).lower()
            if not any(host == name or (name[:2] == "*." and host.endswith(name[1:])) for name in self._allowed):
                error = MisdirectedError(f"Host: {given[:200]}; this service is {', '.join(self._allowed)}")
                await problem_response(*problem_of(error, 1.0))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class KeyCheck:
    """Lets nobody through without a known key, but to the probes and the documentation, and to /metrics if so set."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, *, open_metrics: bool = False) -> None:
        self._app = app
        self._keys = keys
        self._open = OPEN_PATHS | {METRICS} if open_metrics else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._keys and route_path(scope) not in self._open:
            headers = Headers(scope=scope)
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            key = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            name = self._keys.name_of(key) if key else None
            if name is None:
                error = UnauthorisedError("send a known key as Authorization: Bearer KEY, or as X-API-Key")
                await problem_response(*problem_of(error, 1.0))(scope, receive, send)
                return
            scope.setdefault("state", {})["api_key_name"] = name
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large, by their declared length or once they are."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._most:
            error = TooLargeError(f"the body has {declared} bytes, more than {self._most}")
            await problem_response(*problem_of(error, 1.0))(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, f"the body has more than {self._most} bytes")
            return message

        await self._app(scope, limited, send)


class RequestCount:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The template of the route, never the path: paths are without number, and labels must not be.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)
