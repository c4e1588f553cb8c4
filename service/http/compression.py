"""Answers in gzip or zstd where the client takes them, compressed off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pyarrow as pa
from isal import isal_zlib
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qshower.service.http.negotiation import qualities

Coding = Literal["zstd", "gzip"]

SMALLEST_BYTES = 1024
INLINE_BYTES = 1 << 14
"""Pieces up to this size are compressed where they are; a thread would cost more."""

_TEXT = ("application/json", "application/problem+json", "text/")
"""What is compressed. The other formats of showers are already, or are for clients that want no time spent on it."""

_GZIP_OF_ZLIB = 31


class CompressedAnswers:
    """Compresses texts of 1 kB and more, each piece of a streamed one by itself, so that it can be read at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its answer compressed if that is wanted."""
        coding = accepted(Headers(scope=scope).get("accept-encoding", "")) if scope["type"] == "http" else None
        held: Message | None = None
        pack: Callable[[bytes, bool], bytes] | None = None

        async def packed(message: Message) -> None:
            nonlocal held, pack
            if message["type"] == "http.response.start":
                held = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if held is not None:
                start, held = held, None
                headers = MutableHeaders(raw=list(start["headers"]))
                if _is_text(headers):
                    headers.add_vary_header("Accept-Encoding")
                    if coding is not None and (more or len(body) >= SMALLEST_BYTES):
                        pack = packer(coding)
                        headers["Content-Encoding"] = coding
                        del headers["Content-Length"]
                if pack is not None:
                    body = await _off_loop(pack, body, last=not more)
                    if not more:
                        headers["Content-Length"] = str(len(body))
                await send({**start, "headers": headers.raw})
            elif pack is not None:
                body = await _off_loop(pack, body, last=not more)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await self._app(scope, receive, packed)


def accepted(header: str) -> Coding | None:
    """The coding that an Accept-Encoding header prefers, zstd where it has no preference; None for none."""
    given = dict(qualities(header))
    codings: tuple[Coding, Coding] = ("zstd", "gzip")
    best = max(codings, key=lambda name: given.get(name, 0.0))
    return best if given.get(best, 0.0) > 0.0 else None


def packer(coding: Coding) -> Callable[[bytes, bool], bytes]:
    """Packs one piece of a body after the other; the second argument says whether it is the last."""
    if coding == "zstd":  # whose decoders take one frame after the other
        codec = pa.Codec("zstd", compression_level=1)
        return lambda piece, last: codec.compress(piece, asbytes=True) if piece or last else b""
    member = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP_OF_ZLIB)

    def pack(piece: bytes, last: bool) -> bytes:  # noqa: FBT001 - as zstd's
        return member.compress(piece) + member.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)

    return pack


async def _off_loop(pack: Callable[[bytes, bool], bytes], piece: bytes, *, last: bool) -> bytes:
    return pack(piece, last) if len(piece) <= INLINE_BYTES else await asyncio.to_thread(pack, piece, last)


def _is_text(headers: MutableHeaders) -> bool:
    return headers.get("content-type", "").startswith(_TEXT) and "content-encoding" not in headers
