"""Reads beyond the rows asked for: a programming gives every part as many reads as its largest part has rows."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.assemble import assemble
from qshower.sampler.qpu.draw import PartReads
from qshower.sampler.qpu.runner import Bill
from qshower.sampler.request import LatentRequest, SamplerOptions

SURPLUS_ROWS = 8192
"""Most reads handed over after one draw, beside those bought on purpose: they take memory until they are refined."""
_PLAIN = frozenset({"max_qpu_access_time_us", "num_reads"})


def drawn_by_default(options: SamplerOptions) -> bool:
    """Whether a read drawn with ``options`` is what a request without any would get.

    A cap changes nothing of it, nor does how many reads there are beside it.
    """
    return not options.given().keys() - _PLAIN


def may_buy_spare_reads(options: SamplerOptions) -> bool:
    """Whether a draw with ``options`` may take further reads on purpose: not where their number was asked for."""
    return options.num_reads is None and drawn_by_default(options)


@dataclass(frozen=True, slots=True, eq=False)
class Surplus:
    """Reads of one draw that no row of its request uses, as they were read.

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
        deadline = math.inf if deadline_s is None else monotonic() + deadline_s
        # Notes about these states' flux biases say nothing new: a bill of their own.
        return assemble(self.request, self.parts, self.provenance.refine_sweeps or 0, deadline, Bill())

    def pieces(self, most_rows: int) -> Iterator[Surplus]:
        """The same in pieces of up to ``most_rows``."""
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


class Keeper(Protocol):
    """Who takes the surplus of a sampler's draws. Called from several threads."""

    def wanted(self, request: LatentRequest) -> int:
        """How many reads of each condition of ``request`` to buy beside its rows, at most; asked before each draw.

        No more than the ``spare_reads`` of the settings are. It must not raise.
        """

    def keep(self, surplus: Surplus) -> object:
        """Take in ``surplus``, now or later. The draw's caller waits until this returns."""


def unused(parts: Sequence[PartReads]) -> list[PartReads]:
    """``parts`` without the reads that rows of their request use."""
    return [replace(reads, spins=reads.spins[reads.part.rows.size :]) for reads in parts]


def surplus_of(request: LatentRequest, parts: Sequence[PartReads], provenance: Provenance, most: int) -> Surplus | None:
    """All reads of ``parts``, which were drawn for ``request``, None if there are none.

    At most ``most``, shared out evenly over the parts. Their random streams are new ones.
    """
    conditions, spare, count = [], [], 0
    for reads, extra in zip(parts, _shared_out(parts, most), strict=True):
        if extra > 0:
            rows = np.arange(count, count + extra)
            # A copy, or all reads of the draw would stay in memory for the sake of some.
            spins = reads.spins[:extra].copy()
            spare.append(replace(reads, part=replace(reads.part, rows=rows), spins=spins))
            conditions.append(np.repeat(request.conditions[reads.part.rows[:1]], extra, axis=0))
            count += extra
    if not spare:
        return None
    streams = np.stack([np.full(count, secrets.randbits(64), dtype=np.uint64), np.arange(count, dtype=np.uint64)], 1)
    own = replace(request, conditions=np.concatenate(conditions), streams=streams, deadline_s=None)
    return Surplus(own, tuple(spare), provenance)


def _shared_out(parts: Sequence[PartReads], most: int) -> list[int]:
    """How many reads of each part to take, so that there are ``most`` of them or all."""
    sizes = [reads.spins.shape[0] for reads in parts]
    taken, left = [0] * len(parts), most
    for place, number in enumerate(sorted(range(len(parts)), key=sizes.__getitem__)):
        taken[number] = min(sizes[number], left // (len(parts) - place))
        left -= taken[number]
    return taken


def hand_over(
    keeper: Keeper, request: LatentRequest, parts: Sequence[PartReads], provenance: Provenance, spare_reads: int
) -> str | None:
    """Give reads of a draw that nobody gets to ``keeper``; a note of what went wrong, None if nothing did.

    Up to ``spare_reads`` of each part were bought for it. Nothing is raised: the rows that were asked for are drawn and
    paid for, whatever becomes of the others.
    """
    try:
        surplus = surplus_of(request, parts, provenance, SURPLUS_ROWS + spare_reads * len(parts))
        if surplus is not None:
            keeper.keep(surplus)
    except Exception as error:
        return f"surplus reads were not kept: {type(error).__name__}: {error}"
    return None
