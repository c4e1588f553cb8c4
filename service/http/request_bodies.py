"""Pure-ASGI middleware for requests as tools send them: HEAD for every page, bodies that are compressed."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qshower.service.http.problem_json import problem_of, problem_response
from qshower.service.service_errors import UnsupportedEncodingError

_GZIP = 16 + zlib.MAX_WBITS


class HeadAsGet:
    """Answers HEAD as GET would be, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def headers_alone(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, headers_alone)


class GzipBodies:
    """Takes bodies with Content-Encoding: gzip, up to ``most_bytes`` of what they hold; refuses other encodings."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body as it was, or answer 415."""
        encoding = Headers(scope=scope).get("content-encoding", "").strip().lower() if scope["type"] == "http" else ""
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
        elif encoding in ("gzip", "x-gzip"):
            dropped = (b"content-encoding", b"content-length")
            headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
            await self._app({**scope, "headers": headers}, self._inflated(receive), send)
        else:
            error = UnsupportedEncodingError(
                f"Content-Encoding: {encoding[:100]}; send the body as it is, or with gzip"
            )
            await problem_response(*problem_of(error, 1.0))(scope, receive, send)

    def _inflated(self, receive: Receive) -> Receive:
        member, seen = zlib.decompressobj(_GZIP), 0

        def inflate(data: bytes) -> bytes:
            nonlocal member, seen
            found = bytearray()
            while data:
                if member.eof:  # one file of gzip may follow another
                    member = zlib.decompressobj(_GZIP)
                found += member.decompress(data, self._most - seen - len(found) + 1)
                if seen + len(found) > self._most:
                    raise HTTPException(413, f"the body holds more than {self._most} bytes")
                data = member.unused_data if member.eof else member.unconsumed_tail
            seen += len(found)
            return bytes(found)

        async def inflated() -> Message:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body = _checked(inflate, message.get("body", b""))
            if not message.get("more_body", False) and not member.eof:
                raise HTTPException(400, "the body is gzip that was cut short")
            return {**message, "body": body}

        return inflated


def _checked(inflate: Callable[[bytes], bytes], data: bytes) -> bytes:
    try:
        return inflate(data)
    except zlib.error as error:
        raise HTTPException(400, f"the body is not gzip, as Content-Encoding says ({error})") from None
