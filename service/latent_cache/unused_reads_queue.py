"""What becomes of the reads that a QPU draw does not use: they are refined after its answer, and cached."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qshower.service.background.background_task import BackgroundTask

if TYPE_CHECKING:
    from qshower.sampler.qpu.unused_reads import UnusedReads
    from qshower.service.latent_cache.cached_reads import CachedReads

MOST_WAITING = 16_384
"""Reads; before they are refined they take about a kilobyte each."""
SLICE_ROWS = 512
"""Reads that are refined at once: closing waits for no more."""
POLL_S = 0.02
PAUSES_S = (1.0, 60.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """Reads that wait for their cache."""

    cache: CachedReads
    reads: UnusedReads

    @property
    def name(self) -> str:
        """Of the model."""
        return self.cache.name


class UnusedReadsQueue:
    """Takes the unused reads of draws at once, and has them completed, refined and cached by a thread of its own.

    What finds no room, or is not done when it is closed, is dropped and counted.

    ``caches`` are where they go, one for each machine.

    Args:
        most_waiting: reads that may wait.
        pauses_s: after failures, as of any BackgroundTask.
    """

    def __init__(
        self,
        most_waiting: int = MOST_WAITING,
        pauses_s: tuple[float, float] = PAUSES_S,
    ) -> None:
        self.caches: Sequence[CachedReads] = ()
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._slices: deque[_Slice] = deque()
        self._waiting = self._cached = self._dropped = 0
        self._closed = False
        self.task = BackgroundTask("unused-reads", self._due, self._refine, poll_s=POLL_S, pauses_s=pauses_s)

    def receive(self, reads: UnusedReads) -> None:
        """Take in as many ``reads`` as there is room for; none that a request without options would not get."""
        cache = next((one for one in self.caches if one.machine is reads.request.machine), None)
        if cache is None or not reads.request.options.leave_latents_alone():
            return
        with self._lock:
            for some in reads.slices(SLICE_ROWS):
                if self._closed or self._waiting + some.rows > self._most_waiting:
                    self._dropped += some.rows
                else:
                    self._slices.append(_Slice(cache, some))
                    self._waiting += some.rows

    def close(self) -> None:
        """End with the slice in hand. Idempotent."""
        with self._lock:
            self._closed = True
            while self._slices:
                self._settle(self._slices.popleft().reads.rows, 0)
        self.task.close()

    def status(self) -> dict[str, Any]:
        """For a health page: reads that wait, were cached and were dropped; what went wrong last."""
        last_error = self.task.status()["last_error"]
        with self._lock:
            return {
                "waiting": self._waiting,
                "cached": self._cached,
                "dropped": self._dropped,
                "last_error": last_error,
            }

    def _due(self) -> _Slice | None:
        with self._lock:
            return self._slices.popleft() if self._slices else None

    def _refine(self, some: _Slice) -> None:
        cached = 0
        try:
            cached = some.cache.put(some.reads)
        finally:
            with self._lock:
                self._settle(some.reads.rows, cached)

    def _settle(self, rows: int, cached: int) -> None:
        """Count ``rows`` that wait no longer."""
        self._waiting -= rows
        self._cached += cached
        self._dropped += rows - cached
