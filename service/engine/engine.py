"""The engine: a bounded queue in front of the samplers and the decoder.

Each sampler has a lane with its own threads, so that a QPU that takes seconds holds up nobody else; draws of many
sweeps have a lane of their own. A lane works on one piece after another, small enough that who comes waits for a short
one at most, in the order of ``fair_queue``; rows of several requests go together if they share model, sampler, options
and threshold. What comes of a piece is handed out at once, and a request whose taker is slow gets no further piece
until there is room in its window. Every row carries its own random stream through all of this, and its shower depends
on nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from qshower.sampler.protocol import SamplerCapabilities
from qshower.service.engine.admission import Admission, Limits, Load
from qshower.service.engine.batches import Slice, decode_latents, deliver, draw_latents
from qshower.service.engine.cost_model import CostModel
from qshower.service.engine.fair_queue import LEAST_ROWS, FairQueue
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey, Work
from qshower.service.service_errors import DeadlineError, NotReadyError

LONG_PIECE_S = 1.0
"""Where even a small piece is projected to take longer, requests go to a lane of their own."""


@dataclass(slots=True, eq=False)
class _Lane:
    name: str
    concurrency: int
    threads: ThreadPoolExecutor
    queue: FairQueue
    running: int = 0
    undelivered: int = 0
    paced_at: float = 0.0
    in_work: dict[int, float] = field(default_factory=dict)

    def begun_s(self, now: float) -> float:
        """Projected seconds until the batches that are in work are done."""
        return max(0.0, max(self.in_work.values(), default=now) - now)


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
        self._costs = CostModel()
        self._lanes: dict[str, _Lane] = {}
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._requests: dict[QueuedRequest, _Lane] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether it refuses new work."""
        return self._draining

    @property
    def queued_rows(self) -> int:
        """Rows that wait or are in work."""
        return sum(request.rows - request.finished for request in self._requests if not request.ended.done())

    @property
    def queued_requests(self) -> int:
        """Requests that wait, are in work, or are not sent yet."""
        return len(self._requests)

    @property
    def pending_bytes(self) -> int:
        """Most memory that their answers take together, until they are sent."""
        return sum(request.work.held_bytes for request in self._requests)

    def submit(self, work: Work) -> QueuedRequest:
        """Queue a request. Take its ``chunks``, then ``close`` it.

        Raises:
            NotReadyError: the engine drains.
            QueueFullError, InvalidInputError: see ``admission``.
        """
        if self._draining:
            raise NotReadyError("the service is shutting down", retry_after_s=self._limits.retry_after_s)
        lane, now = self._lane(work), time.monotonic()
        load = Load(len(self._requests), self.queued_rows, self.pending_bytes)
        admission = Admission(self._limits, lane.queue, lane.begun_s(now), self._costs.known(work.key))
        deadline_at = admission.deadline_of(work, load)
        request = QueuedRequest(work, asyncio.get_running_loop().create_future(), now, deadline_at)
        request.on_release = lambda: self._released(request)
        request.ended.add_done_callback(lambda _: lane.queue.remove(request))
        self._requests[request] = lane
        lane.queue.add(request)
        self._watch(request)
        for observer in self._observers:
            observer.queued(request)
        self._dispatch(lane)
        return request

    def close_request(self, request: QueuedRequest) -> None:
        """Be done with a request: what has not begun never will, and a draw that is for nobody else stops."""
        request.ended.cancel()
        if request.timer is not None:
            request.timer.cancel()
        lane = self._requests.pop(request, None)
        if lane is not None:
            self._dispatch(lane)

    def extend(self, request: QueuedRequest, seconds: float) -> None:
        """Give a request that set no deadline so much longer: its taker was slow, not the service."""
        if request.deadline_at is not None and request.work.deadline_at is None:
            request.deadline_at += seconds
            self._watch(request)

    def drain(self) -> None:
        """Refuse new work from now on; finish what there is."""
        self._draining = True

    async def close(self, timeout_s: float) -> None:
        """Drain, wait at most ``timeout_s`` for the work in hand, fail the rest with NotReadyError."""
        self.drain()
        waiting = [request.ended for request in self._requests if not request.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for request in list(self._requests):
            request.fail(NotReadyError("the service has shut down", retry_after_s=self._limits.retry_after_s))
        for task in list(self._batches):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._batches, return_exceptions=True)
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _lane(self, work: Work) -> _Lane:
        key, name = work.key, work.key.lane
        local = not (key.cached or key.elsewhere)
        if local and self._costs.seconds(work, name, min(work.rows, LEAST_ROWS)) > LONG_PIECE_S:
            name = f"{name}-long"
        lane = self._lanes.get(name)
        if lane is None:
            known = self._capabilities_of(key.sampler)
            threads = 1 if key.cached else known.threads
            rows = known.batch_rows or self._limits.max_batch_rows
            queue = FairQueue(name, self._costs, rows, None if key.elsewhere else self._limits.piece_s)
            lane = _Lane(name, threads, ThreadPoolExecutor(threads, thread_name_prefix=f"sample-{name}"), queue)
            self._lanes[name] = lane
        return lane

    def _watch(self, request: QueuedRequest) -> None:
        """Have the request fail at its deadline."""
        if request.timer is not None:
            request.timer.cancel()
        if request.deadline_at is not None:
            limit_s = request.work.deadline_s or round(request.deadline_at - request.submitted_at, 1)
            error = DeadlineError(f"not done within {limit_s:g} s")
            left_s = max(0.0, request.deadline_at - time.monotonic())
            request.timer = asyncio.get_running_loop().call_later(left_s, request.fail, error)

    def _released(self, request: QueuedRequest) -> None:
        lane = self._requests.get(request)
        if lane is not None and request.remaining:
            lane.queue.unblock(request)
            self._dispatch(lane)

    def _dispatch(self, lane: _Lane) -> None:
        # One batch may be drawn ahead of the decoder, no more: a request that comes now must not wait for them all.
        while lane.running < lane.concurrency and lane.undelivered <= lane.concurrency:
            slices = lane.queue.take()
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
        work, begun = slices[0].request.work, time.monotonic()
        key, rows = work.key, sum(part.stop - part.start for part in slices)
        if lane.undelivered == 1:
            lane.paced_at = begun
        lane.in_work[id(slices)] = begun + lane.undelivered * self._costs.seconds(work, lane.name, rows)
        for part in slices:
            part.request.begin(begun)
        try:
            try:
                latents = await loop.run_in_executor(lane.threads, draw_latents, slices, begun)
            except Exception:
                self._costs.stopped(work, rows, time.monotonic() - begun)
                raise
            finally:
                lane.running -= 1
            drawn_s = time.monotonic() - begun
            self._costs.drawn(work, rows, drawn_s)
            for observer in self._observers:
                observer.batch_drawn(key, rows, drawn_s)
            self._dispatch(lane)
            showers, decoded_s = await loop.run_in_executor(self._decoders, decode_latents, work, latents)
            now = time.monotonic()
            self._costs.decoded(work, rows, decoded_s)
            self._costs.paced(lane.name, drawn_s + decoded_s, now - lane.paced_at)
            lane.paced_at = now
            for observer in self._observers:
                observer.batch_decoded(key, rows, decoded_s)
            deliver(slices, showers, latents, drawn_s, decoded_s)
        except Exception as error:  # whatever went wrong ends every request of the batch
            for part in slices:
                part.request.fail(error)
        finally:
            lane.undelivered -= 1
            del lane.in_work[id(slices)]
            self._dispatch(lane)
