"""The engine: a bounded queue in front of the samplers and the decoder.

Each sampler has a lane with its own threads, so that a QPU that takes seconds holds up nobody else. A lane never waits
for company: whatever has gathered while it was busy goes together into its next batch, if it shares model, sampler,
options and threshold. Room in a batch is shared evenly, so that a request for one shower does not wait behind all of a
request for many. Every row carries its own random stream through all of this, and its shower depends on nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.service.engine.batches import DrawKey, Draws, Piece, Ticket, deliver, draw_latents, fail, next_batch
from qshower.service.service_errors import NotReadyError, QueueFullError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.claim import Claim

RATE_MEMORY = 0.8
FIRST_GUESS_ROWS_PER_S = 200.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine; the queue's count what waits and what is in work."""

    max_batch_rows: int
    max_queue_rows: int
    max_queue_requests: int
    max_pending_bytes: int
    retry_after_s: float


@dataclass(slots=True, eq=False)
class _Lane:
    concurrency: int
    batch_rows: int
    threads: ThreadPoolExecutor
    waiting: deque[Ticket] = field(default_factory=deque)
    running: int = 0
    undelivered: int = 0
    rows_per_s: float = FIRST_GUESS_ROWS_PER_S


class EngineObserver(Protocol):
    """Who is told what the engine does."""

    def queued(self, ticket: Ticket) -> None:
        """A request was taken in."""

    def batch_drawn(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A sampler answered a batch."""

    def batch_decoded(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A batch was decoded."""


class Engine:
    """Draws and decodes for many requests at once. Lives in one event loop; the numeric work runs in threads."""

    def __init__(
        self,
        limits: Limits,
        *observers: EngineObserver,
        lane_threads: Callable[[str], int] = lambda _: 1,
        lane_rows: Callable[[str], int | None] = lambda _: None,
        decode_threads: int = 1,
    ) -> None:
        self._limits = limits
        self._observers = observers
        self._lane_threads = lane_threads
        self._lane_rows = lane_rows
        self._lanes: dict[str, _Lane] = {}
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._tickets: set[Ticket] = set()
        self._batches: set[asyncio.Task[None]] = set()
        self._rows = 0
        self._bytes = 0
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether it refuses new work."""
        return self._draining

    @property
    def queued_rows(self) -> int:
        """Rows that wait or are in work."""
        return self._rows

    @property
    def queued_requests(self) -> int:
        """Requests that wait or are in work."""
        return len(self._tickets)

    def submit(
        self,
        key: DrawKey,
        bundle: Bundle,
        sampler: Draws,
        energies_mev: NDArray[np.float64],
        streams: NDArray[np.uint64],
        deadline_at: float | None = None,
        claim: Claim | None = None,
    ) -> Ticket:
        """Queue a request; await the ticket's ``future``. NotReadyError while draining, QueueFullError if full.

        ``energies_mev`` (rows,), ``streams`` (rows, 2); ``deadline_at`` in the time of ``time.monotonic``.
        Rows that ``claim`` serves are not drawn.
        """
        if self._draining:
            raise NotReadyError("the service is shutting down", retry_after_s=self._limits.retry_after_s)
        lane = self._lane(key.lane)
        ticket = Ticket(
            key,
            bundle,
            sampler,
            claim,
            energies_mev,
            streams,
            deadline_at,
            asyncio.get_running_loop().create_future(),
            time.monotonic(),
        )
        self._admit(ticket, lane)
        self._tickets.add(ticket)
        self._rows += ticket.rows
        self._bytes += ticket.bytes
        ticket.future.add_done_callback(lambda _: self._forget(ticket))
        lane.waiting.append(ticket)
        for observer in self._observers:
            observer.queued(ticket)
        self._dispatch(lane)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: what has not begun never will; what is in work is thrown away."""
        ticket.future.cancel()

    def drain(self) -> None:
        """Refuse new work from now on; finish what there is."""
        self._draining = True

    async def close(self, timeout_s: float) -> None:
        """Drain, wait at most ``timeout_s`` for the work in hand, fail the rest with NotReadyError."""
        self.drain()
        waiting = [ticket.future for ticket in self._tickets]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for ticket in list(self._tickets):
            fail(ticket, NotReadyError("the service has shut down", retry_after_s=self._limits.retry_after_s))
        for task in list(self._batches):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._batches, return_exceptions=True)
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            count = self._lane_threads(name)
            rows = self._lane_rows(name) or self._limits.max_batch_rows
            lane = _Lane(count, rows, ThreadPoolExecutor(count, thread_name_prefix=f"sample-{name}"))
            self._lanes[name] = lane
        return lane

    def _admit(self, ticket: Ticket, lane: _Lane) -> None:
        limits = self._limits
        if len(self._tickets) >= limits.max_queue_requests:
            reason = f"{len(self._tickets)} requests are waiting, the most allowed"
        elif self._tickets and self._rows + ticket.rows > limits.max_queue_rows:
            reason = f"{self._rows} showers are waiting; {ticket.rows} more would pass {limits.max_queue_rows}"
        elif self._tickets and self._bytes + ticket.bytes > limits.max_pending_bytes:
            reason = f"answers in work need {self._bytes} bytes; {ticket.bytes} more would pass the bound"
        else:
            return
        # The wait until as many rows are done as this request needs room for.
        need = min(self._rows, ticket.rows)
        raise QueueFullError(reason, retry_after_s=min(600.0, max(1.0, need / lane.rows_per_s)))

    def _forget(self, ticket: Ticket) -> None:
        if ticket in self._tickets:
            self._tickets.discard(ticket)
            self._rows -= ticket.rows
            self._bytes -= ticket.bytes
        ticket.showers_mev = None
        waiting = self._lanes[ticket.key.lane].waiting
        # Asked first: the error of a deque that does not hold it would spell out every array of the ticket.
        if ticket in waiting:
            waiting.remove(ticket)

    def _dispatch(self, lane: _Lane) -> None:
        # One batch may be drawn ahead of the decoder, no more: a request that comes now must not wait for them all.
        while lane.running < lane.concurrency and lane.undelivered <= lane.concurrency:
            pieces = next_batch(lane.waiting, lane.batch_rows)
            if not pieces:
                return
            lane.running += 1
            lane.undelivered += 1
            task = asyncio.get_running_loop().create_task(self._run(lane, pieces))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _run(self, lane: _Lane, pieces: list[Piece]) -> None:
        """Draw one batch, let the lane go on, decode, deliver."""
        loop = asyncio.get_running_loop()
        key, begun = pieces[0].ticket.key, time.monotonic()
        rows = sum(piece.stop - piece.start for piece in pieces)
        for piece in pieces:
            if piece.ticket.started_at is None:
                piece.ticket.started_at = begun
                piece.ticket.elapsed_s["queue"] = begun - piece.ticket.submitted_at
        try:
            try:
                latents = await loop.run_in_executor(lane.threads, draw_latents, pieces, begun)
            finally:
                lane.running -= 1
            drawn_s = time.monotonic() - begun
            for observer in self._observers:
                observer.batch_drawn(key, rows, drawn_s)
            self._dispatch(lane)
            decoding = time.monotonic()
            showers = await loop.run_in_executor(
                self._decoders,
                pieces[0].ticket.bundle.decode,
                latents.spins,
                latents.energies_mev,
                latents.streams,
                key.threshold_mev,
            )
            decoded_s = time.monotonic() - decoding
            # Drawing and decoding overlap, so that the slower of the two is what a queue waits for.
            rate = rows / max(drawn_s, decoded_s, 1e-6)
            lane.rows_per_s = RATE_MEMORY * lane.rows_per_s + (1 - RATE_MEMORY) * rate
            for observer in self._observers:
                observer.batch_decoded(key, rows, decoded_s)
            deliver(pieces, showers, latents, drawn_s, decoded_s)
        except Exception as error:  # whatever went wrong is told to every request of the batch
            for piece in pieces:
                fail(piece.ticket, error)
        finally:
            lane.undelivered -= 1
            self._dispatch(lane)
