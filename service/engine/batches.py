"""Batches: requests that are drawn together, and how their showers find the way back to them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.claim import Claim


@dataclass(frozen=True, slots=True)
class DrawKey:
    """What requests must share to be drawn in one batch.

    ``account``: who pays for it, "" for nobody in particular. ``cached``: every latent is there already, from a cache
    or a bank, so that it does not wait for those that are drawn. ``elsewhere``: it is drawn on another machine, and
    leaves the processor of this one idle.
    """

    bundle: str
    sampler: str
    options: SamplerOptions
    threshold_mev: float
    account: str = ""
    cached: bool = False
    elsewhere: bool = False

    @property
    def lane(self) -> str:
        """The queue it waits in."""
        return f"{self.sampler}-cached" if self.cached else self.sampler


class Draws(Protocol):
    """What the engine asks of a sampler."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``."""


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """How rows ``start`` to ``stop`` of a request were drawn. ``share`` is their part of the rows drawn together."""

    start: int
    stop: int
    share: float
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Showers (rows, voxels) in MeV in request order, and how each part of them was drawn."""

    showers_mev: NDArray[np.float32]
    parts: tuple[DrawnRows, ...]
    elapsed_s: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a request asks of the engine: latents of ``sampler`` for ``conditions`` (rows, condition nodes), decoded.

    ``deadline_at`` is a ``time.monotonic`` instant, None for none; rows that ``claim`` serves are not drawn.
    """

    key: DrawKey
    bundle: Bundle
    sampler: Draws
    energies_mev: NDArray[np.float64]
    conditions: NDArray[np.int8]
    streams: NDArray[np.uint64]
    deadline_at: float | None = None
    claim: Claim | None = None


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request in the engine. ``future`` gets its Drawn, or the error that ended it."""

    work: Work
    future: asyncio.Future[Drawn]
    submitted_at: float
    started_at: float | None = None
    dispatched: int = 0
    finished: int = 0
    showers_mev: NDArray[np.float32] | None = None
    parts: list[DrawnRows] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "sample": 0.0, "decode": 0.0})

    @property
    def key(self) -> DrawKey:
        """What it shares with those it is drawn with."""
        return self.work.key

    @property
    def rows(self) -> int:
        """Number of showers asked for."""
        return int(self.work.energies_mev.shape[0])

    @property
    def remaining(self) -> int:
        """Rows that no batch has taken yet."""
        return self.rows - self.dispatched

    @property
    def bytes(self) -> int:
        """Memory of its showers."""
        return self.rows * self.work.bundle.geometry.voxel_count * 4


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Rows ``start`` to ``stop`` of a request, drawn in one batch."""

    request: QueuedRequest
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """A batch before it is decoded.

    ``source`` (rows,) says which of ``origins`` each row has: pairs of a provenance and how many rows it is about, in
    this batch or in all batches of a claim.
    """

    energies_mev: NDArray[np.float64]
    streams: NDArray[np.uint64]
    spins: NDArray[np.int8]
    source: NDArray[np.int64]
    origins: tuple[tuple[Provenance, int], ...]


