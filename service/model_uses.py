"""What was asked of each model since the start: counts and times, as KServe's statistics have them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey

NS_PER_S, MS_PER_S = 1e9, 1e3


@dataclass(slots=True)
class ModelUse:
    """Counts of one model. ``last_ms``: when its last request was answered, in ms since 1970."""

    rows: int = 0
    batches: int = 0
    succeeded: int = 0
    succeeded_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    infer_ns: int = 0
    last_ms: int = 0


class ModelUses:
    """Counts what the engine does, by the models' SHA-256. An EngineObserver."""

    def __init__(self) -> None:
        self._uses: dict[str, ModelUse] = {}

    def of(self, sha256: str) -> ModelUse:
        """The counts of a model."""
        return self._uses.setdefault(sha256, ModelUse())

    def queued(self, request: QueuedRequest) -> None:
        """A request was taken in: see how it ends."""
        request.ended.add_done_callback(lambda ended: self._ended(request, ended))

    def batch_drawn(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A sampler answered a batch. It counts when it is decoded."""

    def batch_decoded(self, key: DrawKey, rows: int, seconds: float) -> None:  # noqa: ARG002 - an observer's
        """A batch was decoded."""
        self.of(key.sha256).batches += 1

    def _ended(self, request: QueuedRequest, ended: asyncio.Future[None]) -> None:
        if ended.cancelled():
            return
        use, elapsed_ns = self.of(request.key.sha256), int((time.monotonic() - request.submitted_at) * NS_PER_S)
        if ended.exception() is not None:
            use.failed += 1
            use.failed_ns += elapsed_ns
            return
        stages = request.elapsed_s
        use.succeeded += 1
        use.succeeded_ns += elapsed_ns
        use.rows += request.rows
        use.queue_ns += int(stages["queue"] * NS_PER_S)
        use.infer_ns += int((stages["sample"] + stages["decode"]) * NS_PER_S)
        use.last_ms = int(time.time() * MS_PER_S)
