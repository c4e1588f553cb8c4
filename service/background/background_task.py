"""Work that the service does by itself whenever some is due, in a thread of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

import structlog

_log = structlog.get_logger("qshower.service")


class Named(Protocol):
    """One item of work."""

    @property
    def name(self) -> str:
        """What the log and the status call it."""


Piece = TypeVar("Piece", bound=Named)


class BackgroundTask(Generic[Piece]):
    """Does one item of work after another, in a thread of its own, whenever some is due.

    A failure is logged and shown, and the next attempt waits: as long as the error says, and at least ``pauses_s[0]``,
    twice as long after each further failure, up to ``pauses_s[1]``.

    Args:
        name: the work, in the log and as the thread's name.
        due: the item that is due now, None if none is. A failure of it is shown, and asked again.
        work: does an item.
        poll_s: how often to ask whether some is due.
        pauses_s: see above.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        due: Callable[[], Piece | None],
        work: Callable[[Piece], object],
        *,
        poll_s: float,
        pauses_s: tuple[float, float] = (60.0, 3600.0),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name, self._due, self._work, self._poll_s = name, due, work, poll_s
        self._pauses_s, self._clock = pauses_s, clock
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._running: str | None = None
        self._done = self._failed = 0
        self._last_done_at: str | None = None
        self._last_error: str | None = None
        self._next_at, self._pause_s = -math.inf, pauses_s[0]

    def start(self) -> None:
        """Look after it from now on, first of all at once. Once."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more. The item under way goes on."""
        self._stopped.set()

    def close(self, timeout_s: float | None = None) -> None:
        """Stop, and wait for the item under way, ``timeout_s`` at most. Idempotent."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def check(self) -> str | None:
        """Do the item that is due, if it may be done now; its name, None if nothing was done.

        Blocks. A failure is not raised: ``status`` has it.
        """
        if self._clock() < self._next_at:
            return None
        item = self._due()
        if item is None:
            return None
        with self._lock:
            self._running = item.name
        try:
            self._work(item)
        except Exception as error:  # whatever it is, the service goes on as before
            self._note_failure(item.name, error)
            return None
        finally:
            with self._lock:
                self._running = None
        with self._lock:
            self._done += 1
            self._last_done_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._last_error, self._pause_s = None, self._pauses_s[0]
        return item.name

    def status(self) -> dict[str, Any]:
        """For a health page: what is under way, how many were done and failed, the last error and the next attempt."""
        with self._lock:
            wait_s = max(0.0, self._next_at - self._clock()) if self._last_error is not None else None
            return {
                "running": self._running,
                "done": self._done,
                "failed": self._failed,
                "last_done_at": self._last_done_at,
                "last_error": self._last_error,
                "next_attempt_in_s": wait_s,
            }

    def _note_failure(self, item: str, error: Exception) -> None:
        after_s = getattr(error, "retry_after_s", None) or 0.0
        with self._lock:
            self._failed += 1
            self._last_error = f"{type(error).__name__}: {error}"
            self._next_at = self._clock() + max(self._pause_s, after_s)
            self._pause_s = min(2.0 * self._pause_s, self._pauses_s[1])
        _log.warning(f"{self._name} failed", model=item, error=self._last_error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                done = self.check()
            except Exception as error:  # of finding out what is due: nobody else would ever hear of it
                with self._lock:
                    self._last_error = f"{type(error).__name__}: {error}"
                _log.warning(f"{self._name}: what is due could not be found out", error=str(error))
                done = None
            if done is None:
                self._stopped.wait(self._poll_s)
