"""Whether the service is idle, for those who work in its idle time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey


class IdleTracking:
    """Counts requests until their response is encoded, and those of them that wait for a QPU. An EngineObserver.

    Lives in one event loop, like the engine; whether it is idle may be asked in any thread.
    """

    def __init__(self) -> None:
        self._requests = self._at_qpu = self._decoding = 0

    @property
    def cpu_idle(self) -> bool:
        """Whether all that is being answered, if anything is, waits for a QPU."""
        return self._requests <= self._at_qpu and not self._decoding

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around all that is done for one request."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def queued(self, request: QueuedRequest) -> None:
        """A request is in the engine until it has ended."""
        if request.key.elsewhere:
            self._at_qpu += 1
            request.ended.add_done_callback(lambda _: self._left_qpu())

    def batch_drawn(self, key: DrawKey, rows: int, seconds: float) -> None:  # noqa: ARG002 - what an observer gets
        """The latents of a batch are there, and are decoded now."""
        self._decoding += key.elsewhere

    def batch_decoded(self, key: DrawKey, rows: int, seconds: float) -> None:  # noqa: ARG002 - what an observer gets
        """Its showers are there."""
        self._decoding = max(0, self._decoding - key.elsewhere)

    def _left_qpu(self) -> None:
        self._at_qpu -= 1
        if not self._at_qpu:
            # Of a batch whose decoding failed nobody hears that it was decoded.
            self._decoding = 0
