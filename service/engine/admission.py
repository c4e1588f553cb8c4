"""Whether a request is taken in: only what can be done in time, and only if nobody's time is taken for it.

A request is refused with 422 if its own rows are projected to take longer than they may, and with 429 if its turn would
come too late, if it would make one that was taken in too late, or if the queue has no room. ``Retry-After`` is when the
projection says that this is over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qshower.sampler.errors import InvalidInputError
from qshower.service.engine.fair_queue import FairQueue, Outlook
from qshower.service.engine.work import Work
from qshower.service.service_errors import QueueFullError

SHARE_OF_DEADLINE = 0.8
"""A request is taken in if it is projected to be done in this share of its time: projections err."""
GUESS_ERRS_BY = 4.0
"""Before anything was measured, only what is longer than allowed by this factor is refused."""
MARGIN = 2.0
"""A request without a deadline gets so many times what its own rows are projected to take, beside the wait."""
SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 600.0
NEGLIGIBLE_S = 0.25
"""What takes no longer is tried within any deadline."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine; the queue's count what waits and what is in work, bytes what was not sent yet.

    ``max_work_s``: longest time that the rows of one request may be projected to take. ``piece_s``: projected time of
    one batch on this machine, None for no bound.
    """

    max_batch_rows: int
    max_queue_rows: int
    max_queue_requests: int
    max_pending_bytes: int
    retry_after_s: float
    max_work_s: float = math.inf
    piece_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds: requests, their rows that are not done, bytes until they are sent."""

    requests: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides on requests for one lane.

    Attributes:
        limits: the bounds.
        queue: the lane's.
        begun_s: projected seconds of the batches that are in work.
        measured: whether the lane's rates were measured for the model at hand.
    """

    limits: Limits
    queue: FairQueue
    begun_s: float
    measured: bool

    def deadline_of(self, work: Work, load: Load) -> float | None:
        """When ``work`` has to be done if it is taken in now, None for no limit.

        Raises:
            InvalidInputError: its own rows are projected to take longer than they may.
            QueueFullError: too much is waiting.
        """
        now, own_s = time.monotonic(), self.queue.own_s(work, work.rows)
        self._check_work(work, own_s, now)
        self._check_room(work, load)
        if work.deadline_at is not None:
            deadline_at: float | None = work.deadline_at
        else:
            deadline_at = None if work.patience_s is None else now + work.patience_s + MARGIN * own_s
        tag = self.queue.tag_of(work)
        others = list(self.queue.outlook(self.begun_s, tag, own_s))
        ahead_s = max((one.done_in_s for one in others if one.request.finish_tag <= tag), default=self.begun_s)
        if deadline_at is not None:
            longest_s = SHARE_OF_DEADLINE * (deadline_at - now)
            if ahead_s > NEGLIGIBLE_S and ahead_s + own_s > longest_s:
                raise _full(f"about {ahead_s + own_s:.3g} s of work come first", ahead_s + own_s - longest_s)
        self._spare_others(own_s, [one for one in others if one.request.finish_tag > tag], now)
        return deadline_at

    def _check_work(self, work: Work, own_s: float, now: float) -> None:
        surely_s = own_s if self.measured else own_s / GUESS_ERRS_BY
        if surely_s > self.limits.max_work_s:
            rows = max(1, int(work.rows * self.limits.max_work_s / surely_s))
            longest = f"{self.limits.max_work_s:g} s of work"
            if (work.key.options.sweeps or 0) > work.bundle.default_sweeps:
                allowed = (
                    f"with {work.rows} showers, what takes no longer than {longest}; this takes about {own_s:.3g} s"
                )
                raise InvalidInputError("options.sweeps", work.key.options.sweeps, allowed)
            allowed = f"about {rows} showers, {longest}; this takes about {own_s:.3g} s"
            raise InvalidInputError("incident_energies_mev", work.rows, allowed)
        if work.deadline_at is not None and surely_s > NEGLIGIBLE_S + 2.0 * (work.deadline_at - now):
            allowed = f"at least the {own_s:.3g} s that {work.rows} showers take by themselves"
            raise InvalidInputError("deadline_s", round(work.deadline_at - now, 3), allowed)

    def _check_room(self, work: Work, load: Load) -> None:
        """Room in the queue; a lone request may be larger than it."""
        limits, own_bytes = self.limits, work.held_bytes
        if load.requests >= limits.max_queue_requests:
            reason = f"{load.requests} requests are waiting, the most allowed"
            raise _full(reason, self._wait_for(lambda _: 1.0, load.requests - limits.max_queue_requests + 1))
        if load.requests and load.rows + work.rows > limits.max_queue_rows:
            reason = f"{load.rows} showers are waiting; {work.rows} more would pass {limits.max_queue_rows}"
            excess = load.rows + min(work.rows, limits.max_queue_rows) - limits.max_queue_rows
            raise _full(reason, self._wait_for(lambda one: one.request.remaining, excess))
        if load.requests and load.bytes + own_bytes > limits.max_pending_bytes:
            reason = f"answers in work need {load.bytes} bytes; {own_bytes} more would pass the bound"
            excess = load.bytes + min(own_bytes, limits.max_pending_bytes) - limits.max_pending_bytes
            raise _full(reason, self._wait_for(lambda one: one.request.work.held_bytes, excess))

    def _wait_for(self, freed: Callable[[Outlook], float], wanted: float) -> float:
        """Seconds until requests are done that give so much of something free."""
        before_s = 0.0
        for one in self.queue.outlook(self.begun_s, math.inf):
            gives = freed(one)
            if gives >= wanted > 0:
                return before_s + (one.done_in_s - before_s) * wanted / gives
            wanted, before_s = wanted - gives, one.done_in_s
        return max(before_s, self.begun_s)

    def _spare_others(self, own_s: float, later: Iterable[Outlook], now: float) -> None:
        """Refuse what would make requests late that are in time without it."""
        for one in later:
            limit = one.request.deadline_at
            if limit is not None and one.done_in_s - own_s <= limit - now < one.done_in_s:
                raise _full("requests that were taken in before would be late", one.done_in_s - own_s)


def _full(reason: str, wait_s: float) -> QueueFullError:
    return QueueFullError(reason, retry_after_s=min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, wait_s)))
