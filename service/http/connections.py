"""Connections under watch: how many there may be, and how long each may take to send, to read and to wait.

uvicorn's protocol speaks HTTP; it knows of none of this but the wait between two requests. The protocol here stands
between it and the transport, passes everything on, and looks at all connections once a second.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from qshower.service.settings import Settings

MOST_HEAD_BYTES = 1 << 16
OTHER_DESCRIPTORS = 256
"""What files, solvers and the like may need beside connections."""

WATCH_EVERY_S = 1.0
LOG_EVERY_S = 10.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = structlog.get_logger("qshower.service")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Most connections, and most seconds for the head of a request, for all of it, and for reading on."""

    connections: int
    header_s: float
    body_s: float
    write_s: float
    retry_after_s: float


def limits_of(settings: Settings) -> ConnectionLimits:
    """The limits of ``settings``, within the descriptors that the process may have, of which it takes all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted, room = settings.limits.connections, max(hard - OTHER_DESCRIPTORS, hard // 2)
    if wanted > room:
        _log.warning("fewer connections than set, for want of descriptors", connections=room, descriptors=hard)
    of = settings.connections
    return ConnectionLimits(
        min(wanted, room), of.header_timeout_s, of.body_timeout_s, of.write_timeout_s, settings.times.retry_after_s
    )


class _Exchange(Protocol):
    """What uvicorn knows of the request that a connection is at."""

    scope: dict[str, Any]
    more_body: bool
    response_started: bool
    response_complete: bool
    keep_alive: bool


class ConnectionWatch:
    """All connections of a server. ``protocol`` is what uvicorn takes as ``http``."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.closed: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._logged = (0.0, Counter[str]())

    def __len__(self) -> int:
        return len(self._connections)

    def protocol(self) -> type[asyncio.Protocol]:
        """A class of protocols, each of one connection."""
        watch = self

        class Watched(_Connection):
            def __init__(self, **of_uvicorn: Any) -> None:
                super().__init__(watch, HttpToolsProtocol(**of_uvicorn))

        return Watched

    def add(self, connection: _Connection) -> bool:
        """Take a new connection in; False if there is no room."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_EVERY_S, self._look)
        if len(self._connections) >= self.limits.connections:
            self.closed["no room"] += 1
            return False
        self._connections.add(connection)
        return True

    def discard(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def _look(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            if (fault := connection.look(now)) is not None:
                self.closed[fault] += 1
        logged_at, logged = self._logged
        if self.closed != logged and now - logged_at >= LOG_EVERY_S:
            fresh = {name.replace(" ", "_"): count for name, count in (self.closed - logged).items()}
            _log.warning("closed connections", **fresh, open=len(self), most=self.limits.connections)
            self._logged = (now, self.closed.copy())
        busy = self._connections or self.closed != self._logged[1]
        self._timer = asyncio.get_running_loop().call_later(WATCH_EVERY_S, self._look) if busy else None


class _Connection(asyncio.Protocol):
    """One connection: uvicorn's protocol, and since when the client owes something."""

    def __init__(self, watch: ConnectionWatch, inner: HttpToolsProtocol) -> None:
        self._watch = watch
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._owed_since: float | None = None
        self._head_bytes = 0
        self._unread = 0
        self._unread_since: float | None = None
        self._half_closed = False

    @property
    def _exchange(self) -> _Exchange | None:
        """The last request whose head has come."""
        return cast("_Exchange | None", self._inner.cycle)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let uvicorn have it, or say that there is no room."""
        stream = cast(asyncio.Transport, transport)
        if not self._watch.add(self):
            stream.write(_problem(503, "Service Unavailable", "there are too many connections", self._watch.limits))
            stream.close()
            return
        self._transport, self._owed_since = stream, time.monotonic()
        self._inner.connection_made(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell uvicorn."""
        if self._transport is not None:
            self._watch.discard(self)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass it on, and see whether that was all of a request."""
        transport = self._transport
        if transport is None:
            return
        before = self._exchange
        if self._owed_since is None:
            self._owed_since = time.monotonic()
        self._inner.data_received(data)
        now = self._exchange
        if now is before and (now is None or not now.more_body):
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES and not transport.is_closing():
                self._refuse(431, "Request Header Fields Too Large", f"a head has at most {MOST_HEAD_BYTES} bytes")
        else:
            self._head_bytes = 0
            if now is not None and not now.more_body:
                self._owed_since = None

    def eof_received(self) -> bool | None:
        """A client that sends no more may still be waiting for its answer, or have gone: a word to it will tell.

        If it has gone its machine refuses the word, and the connection is lost.
        """
        exchange = self._exchange
        if exchange is None or exchange.more_body or exchange.response_complete or self._transport is None:
            return None
        if exchange.scope.get("http_version") == "1.0":  # to which nothing may be said before the answer
            return None
        self._half_closed, exchange.keep_alive = True, False
        self._probe(exchange)
        return True

    def pause_writing(self) -> None:
        """Tell uvicorn."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Tell uvicorn."""
        self._inner.resume_writing()

    def look(self, now: float) -> str | None:
        """Close the connection if the client has owed something for too long: what, else None."""
        transport, exchange, limits = self._transport, self._exchange, self._watch.limits
        if transport is None or transport.is_closing():
            self._watch.discard(self)
            return None
        if self._half_closed and exchange is not None:
            self._probe(exchange)
        if self._stalled(transport, now):
            transport.abort()
            return "not reading"
        answering = exchange is not None and not exchange.response_complete
        if self._owed_since is None:
            return None
        owed_s = now - self._owed_since
        if exchange is not None and answering and exchange.more_body:
            if owed_s > limits.body_s:
                self._refuse(408, "Request Timeout", f"the request did not come within {limits.body_s:g} s")
                return "slow body"
        elif answering:  # the next request may come when this one is answered
            self._owed_since = now
        elif owed_s > limits.header_s:
            if exchange is None and not self._head_bytes:
                transport.close()
                return "nothing sent"
            self._refuse(408, "Request Timeout", f"the head of the request did not come within {limits.header_s:g} s")
            return "slow head"
        return None

    def _stalled(self, transport: asyncio.Transport, now: float) -> bool:
        unread = transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread or self._unread_since is None:
            self._unread_since = now
        self._unread = unread
        return unread > 0 and now - self._unread_since > self._watch.limits.write_s

    def _probe(self, exchange: _Exchange) -> None:
        if self._transport is not None and not exchange.response_started:
            self._transport.write(CONTINUE)

    def _refuse(self, status: int, title: str, detail: str) -> None:
        transport, exchange = self._transport, self._exchange
        if transport is None:
            return
        if exchange is None or exchange.response_complete or not exchange.response_started:
            transport.write(_problem(status, title, detail, self._watch.limits))
        transport.close()


def _problem(status: int, title: str, detail: str, limits: ConnectionLimits) -> bytes:
    """An answer as problem+json, as it goes over the line."""
    kind = f"urn:qshower:{title.lower().replace(' ', '-')}"
    body = orjson.dumps({"type": kind, "title": title, "status": status, "detail": detail})
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
    wait = f"Retry-After: {max(1, round(limits.retry_after_s))}\r\n" if status == 503 else ""
    return f"{head}{wait}Connection: close\r\n\r\n".encode() + body
