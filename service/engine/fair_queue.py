"""The order in which a lane serves its requests, and what that promises to each.

Fair queueing: were all requests of a lane served at once, each at an equal share of its rate, they would end in a
certain order, and that is the order in which they are served here, one piece after another. So a small request passes
large ones, none waits longer than with equal shares and one piece, and equal ones are finished one by one rather than
all at the very end. Virtual time is the seconds of work that each request of that imagined lane was given so far; a
request's finish tag is the virtual time at which it would be done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from qshower.service.engine.batches import Slice, next_batch
from qshower.service.engine.cost_model import CostModel
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey, Work

LEAST_ROWS = 32
"""Rows of a small piece: fewer take about as long."""
STALLED_S = 1.0
"""A request whose taker has not come for so long is not projected to take part in what is to be done."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """One request of a lane: seconds until it is done, if no other comes."""

    request: QueuedRequest
    done_in_s: float


class FairQueue:
    """The requests of one lane that have rows no batch has taken, in the order of their finish tags.

    Args:
        lane: its name.
        costs: what work is projected to take.
        most_rows: of a batch.
        piece_s: projected seconds of a batch, at most, where smaller ones cost nothing more; None for no bound.
    """

    def __init__(self, lane: str, costs: CostModel, most_rows: int, piece_s: float | None) -> None:
        self._lane, self._costs = lane, costs
        self._most_rows, self._piece_s = most_rows, piece_s
        self._waiting: list[QueuedRequest] = []
        self._virtual_s = 0.0

    def tag_of(self, work: Work) -> float:
        """The finish tag that ``work`` would get now."""
        return self._virtual_s + self.own_s(work, work.rows)

    def own_s(self, work: Work, rows: int) -> float:
        """Projected seconds of ``rows`` rows of ``work``, in pieces among those of others."""
        piece = self.piece_rows(work)
        return rows * self._costs.seconds(work, self._lane, piece) / piece

    def add(self, request: QueuedRequest) -> None:
        """Put a request into its place."""
        request.finish_tag = self.tag_of(request.work)
        self._waiting.append(request)

    def remove(self, request: QueuedRequest) -> None:
        """Take a request out, if it is there."""
        if request in self._waiting:
            self._waiting.remove(request)

    def unblock(self, request: QueuedRequest) -> None:
        """Its taker has come: what it did not ask for meanwhile is no claim on the others."""
        if request.blocked_at is not None:
            request.blocked_at = None
            own_s = self.own_s(request.work, request.remaining)
            request.finish_tag = max(request.finish_tag, self._virtual_s + own_s)

    def take(self) -> list[Slice]:
        """The next batch; empty if nothing may be drawn now."""
        self._waiting = [request for request in self._waiting if not request.ended.done() and request.remaining]
        self._waiting.sort(key=lambda request: request.finish_tag)
        first = next((request for request in self._waiting if request.open_rows > 0), None)
        if first is None:
            return []
        competing = sum(request.open_rows > 0 for request in self._waiting)
        slices = next_batch(self._waiting, self.piece_rows(first.work))
        for part in slices:
            self._virtual_s += self.own_s(part.request.work, part.stop - part.start) / competing
        return slices

    def piece_rows(self, work: Work) -> int:
        """Rows of a batch that begins with ``work``."""
        if self._piece_s is None:
            return self._most_rows
        rows = self._costs.rows_within(work, self._lane, self._piece_s)
        return max(min(LEAST_ROWS, self._most_rows), min(rows, self._most_rows))

    def outlook(self, begun_s: float, tag: float, extra_s: float = 0.0) -> Iterator[Outlook]:
        """When each request is done, in the order in which they are served, with another of ``extra_s`` at ``tag``.

        ``begun_s``: projected seconds of the batches in work.
        """
        now, at, units = time.monotonic(), begun_s, dict[DrawKey, float]()
        added = False
        for request in sorted(self._waiting, key=lambda one: one.finish_tag):
            if request.ended.done():
                continue
            if not added and request.finish_tag > tag:
                added, at = True, at + extra_s
            stalled = request.blocked_at is not None and now - request.blocked_at > STALLED_S
            if not stalled:
                at += request.remaining * self._unit_s(request, units)
                yield Outlook(request, at)

    def _unit_s(self, request: QueuedRequest, units: dict[DrawKey, float]) -> float:
        """Projected seconds of one of its rows among others, from ``units`` once it is known there."""
        if request.key not in units:
            units[request.key] = self.own_s(request.work, 1)
        return units[request.key]
