"""Reads beyond the rows asked for: a programming gives every part as many reads as its largest part has rows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from sampler.qpu.assemble import assemble
from sampler.qpu.draw import PartReads
from sampler.qpu.runner import Bill
from sampler.request import LatentRequest, Provenance, SamplerOptions

OnSurplus = Callable[[LatentRequest, NDArray[np.int8], Provenance], object]
"""Called with the request that was drawn, further states (rows, nodes) int8 of its machine and conditions, and how all
of them were drawn; what it returns is not looked at."""
SURPLUS_ROWS = 2048
"""Most states handed over after one draw, beside those bought on purpose: they are refined while its caller waits."""


def drawn_by_default(options: SamplerOptions) -> bool:
    """Whether reads drawn with ``options`` are what a request without any would get: a cap changes nothing of them."""
    return not options.given().keys() - {"max_qpu_access_time_us"}


def surplus_of(request: LatentRequest, parts: Sequence[PartReads], most: int) -> tuple[LatentRequest, list[PartReads]]:
    """The reads of ``parts`` that no row of ``request`` uses, as the request and the parts that they answer.

    At most ``most`` reads, shared out over the parts in their order. Their random streams are new ones.
    """
    conditions, spare, count = [], [], 0
    for reads in parts:
        used = reads.part.rows.size
        extra = min(reads.spins.shape[0] - used, most - count)
        if extra > 0:
            rows = np.arange(count, count + extra)
            spare.append(replace(reads, part=replace(reads.part, rows=rows), spins=reads.spins[used : used + extra]))
            conditions.append(np.repeat(request.conditions[reads.part.rows[:1]], extra, axis=0))
            count += extra
    streams = np.stack([np.full(count, secrets.randbits(64), dtype=np.uint64), np.arange(count, dtype=np.uint64)], 1)
    width = request.machine.condition_nodes.size
    stacked = np.concatenate(conditions) if conditions else np.empty((0, width), dtype=np.int8)
    return replace(request, conditions=stacked, streams=streams), spare


def hand_over(
    on_surplus: OnSurplus,
    request: LatentRequest,
    parts: Sequence[PartReads],
    provenance: Provenance,
    deadline: float,
    spare_reads: int = 0,
) -> str | None:
    """Give the surplus of a draw to ``on_surplus``; a note of what went wrong, None if nothing did.

    ``spare_reads`` of each part were bought for it. Nothing is raised: the rows that were asked for are drawn and paid
    for, whatever becomes of the others.
    """
    try:
        spare_request, spare = surplus_of(request, parts, SURPLUS_ROWS + spare_reads * len(parts))
        if not spare:
            return None
        # Half of the time left, so that the rows asked for are still in time if this is not.
        deadline -= max(0.0, deadline - monotonic()) / 2.0
        # Notes about these states' flux biases say nothing new: a bill of their own.
        spins = assemble(spare_request, spare, provenance.refine_sweeps or 0, deadline, Bill())
        on_surplus(request, spins, provenance)
    except Exception as error:
        return f"surplus reads were not kept: {type(error).__name__}: {error}"
    return None