def next_batch(waiting: deque[QueuedRequest], most_rows: int) -> list[Slice]:
    """Take the next batch from the queue: the oldest request's key, room shared evenly (water-filling)."""
    alive = [request for request in waiting if not request.future.done()]
    picked = [request for request in alive if request.key == alive[0].key][:most_rows]
    room, slices = most_rows, {}
    for place, request in enumerate(sorted(picked, key=lambda request: request.remaining)):
        take = min(request.remaining, room // (len(picked) - place))
        if take:
            slices[id(request)] = Slice(request, request.dispatched, request.dispatched + take)
            room -= take
    for request in picked:
        part = slices.get(id(request))
        if part is None:
            continue
        request.dispatched = part.stop
        waiting.remove(request)
        if request.remaining:
            # To the end, so that requests of other keys get their turn.
            waiting.append(request)
    return [slices[id(request)] for request in picked if id(request) in slices]


def draw_latents(slices: list[Slice], begun: float) -> Latents:
    """The latents of a batch: those that its requests have claimed, and draws of the others. In a thread.

    A lone deadline is passed on; company gets the longest. The draw stops once nobody waits for any of it.
    """
    first = slices[0].request.work
    energies = np.concatenate([part.request.work.energies_mev[part.start : part.stop] for part in slices])
    conditions = np.concatenate([part.request.work.conditions[part.start : part.stop] for part in slices])
    streams = np.concatenate([part.request.work.streams[part.start : part.stop] for part in slices])
    machine = first.bundle.machine
    spins = np.ones((len(energies), machine.node_count), dtype=np.int8)
    source = np.full(len(energies), -1, dtype=np.int64)
    origins: list[tuple[Provenance, int]] = []
    position = 0
    for part in slices:
        claim, here = part.request.work.claim, position
        position += part.stop - part.start
        if claim is None or not (served := claim.served[part.start : part.stop]).any():
            continue
        rows = here + np.flatnonzero(served)
        # A request that was given up meanwhile has given its latents back, and nobody gets what is decoded for it.
        with suppress(SamplerUnavailableError):
            spins[rows] = claim.spins(part.start, part.stop)
        source[rows] = len(origins)
        origins.append((claim.provenance, int(claim.served.sum())))
    missing = source < 0
    if missing.any():
        deadlines = [part.request.work.deadline_at for part in slices]
        latest = math.inf if None in deadlines else max(at for at in deadlines if at is not None)
        deadline_s = None if math.isinf(latest) else max(latest - begun, 1e-3)
        batch = first.sampler.sample(
            LatentRequest(
                machine,
                conditions[missing],
                streams[missing],
                first.key.options,
                deadline_s,
                given_up=lambda: all(part.request.future.done() for part in slices),
            )
        )
        spins[missing], source[missing] = batch.spins, len(origins)
        origins.append((batch.provenance, int(missing.sum())))
    return Latents(energies, streams, spins, source, tuple(origins))


def deliver(
    slices: list[Slice], showers: NDArray[np.float32], latents: Latents, drawn_s: float, decoded_s: float
) -> None:
    """Give the ``showers`` (rows, voxels) of a batch to the requests of its slices."""
    rows = sum(part.stop - part.start for part in slices)
    if showers.shape[0] != rows:
        raise RuntimeError(f"the decoder answered {showers.shape[0]} showers for {rows} latents")
    position = 0
    for part in slices:
        request, count = part.request, part.stop - part.start
        block = showers[position : position + count]
        source = latents.source[position : position + count]
        position += count
        if request.future.done():
            continue
        if count == request.rows:
            request.showers_mev = block
        else:
            if request.showers_mev is None:
                request.showers_mev = np.empty((request.rows, showers.shape[1]), dtype=np.float32)
            request.showers_mev[part.start : part.stop] = block
        request.parts.extend(_parts(part.start, source, latents))
        request.elapsed_s["sample"] += drawn_s
        request.elapsed_s["decode"] += decoded_s
        request.finished += count
        if request.finished == request.rows:
            parts = tuple(sorted(request.parts, key=lambda part: part.start))
            request.future.set_result(Drawn(request.showers_mev, parts, request.elapsed_s))


def _parts(first_row: int, source: NDArray[np.int64], latents: Latents) -> Iterator[DrawnRows]:
    """Runs of rows that come from the same origin."""
    edges = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
    for start, stop in pairwise(edges):
        provenance, rows = latents.origins[source[start]]
        yield DrawnRows(first_row + start, first_row + stop, (stop - start) / rows, provenance)


def fail(request: QueuedRequest, error: Exception) -> None:
    """End a request with an error, unless it has ended."""
    if not request.future.done():
        # The same error may end several requests; each raises its own traceback from it.
        request.future.set_exception(error)
