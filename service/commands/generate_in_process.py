"""``qshower generate`` without a server: chunks drawn in an event loop of their own while another is compressed."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal
from numpy.typing import NDArray

from qshower.model.showers_writer import write_showers
from qshower.sampler.protocol import StoredSampler
from qshower.service.commands import draw_request
from qshower.service.commands.draw_request import Request, rows_per_chunk
from qshower.service.commands.terminal import progress
from qshower.service.engine.work import DrawnRows
from qshower.service.generation.answer_provenance import Origin, merged_parts, provenance_json
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.logs import configure_logs
from qshower.service.metrics import Metrics
from qshower.service.running import Service, running_service
from qshower.service.settings import load_settings

AHEAD = 2
"""Chunks that are drawn while another is compressed."""


def draw_showers(request: Request, energies: NDArray[np.float64]) -> str:
    """Chunks are drawn in an event loop of their own, while this thread compresses and writes."""
    configure_logs(load_settings(log_level="warning"))
    wish = ShowerRequest(
        energies_mev=energies,
        sampler=request.sampler,
        fallback=request.fallback,
        model=request.model,
        seed=request.seed,
        options=request.sampler_options,
        threshold_mev=request.threshold_mev,
        showers_per_energy=1 if request.energies_mev is None else request.count or 1,
    )
    log = _Log()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_quiet_service()) as service,
        progress("showers") as bar,
    ):
        task = bar.add_task("drawing", total=energies.shape[0])
        chunks = _chunks(portal, service, wish, log, lambda rows: bar.advance(task, rows))
        write_showers(request.output, energies, chunks, attributes=log.attributes)
    return log.sampler


@asynccontextmanager
async def _quiet_service() -> AsyncIterator[Service]:
    settings = load_settings(max_queue_rows=1 << 40, max_pending_bytes=1 << 50)
    async with running_service(settings, Metrics(), warm=False) as service:
        # Nobody waits at the other end of a connection: no deadline, no bound on the answer's size.
        yield replace(service, generator=service.generator.unbounded())


@dataclass(slots=True)
class _Log:
    """How the chunks came to be."""

    origin: Origin | None = None
    geometry: dict[str, Any] | None = None
    parts: list[DrawnRows] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=dict)

    def add(self, answer: ShowerAnswer, first_row: int) -> None:
        """Note a chunk that begins at ``first_row``."""
        if self.origin is None or (self.origin.fallback_from is None and answer.origin.fallback_from is not None):
            self.origin = answer.origin
        self.geometry = answer.geometry.as_dict()
        moved = [replace(part, start=part.start + first_row, stop=part.stop + first_row) for part in answer.parts]
        self.parts = merged_parts([*self.parts, *moved])
        for stage, seconds in answer.elapsed_s.items():
            self.elapsed_s[stage] = self.elapsed_s.get(stage, 0.0) + seconds

    @property
    def sampler(self) -> str:
        """The one that drew."""
        return str(self._provenance()["sampler"])

    def attributes(self) -> dict[str, str]:
        """Provenance and geometry of all chunks together, as JSON."""
        return {
            "provenance": orjson.dumps(self._provenance()).decode(),
            "geometry": orjson.dumps(self.geometry).decode(),
        }

    def _provenance(self) -> dict[str, Any]:
        assert self.origin is not None  # noqa: S101 - there is at least one chunk
        return provenance_json(self.origin, self.parts, self.elapsed_s)


def _chunks(
    portal: BlockingPortal, service: Service, wish: ShowerRequest, log: _Log, done: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    rows, selection = wish.rows, service.generator.selection
    names = selection.candidates(wish.sampler, wish.fallback)
    samplers = [selection.registry.get(name) for name in names if name in selection.registry]
    size = max([draw_request.CHUNK_ROWS, *(rows_per_chunk(sampler) for sampler in samplers)])
    # A bank serves its latents in the order in which they are asked for.
    ahead = 1 if any(isinstance(sampler, StoredSampler) for sampler in samplers) else AHEAD
    starts = iter(range(0, rows, size))
    running: deque[tuple[int, Any]] = deque()

    def start_next() -> None:
        first = next(starts, None)
        if first is not None:
            part = replace(wish, energies_mev=wish.energies_mev[first : first + size], first_row=first)
            running.append((first, portal.start_task_soon(service.generator.generate, part)))

    for _ in range(ahead):
        start_next()
    try:
        while running:
            first, future = running.popleft()
            answer: ShowerAnswer = future.result()
            start_next()
            log.add(answer, first)
            yield answer.showers_mev
            done(answer.showers_mev.shape[0])
    finally:
        for _, future in running:
            future.cancel()
