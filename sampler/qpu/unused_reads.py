"""Reads beyond the rows asked for: a programming gives every part as many reads as its largest part has rows.

They are paid for, so the sampler hands them to whoever wants them, such as the service's latent cache.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.drawing.assemble import assemble
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.request import LatentRequest, streams_of
from qshower.sampler.time_limit import never

MOST_ROWS = 8192
"""Most unused reads handed over after one draw: they take memory until they are refined."""


@dataclass(frozen=True, slots=True, eq=False)
class UnusedReads:
    """Reads of one draw that no row of its request uses, before they are completed and refined.

    Attributes:
        request: what they answer: the draw's machine and options; a condition and a new random stream for each.
        parts: the reads; the rows of each part are rows of ``request``.
        provenance: how they were drawn.
    """

    request: LatentRequest
    parts: tuple[PartReads, ...]
    provenance: Provenance

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.request.rows

    def states(self, deadline_s: float | None = None) -> NDArray[np.int8]:
        """(rows, nodes) draws from the machine's law, completed and refined like the rows of the draw itself.

        Nobody else is given them. SamplerTimeoutError if that takes more than ``deadline_s``.
        """
        limit = replace(self.request, deadline_s=deadline_s).time_limit()
        return assemble(self.request, self.parts, self.provenance.refine_sweeps or 0, limit)

    def slices(self, most_rows: int) -> Iterator[UnusedReads]:
        """The same in slices of up to ``most_rows``."""
        for start in range(0, self.rows, most_rows):
            stop = min(start + most_rows, self.rows)
            parts = []
            for reads in self.parts:
                first, last = int(reads.part.rows[0]), int(reads.part.rows[-1]) + 1
                low, high = max(start, first), min(stop, last)
                if low < high:
                    part = replace(reads.part, rows=np.arange(low - start, high - start))
                    parts.append(replace(reads, part=part, spins=reads.spins[low - first : high - first]))
            conditions, streams = self.request.conditions[start:stop], self.request.streams[start:stop]
            yield replace(
                self, request=replace(self.request, conditions=conditions, streams=streams), parts=tuple(parts)
            )


Receiver = Callable[[UnusedReads], object]
"""Who takes the unused reads of a sampler's draws, now or later.

Called from several threads; the draw's caller waits until it returns.
"""


def unused(parts: Sequence[PartReads]) -> list[PartReads]:
    """``parts`` without the reads that rows of their request use."""
    return [replace(reads, spins=reads.spins[reads.part.rows.size :]) for reads in parts]


def hand_over(
    receiver: Receiver, request: LatentRequest, parts: Sequence[PartReads], provenance: Provenance
) -> str | None:
    """Give ``parts``, drawn for ``request`` and used by none of its rows, to ``receiver``.

    Nothing is raised: the rows that were asked for are drawn and paid for, whatever becomes of the others.

    Returns:
        A note of what went wrong, None if nothing did.
    """
    try:
        reads = _as_unused_reads(request, parts, provenance)
        if reads is not None:
            receiver(reads)
    except Exception as error:
        return f"unused reads were not cached: {type(error).__name__}: {error}"
    return None


def _as_unused_reads(request: LatentRequest, parts: Sequence[PartReads], provenance: Provenance) -> UnusedReads | None:
    """Up to ``MOST_ROWS`` of ``parts``, shared out evenly over them, None if there are none. Their streams are new."""
    conditions, chosen, count = [], [], 0
    for reads, extra in zip(parts, _shared_out(parts, MOST_ROWS), strict=True):
        if extra > 0:
            rows = np.arange(count, count + extra)
            # A copy, or all reads of the draw would stay in memory for the sake of some.
            spins = reads.spins[:extra].copy()
            chosen.append(replace(reads, part=replace(reads.part, rows=rows), spins=spins))
            conditions.append(np.repeat(request.conditions[reads.part.rows[:1]], extra, axis=0))
            count += extra
    if not chosen:
        return None
    streams = streams_of(secrets.randbits(64), count)
    own = replace(request, conditions=np.concatenate(conditions), streams=streams, deadline_s=None, given_up=never)
    return UnusedReads(own, tuple(chosen), provenance)


def _shared_out(parts: Sequence[PartReads], most: int) -> list[int]:
    """How many reads of each part to take, so that there are ``most`` of them or all."""
    sizes = [reads.spins.shape[0] for reads in parts]
    taken, left = [0] * len(parts), most
    for place, number in enumerate(sorted(range(len(parts)), key=sizes.__getitem__)):
        taken[number] = min(sizes[number], left // (len(parts) - place))
        left -= taken[number]
    return taken
