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
    or a bank, so that it does not wait for those that are drawn.
    """

    bundle: str
    sampler: str
    options: SamplerOptions
    threshold_mev: float
    account: str = ""
    cached: bool = False

    @property
    def lane(self) -> str:
        """The queue it waits in."""
        return f"{self.sampler}-cached" if self.cached else self.sampler


class Draws(Protocol):
    """What the engine asks of a sampler."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``."""


@dataclass(frozen=True, slots=True)
class Part:
    """How rows ``start`` to ``stop`` of a request were drawn. ``share`` is their part of the rows drawn together."""

    start: int
    stop: int
    share: float
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Showers (rows, voxels) in MeV in request order, and how each part of them was drawn."""

    showers_mev: NDArray[np.float32]
    parts: tuple[Part, ...]
    elapsed_s: dict[str, float]


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in the engine. ``future`` gets its Drawn, or the error that ended it."""

    key: DrawKey
    bundle: Bundle
    sampler: Draws
    claim: Claim | None
    energies_mev: NDArray[np.float64]
    streams: NDArray[np.uint64]
    deadline_at: float | None
    future: asyncio.Future[Drawn]
    submitted_at: float
    started_at: float | None = None
    dispatched: int = 0
    finished: int = 0
    showers_mev: NDArray[np.float32] | None = None
    parts: list[Part] = field(default_factory=list)
    elapsed_s: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "sample": 0.0, "decode": 0.0})

    @property
    def rows(self) -> int:
        """Number of showers asked for."""
        return int(self.energies_mev.shape[0])

    @property
    def remaining(self) -> int:
        """Rows that no batch has taken yet."""
        return self.rows - self.dispatched

    @property
    def bytes(self) -> int:
        """Memory of its showers."""
        return self.rows * self.bundle.geometry.voxel_count * 4


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows ``start`` to ``stop`` of a ticket, drawn in one batch."""

    ticket: Ticket
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


def next_batch(waiting: deque[Ticket], most_rows: int) -> list[Piece]:
    """Take the next batch from the queue: the oldest request's key, room shared evenly (water-filling)."""
    alive = [ticket for ticket in waiting if not ticket.future.done()]
    picked = [ticket for ticket in alive if ticket.key == alive[0].key][:most_rows]
    room, pieces = most_rows, {}
    for place, ticket in enumerate(sorted(picked, key=lambda ticket: ticket.remaining)):
        take = min(ticket.remaining, room // (len(picked) - place))
        if take:
            pieces[id(ticket)] = Piece(ticket, ticket.dispatched, ticket.dispatched + take)
            room -= take
    for ticket in picked:
        piece = pieces.get(id(ticket))
        if piece is None:
            continue
        ticket.dispatched = piece.stop
        waiting.remove(ticket)
        if ticket.remaining:
            # To the end, so that requests of other keys get their turn.
            waiting.append(ticket)
    return [pieces[id(ticket)] for ticket in picked if id(ticket) in pieces]


def draw_latents(pieces: list[Piece], begun: float) -> Latents:
    """The latents of a batch: those that its requests have claimed, and draws of the others. In a thread.

    A lone deadline is passed on; company gets the longest.
    """
    first = pieces[0].ticket
    energies = np.concatenate([piece.ticket.energies_mev[piece.start : piece.stop] for piece in pieces])
    streams = np.concatenate([piece.ticket.streams[piece.start : piece.stop] for piece in pieces])
    machine = first.bundle.machine
    spins = np.ones((len(energies), machine.node_count), dtype=np.int8)
    source = np.full(len(energies), -1, dtype=np.int64)
    origins: list[tuple[Provenance, int]] = []
    position = 0
    for piece in pieces:
        claim, count = piece.ticket.claim, piece.stop - piece.start
        rows = np.empty(0, int) if claim is None else position + np.flatnonzero(claim.served[piece.start : piece.stop])
        position += count
        if claim is not None and rows.size:
            # A request that was given up meanwhile has given its latents back, and nobody gets what is decoded for it.
            with suppress(SamplerUnavailableError):
                spins[rows] = claim.spins(piece.start, piece.stop)
            source[rows] = len(origins)
            origins.append((claim.provenance, int(claim.served.sum())))
    missing = source < 0
    if missing.any():
        deadlines = [piece.ticket.deadline_at for piece in pieces]
        latest = math.inf if None in deadlines else max(at for at in deadlines if at is not None)
        deadline_s = None if math.isinf(latest) else max(latest - begun, 1e-3)
        conditions = first.bundle.conditions(energies[missing])
        request = LatentRequest(machine, conditions, streams[missing], first.key.options, deadline_s)
        batch = first.sampler.sample(request)
        spins[missing], source[missing] = batch.spins, len(origins)
        origins.append((batch.provenance, int(missing.sum())))
    return Latents(energies, streams, spins, source, tuple(origins))


def deliver(
    pieces: list[Piece], showers: NDArray[np.float32], latents: Latents, drawn_s: float, decoded_s: float
) -> None:
    """Give the ``showers`` (rows, voxels) of a batch to the tickets of its pieces."""
    rows = sum(piece.stop - piece.start for piece in pieces)
    if showers.shape[0] != rows:
        raise RuntimeError(f"the decoder answered {showers.shape[0]} showers for {rows} latents")
    position = 0
    for piece in pieces:
        ticket, count = piece.ticket, piece.stop - piece.start
        block = showers[position : position + count]
        source = latents.source[position : position + count]
        position += count
        if ticket.future.done():
            continue
        if count == ticket.rows:
            ticket.showers_mev = block
        else:
            if ticket.showers_mev is None:
                ticket.showers_mev = np.empty((ticket.rows, showers.shape[1]), dtype=np.float32)
            ticket.showers_mev[piece.start : piece.stop] = block
        ticket.parts.extend(_parts(piece.start, source, latents))
        ticket.elapsed_s["sample"] += drawn_s
        ticket.elapsed_s["decode"] += decoded_s
        ticket.finished += count
        if ticket.finished == ticket.rows:
            parts = tuple(sorted(ticket.parts, key=lambda part: part.start))
            ticket.future.set_result(Drawn(ticket.showers_mev, parts, ticket.elapsed_s))


def _parts(first_row: int, source: NDArray[np.int64], latents: Latents) -> Iterator[Part]:
    """Runs of rows that come from the same origin."""
    edges = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
    for start, stop in pairwise(edges):
        provenance, rows = latents.origins[source[start]]
        yield Part(first_row + start, first_row + stop, (stop - start) / rows, provenance)


def fail(ticket: Ticket, error: Exception) -> None:
    """End a request with an error, unless it has ended."""
    if not ticket.future.done():
        # The same error may end several requests; each raises its own traceback from it.
        ticket.future.set_exception(error)
