"""An id for each request: on every line of the log that it causes, and in its answer."""

from __future__ import annotations

import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_log = structlog.get_logger("qshower.service")


def request_id(sent: str | None) -> str:
    """The id that a caller ``sent``, if it is up to 128 letters, digits and ``._:/+=-``; else a new one."""
    return sent if sent is not None and _WELL_FORMED.fullmatch(sent) else uuid4().hex


class RequestIds:
    """Gives each request its id (``X-Request-Id``), and logs how it was answered: failures always, others at debug."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own, begun, status = request_id(Headers(scope=scope).get(HEADER)), time.perf_counter(), 500

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=own):
            try:
                await self._app(scope, receive, marked)
            finally:
                write = _log.warning if status >= 500 else _log.debug
                key = scope.get("state", {}).get("api_key_name")
                route = getattr(scope.get("route"), "path", scope["path"][:200])
                seconds = round(time.perf_counter() - begun, 6)
                write("answered", method=scope["method"], route=route, status=status, seconds=seconds, key=key)
