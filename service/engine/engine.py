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
from typing import Protocol

from qshower.sampler.protocol import SamplerCapabilities
from qshower.service.engine.batches import DrawKey, QueuedRequest, Slice, Work, deliver, draw_latents, fail, next_batch
from qshower.service.service_errors import NotReadyError, QueueFullError

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
    waiting: deque[QueuedRequest] = field(default_factory=deque)
    running: int = 0
    undelivered: int = 0
    rows_per_s: float = FIRST_GUESS_ROWS_PER_S


class EngineObserver(Protocol):
    """Observes what the engine does."""

    def queued(self, request: QueuedRequest) -> None:
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
        capabilities_of: Callable[[str], SamplerCapabilities] = lambda _: SamplerCapabilities(reproducible=True),
        decode_threads: int = 1,
    ) -> None:
        self._limits = limits
        self._observers = observers
        self._capabilities_of = capabilities_of
        self._lanes: dict[str, _Lane] = {}
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._requests: set[QueuedRequest] = set()
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
        return len(self._requests)

    def submit(self, work: Work) -> QueuedRequest:
        """Queue a request; await its ``future``. NotReadyError while draining, QueueFullError if full."""
        if self._draining:
            raise NotReadyError("the service is shutting down", retry_after_s=self._limits.retry_after_s)
        lane = self._lane(work.key)
        request = QueuedRequest(work, asyncio.get_running_loop().create_future(), time.monotonic())
        self._admit(request, lane)
        self._requests.add(request)
        self._rows += request.rows
        self._bytes += request.bytes
        request.future.add_done_callback(lambda _: self._forget(request))
        lane.waiting.append(request)
        for observer in self._observers:
            observer.queued(request)
        self._dispatch(lane)
        return request

    def cancel(self, request: QueuedRequest) -> None:
        """Give a request up: what has not begun never will; a draw that is for nobody else stops."""
        request.future.cancel()

    def drain(self) -> None:
        """Refuse new work from now on; finish what there is."""
        self._draining = True

    async def close(self, timeout_s: float) -> None:
        """Drain, wait at most ``timeout_s`` for the work in hand, fail the rest with NotReadyError."""
        self.drain()
        waiting = [request.future for request in self._requests]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for request in list(self._requests):
            fail(request, NotReadyError("the service has shut down", retry_after_s=self._limits.retry_after_s))
        for task in list(self._batches):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._batches, return_exceptions=True)
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _lane(self, key: DrawKey) -> _Lane:
        lane = self._lanes.get(key.lane)
        if lane is None:
            known = self._capabilities_of(key.sampler)
            threads = 1 if key.cached else known.threads
            rows = known.batch_rows or self._limits.max_batch_rows
            lane = _Lane(threads, rows, ThreadPoolExecutor(threads, thread_name_prefix=f"sample-{key.lane}"))
            self._lanes[key.lane] = lane
        return lane

    def _admit(self, request: QueuedRequest, lane: _Lane) -> None:
        limits = self._limits
        if len(self._requests) >= limits.max_queue_requests:
            reason = f"{len(self._requests)} requests are waiting, the most allowed"
        elif self._requests and self._rows + request.rows > limits.max_queue_rows:
            reason = f"{self._rows} showers are waiting; {request.rows} more would pass {limits.max_queue_rows}"
        elif self._requests and self._bytes + request.bytes > limits.max_pending_bytes:
            reason = f"answers in work need {self._bytes} bytes; {request.bytes} more would pass the bound"
        else:
            return
        # The wait until as many rows are done as this request needs room for.
        need = min(self._rows, request.rows)
        raise QueueFullError(reason, retry_after_s=min(600.0, max(1.0, need / lane.rows_per_s)))

    def _forget(self, request: QueuedRequest) -> None:
        if request in self._requests:
            self._requests.discard(request)
            self._rows -= request.rows
            self._bytes -= request.bytes
        request.showers_mev = None
        waiting = self._lanes[request.key.lane].waiting
        # Asked first: the error of a deque that does not hold it would spell out every array of the request.
        if request in waiting:
            waiting.remove(request)

    def _dispatch(self, lane: _Lane) -> None:
        # One batch may be drawn ahead of the decoder, no more: a request that comes now must not wait for them all.
        while lane.running < lane.concurrency and lane.undelivered <= lane.concurrency:
            slices = next_batch(lane.waiting, lane.batch_rows)
            if not slices:
                return
            lane.running += 1
            lane.undelivered += 1
            task = asyncio.get_running_loop().create_task(self._run(lane, slices))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _run(self, lane: _Lane, slices: list[Slice]) -> None:
        """Draw one batch, let the lane go on, decode, deliver."""
        loop = asyncio.get_running_loop()
        key, begun = slices[0].request.key, time.monotonic()
        rows = sum(part.stop - part.start for part in slices)
        for part in slices:
            if part.request.started_at is None:
                part.request.started_at = begun
                part.request.elapsed_s["queue"] = begun - part.request.submitted_at
        try:
            try:
                latents = await loop.run_in_executor(lane.threads, draw_latents, slices, begun)
            finally:
                lane.running -= 1
            drawn_s = time.monotonic() - begun
            for observer in self._observers:
                observer.batch_drawn(key, rows, drawn_s)
            self._dispatch(lane)
            decoding = time.monotonic()
            showers = await loop.run_in_executor(
                self._decoders,
                slices[0].request.work.bundle.decode,
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
            deliver(slices, showers, latents, drawn_s, decoded_s)
        except Exception as error:  # whatever went wrong ends every request of the batch
            for part in slices:
                fail(part.request, error)
        finally:
            lane.undelivered -= 1
            self._dispatch(lane)
