"""What becomes of the reads that a QPU draw leaves: they are refined behind its back, and kept."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from qshower.sampler.machine import BoltzmannMachine
    from qshower.sampler.qpu.unused_reads import UnusedReads
    from qshower.sampler.request import LatentRequest
    from qshower.service.kept import KeptReads

MOST_WAITING = 16_384
"""Reads; as they were read, they take about a kilobyte each."""
PIECE_ROWS = 512
"""Reads that are refined at once: closing waits for no more."""

_log = structlog.get_logger("qshower.service")


class SurplusQueue:
    """Takes the surplus of draws in at once, and has it completed, refined and kept by a thread of its own.

    What finds no room, or is not done when it is closed, is dropped and counted.

    Args:
        kept: what is kept of each machine.
        most_waiting: reads that may wait.
    """

    def __init__(self, kept: Sequence[tuple[BoltzmannMachine, KeptReads]], most_waiting: int = MOST_WAITING) -> None:
        self._stores, self._most_waiting = tuple(kept), most_waiting
        self._changed = threading.Condition()
        self._pieces: deque[tuple[KeptReads, UnusedReads]] = deque()
        self._waiting = self._kept = self._dropped = 0
        self._last_error: str | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def keep(self, reads: UnusedReads) -> None:
        """Take in as many ``reads`` as there is room for."""
        store = self._store_of(reads.request)
        if store is None or not reads.request.options.leave_latents_alone():
            return
        with self._changed:
            for piece in reads.slices(PIECE_ROWS):
                if self._closed or self._waiting + piece.rows > self._most_waiting:
                    self._dropped += piece.rows
                else:
                    self._pieces.append((store, piece))
                    self._waiting += piece.rows
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Reads that wait to be refined."""
        with self._changed:
            return self._waiting

    def start(self) -> None:
        """Refine and keep from now on."""
        self._thread = threading.Thread(target=self._run, name="qpu-surplus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End with the piece in hand. Idempotent."""
        with self._changed:
            self._closed = True
            while self._pieces:
                self._drop(self._pieces.popleft()[1])
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def status(self) -> Mapping[str, Any]:
        """For a health page: reads that wait, were kept and were dropped; what went wrong last."""
        with self._changed:
            return {
                "waiting": self._waiting,
                "kept": self._kept,
                "dropped": self._dropped,
                "last_error": self._last_error,
            }

    def _store_of(self, request: LatentRequest) -> KeptReads | None:
        return next((store for machine, store in self._stores if machine is request.machine), None)

    def _drop(self, piece: UnusedReads) -> None:
        self._waiting -= piece.rows
        self._dropped += piece.rows

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._pieces)
                if self._closed:
                    return
                store, piece = self._pieces.popleft()
            kept, failure = 0, None
            try:
                kept = store.keep(piece)
            except Exception as error:  # whatever it is, the next draw's reads are worth a try
                failure = f"{type(error).__name__}: {error}"
                _log.warning("surplus reads were not kept", error=failure)
            with self._changed:
                self._waiting -= piece.rows
                self._kept += kept
                self._dropped += piece.rows - kept
                self._last_error = failure or self._last_error
