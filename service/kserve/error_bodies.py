"""Errors of the protocol's pages as its clients read them: ``{"error": …}``, with the same status and headers."""

from __future__ import annotations

import orjson
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qshower.service.http.problem_json import MEDIA_TYPE
from qshower.service.http.root_path import route_path

PREFIX = "/v2"


class ErrorBodies:
    """Rewrites the problems of the pages below ``/v2``. Pure ASGI, as ``qshower.service.http.middleware`` has it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or not f"{route_path(scope)}/".startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def rewritten(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                if headers.get(b"content-type", b"").decode().startswith(MEDIA_TYPE):
                    start = message
                    return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            problem = orjson.loads(bytes(body))
            content = orjson.dumps({"error": problem.get("detail") or problem["title"]})
            changed = MutableHeaders(raw=start["headers"])
            changed["content-type"], changed["content-length"] = "application/json", str(len(content))
            await send(start)
            await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, rewritten)
