"""An answer under way: its showers come in chunks, and its engine request is held until all is sent."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qshower.model.geometry import Geometry
from qshower.service.engine.engine import Engine
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import Chunk, joined
from qshower.service.generation.answer_provenance import Origin, provenance_json
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest

if TYPE_CHECKING:
    from qshower.sampler.claim import Claim


@dataclass(slots=True, eq=False)
class OpenAnswer:
    """Showers as they come, in request order, the first of them there. ``close`` it when all is sent.

    Attributes:
        request: what was asked for.
        geometry: of the model.
        origin: what its provenance says beside what the sampler says.
        _holds: closed with it.
    """

    request: ShowerRequest
    geometry: Geometry
    origin: Origin
    _engine: Engine
    _queued: QueuedRequest
    _begun: float
    _claim: Claim | None = None
    _holds: AsyncExitStack = field(default_factory=AsyncExitStack)
    _taken: bool = False
    _first: Chunk | None = None
    _chunks: AsyncIterator[Chunk] = field(init=False)

    def __post_init__(self) -> None:
        self._chunks = self._queued.chunks()

    @property
    def first_rows(self) -> int:
        """Rows of the first chunk."""
        return 0 if self._first is None else self._first.stop

    @property
    def sampler(self) -> str:
        """The one that draws."""
        return self._queued.key.sampler

    async def wait(self) -> None:
        """Wait for the first chunk: what goes wrong before it can still be told, and another sampler tried."""
        self._first = await anext(self._chunks)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The showers, in chunks; the one before is let go of when the next is asked for. Once."""
        first, self._first = self._first, None
        self._taken = True
        if first is not None:
            yield first
        async for chunk in self._chunks:
            yield chunk

    def provenance(self) -> dict[str, Any]:
        """The JSON object of the design, of what was drawn so far."""
        elapsed_s = {**self._queued.elapsed_s, "total": time.monotonic() - self._begun}
        return provenance_json(self.origin, self._queued.parts_in_order(), elapsed_s)

    async def whole(self) -> ShowerAnswer:
        """All of it together."""
        try:
            found = [chunk.showers_mev async for chunk in self.chunks()]
        except BaseException:
            self._taken = False  # nobody was shown any
            raise
        elapsed_s = {**self._queued.elapsed_s, "total": time.monotonic() - self._begun}
        showers = joined(found)
        parts = self._queued.parts_in_order()
        return ShowerAnswer(self.request.energies_mev, showers, self.geometry, self.origin, parts, elapsed_s)

    def wait_for_taker(self, seconds: float) -> None:
        """Who takes the showers was slow: that counts against no default deadline."""
        self._engine.extend(self._queued, seconds)

    async def close(self) -> None:
        """Let go of it, and give latents back that nobody was shown. Idempotent."""
        self._engine.close_request(self._queued)
        await self._holds.aclose()
        if self._claim is not None and not self._taken:
            self._claim.give_back()
