"""One request in the engine: what of it is in work, what waits to be taken, how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from qshower.service.engine.work import Chunk, DrawKey, Drawn, DrawnRows, Work, joined

PIECES_OF_WINDOW = 3
"""Pieces in a window: one is drawn, one decoded, one taken."""


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request in the engine. Lives in its event loop.

    Attributes:
        work: what is asked for.
        ended: done once every row was drawn and decoded, or with the error that ended it; cancelled if it was given up.
        submitted_at, started_at: ``time.monotonic`` instants; not started if None.
        deadline_at: when it fails, None for never.
        finish_tag: its place in the order of its lane (``fair_queue``).
        dispatched, finished, released: rows that batches took, that were decoded, and that the taker is done with.
        blocked_at: since when it waits for its taker, None while it does not.
        parts: how its rows were drawn, in the order in which they were.
        elapsed_s: seconds by stage.
        on_release: called when rows were released.
        timer: ends it at its deadline.
    """

    work: Work
    ended: asyncio.Future[None]
    submitted_at: float
    deadline_at: float | None = None
    finish_tag: float = 0.0
    started_at: float | None = None
    dispatched: int = 0
    finished: int = 0
    released: int = 0
    blocked_at: float | None = None
    on_release: Callable[[], object] = lambda: None
    timer: asyncio.TimerHandle | None = None
    parts: list[DrawnRows] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "sample": 0.0, "decode": 0.0})
    _ready: dict[int, Chunk] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ended.add_done_callback(self._note_end)

    @property
    def key(self) -> DrawKey:
        """What it shares with those it is drawn with."""
        return self.work.key

    @property
    def rows(self) -> int:
        """Number of showers asked for."""
        return self.work.rows

    @property
    def remaining(self) -> int:
        """Rows that no batch has taken yet."""
        return self.rows - self.dispatched

    @property
    def open_rows(self) -> int:
        """Rows that a batch may take now: those that its window has room for."""
        return min(self.remaining, self.work.window_rows - (self.dispatched - self.released))

    def piece_rows(self, rows: int) -> int:
        """How many of its rows a batch takes, where batches have ``rows``."""
        window = self.work.window_rows
        return min(rows, window if window == self.rows else max(1, window // PIECES_OF_WINDOW))

    def begin(self, now: float) -> None:
        """Note that a batch with its first rows begins."""
        if self.started_at is None:
            self.started_at = now
            self.elapsed_s["queue"] = now - self.submitted_at

    def receive(self, chunk: Chunk, parts: Iterable[DrawnRows], drawn_s: float, decoded_s: float) -> None:
        """Take in rows that were drawn and decoded."""
        self._ready[chunk.start] = chunk
        self.parts.extend(parts)
        self.elapsed_s["sample"] += drawn_s
        self.elapsed_s["decode"] += decoded_s
        self.finished += chunk.stop - chunk.start
        if self.finished == self.rows:
            self.ended.set_result(None)
        elif self.open_rows <= 0 < self.remaining and self.blocked_at is None:
            self.blocked_at = time.monotonic()
        self._news.set()

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended."""
        if not self.ended.done():
            # The same error may end several requests; each raises its own traceback from it.
            self.ended.set_exception(error)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Its showers in the order of the request, as they come; each is released when the next one is asked for.

        Raises the error that ended the request, once what came before it was given out.
        """
        while self.released < self.rows:
            while (chunk := self._ready.pop(self.released, None)) is None:
                if self.ended.done():
                    self.ended.result()
                self._news.clear()
                await self._news.wait()
            yield chunk
            self.released = chunk.stop
            self.on_release()

    async def whole(self) -> Drawn:
        """All of its showers together."""
        found = [chunk.showers_mev async for chunk in self.chunks()]
        return Drawn(joined(found), self.parts_in_order(), self.elapsed_s)

    def parts_in_order(self) -> tuple[DrawnRows, ...]:
        """How its rows were drawn so far, by rows."""
        return tuple(sorted(self.parts, key=lambda part: part.start))

    def _note_end(self, ended: asyncio.Future[None]) -> None:
        if not ended.cancelled():
            ended.exception()  # so that nobody hears of an error that nobody waited for
        self._news.set()
