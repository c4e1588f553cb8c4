"""The response to a request for showers: whole where it is small, else in pieces as the showers come.

An answer that is cut short lacks the end of its chunked transfer coding, and what its format ends with: a client that
reads either way sees that it is not whole. What goes wrong before the first piece still has a status of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qshower.sampler.errors import QShowerError
from qshower.service.generation.open_answer import OpenAnswer
from qshower.service.http.encoding import BLOCK_BYTES, FILE_NAMES, Content, Encoder, encode, encoder_of
from qshower.service.http.negotiation import Wanted
from qshower.service.http.problem_json import outcome_of

INLINE_BYTES = 1 << 18
"""Pieces up to this size are encoded where they are; a thread would cost more than the encoding."""
WINDOW_BYTES = 12 << 20
"""Showers of one answer that may wait for the client. What is no larger is sent whole, with its length."""
SLOWEST_BLOCK_S = 60.0
"""A client that takes longer for ``BLOCK_BYTES`` does not read."""

_log = structlog.get_logger("qshower.service")


async def response_to(
    answer: OpenAnswer,
    wanted: Wanted,
    holds: AsyncExitStack,
    ended: Callable[[str], object],
    encoded: Callable[[float], object],
) -> Response:
    """The response with ``answer``, whose first showers are there.

    Args:
        answer: what is sent.
        wanted: in what format.
        holds: closed once all is sent, or as soon as it is known that it will not be.
        ended: told the outcome then.
        encoded: told the seconds that encoding took, of all or of each chunk.
    """
    if 4 * answer.request.rows * answer.geometry.voxel_count <= WINDOW_BYTES:
        whole = await answer.whole()
        small, begun = whole.showers_mev.nbytes <= INLINE_BYTES, time.perf_counter()
        body = encode(whole, wanted) if small else await asyncio.to_thread(encode, whole, wanted)
        encoded(time.perf_counter() - begun)
        pieces, length = _one(body), len(body)
    else:
        pieces, length = _pieces(answer, wanted, encoded), None
    # What goes wrong before there is anything to send has a status of its own.
    first = await anext(pieces)
    return ShowerResponse(Sending(first, pieces, answer.wait_for_taker, holds, ended), wanted, length)


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def _pieces(
    answer: OpenAnswer, wanted: Wanted, encoded: Callable[[float], object]
) -> AsyncGenerator[bytes, None]:
    """The bytes of the answer as they come."""
    content = Content(answer.request.energies_mev, answer.geometry, answer.provenance())
    encoder = await asyncio.to_thread(encoder_of, wanted, content)
    try:
        async for piece in _encoded(answer, encoder, encoded):
            if piece:
                yield piece
    finally:
        await asyncio.to_thread(encoder.close)


async def _encoded(answer: OpenAnswer, encoder: Encoder, encoded: Callable[[float], object]) -> AsyncIterator[bytes]:
    yield encoder.head()
    async for chunk in answer.chunks():
        begun = time.perf_counter()
        part = await asyncio.to_thread(encoder.chunk, chunk.start, chunk.showers_mev)
        encoded(time.perf_counter() - begun)
        yield part
    tail = encoder.tail(answer.provenance())
    while (piece := await asyncio.to_thread(next, tail, None)) is not None:
        yield piece


@dataclass(frozen=True, slots=True, eq=False)
class Sending:
    """What is sent, and who is told of it: ``waited`` of the seconds that the client took, ``ended`` of the outcome."""

    first: bytes
    pieces: AsyncGenerator[bytes, None]
    waited: Callable[[float], object]
    holds: AsyncExitStack
    ended: Callable[[str], object]


class ShowerResponse(Response):
    """Sends pieces of bytes, as fast as the client takes them."""

    def __init__(self, sending: Sending, wanted: Wanted, length: int | None) -> None:
        headers = {"Vary": "Accept"}
        if wanted.format in FILE_NAMES:
            headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[wanted.format]}"'
        super().__init__(None, 200, headers, media_type=wanted.format.value)
        self._sending = sending
        if length is None:
            del self.headers["Content-Length"]
        else:
            self.headers["Content-Length"] = str(length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - what ASGI passes
        """Send all of it; cut short if the client goes away, is too slow, or the showers fail."""
        of, outcome = self._sending, "client_gone"
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                outcome = _outcome(sending)
        finally:
            for task in (sending, watching):
                task.cancel()
            await asyncio.wait({sending, watching})
            await of.pieces.aclose()
            await of.holds.aclose()
            of.ended(outcome)

    async def _send(self, send: Send) -> None:
        of = self._sending
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        piece: bytes | None = of.first
        while piece is not None:
            for at in range(0, len(piece), BLOCK_BYTES):
                block = piece if len(piece) <= BLOCK_BYTES else piece[at : at + BLOCK_BYTES]
                await self._send_block(send, block, more=True)
            piece = await anext(of.pieces, None)
        # Back only once what came before is on its way: until then it counts.
        await self._send_block(send, b"", more=False)

    async def _send_block(self, send: Send, block: bytes, *, more: bool) -> None:
        begun = time.monotonic()
        async with asyncio.timeout(SLOWEST_BLOCK_S):
            await send({"type": "http.response.body", "body": block, "more_body": more})
        self._sending.waited(time.monotonic() - begun)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _outcome(sending: asyncio.Future[None]) -> str:
    """How sending ended, logged if it was cut short: the status is on its way, so that no error can be told."""
    error = None if sending.cancelled() else sending.exception()
    if error is None:
        return "ok"
    if isinstance(error, TimeoutError):
        _log.warning("an answer was cut short: the client did not read it", seconds=SLOWEST_BLOCK_S)
        return "client_slow"
    if isinstance(error, QShowerError):
        _log.warning("an answer was cut short", error=f"{type(error).__name__}: {error}")
        return outcome_of(error)
    raise error
