"""Batches: rows of requests that are drawn together, and how their showers find the way back to them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentRequest
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import Chunk, DrawnRows, Work


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


def next_batch(waiting: Sequence[QueuedRequest], most_rows: int) -> list[Slice]:
    """Take the next batch: rows of the first of ``waiting`` that has some open, then of those that share its key."""
    slices: list[Slice] = []
    room = most_rows
    for request in waiting:
        if room <= 0 or request.ended.done():
            continue
        if slices and request.key != slices[0].request.key:
            continue
        take = min(request.open_rows, request.piece_rows(most_rows), room)
        # A crumb of a window is left until there is room for a piece: small batches cost as much as larger ones.
        if take < min(request.remaining, request.piece_rows(most_rows), room):
            continue
        if take > 0:
            slices.append(Slice(request, request.dispatched, request.dispatched + take))
            request.dispatched += take
            room -= take
    return slices


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
        deadlines = [part.request.deadline_at for part in slices]
        latest = math.inf if None in deadlines else max(at for at in deadlines if at is not None)
        deadline_s = None if math.isinf(latest) else max(latest - begun, 1e-3)
        batch = first.sampler.sample(
            LatentRequest(
                machine,
                conditions[missing],
                streams[missing],
                first.key.options,
                deadline_s,
                given_up=lambda: all(part.request.ended.done() for part in slices),
            )
        )
        spins[missing], source[missing] = batch.spins, len(origins)
        origins.append((batch.provenance, int(missing.sum())))
    return Latents(energies, streams, spins, source, tuple(origins))


def decode_latents(work: Work, latents: Latents) -> tuple[NDArray[np.float32], float]:
    """Showers (rows, voxels) of a batch that shares model and threshold with ``work``, and the seconds it took."""
    begun = time.monotonic()
    showers = work.bundle.decode(latents.spins, latents.energies_mev, latents.streams, work.key.threshold_mev)
    return showers, time.monotonic() - begun


def deliver(
    slices: list[Slice], showers: NDArray[np.float32], latents: Latents, drawn_s: float, decoded_s: float
) -> None:
    """Give the ``showers`` (rows, voxels) of a batch to the requests of its slices."""
    rows = sum(part.stop - part.start for part in slices)
    if showers.shape[0] != rows:
        raise RuntimeError(f"the decoder answered {showers.shape[0]} showers for {rows} latents")
    position = 0
    for part in slices:
        count = part.stop - part.start
        block, source = showers[position : position + count], latents.source[position : position + count]
        position += count
        if not part.request.ended.done():
            # A view would keep the showers of all the others in memory.
            chunk = Chunk(part.start, part.stop, block if count == rows else block.copy())
            part.request.receive(chunk, _parts(part.start, source, latents), drawn_s, decoded_s)


def _parts(first_row: int, source: NDArray[np.int64], latents: Latents) -> Iterator[DrawnRows]:
    """Runs of rows that come from the same origin."""
    edges = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
    for start, stop in pairwise(edges):
        provenance, rows = latents.origins[source[start]]
        yield DrawnRows(first_row + start, first_row + stop, (stop - start) / rows, provenance)
