"""The kernel for one chain: lanes are nodes of one class, which do not see each other, in place of chains.

It gives the same spins as ``kernels.reference``, to the bit: the order of updates within a class does not
matter once each update has its own bits of the generator, which are drawn in order before every sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.kernels import simd, simd32
from qshower.sampler.gibbs.kernels.many_chains import C0, C1, C2, C3, MARGIN, settle
from qshower.sampler.gibbs.program import GibbsGraph, Program
from qshower.sampler.jit.kernel import kernel

LANES = 16
"""Nodes updated at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Runs of up to ``LANES`` consecutive updates of one class, their neighbours side by side.

    Attributes:
        positions: (slices,) int32, first update of each.
        valid: (slices,) int32, bits of the lanes that are updates of the slice.
        starts: (slices + 1,) int32, rows of ``neighbours``.
        neighbours: (rows · LANES,) int32, positions; a lane with fewer neighbours points at one that is always down.
        entries: (rows · LANES,) int32, index of each into the graph's entries, −1 where there is none.
    """

    positions: NDArray[np.int32]
    valid: NDArray[np.int32]
    starts: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    entries: NDArray[np.int32]

    @classmethod
    def build(cls, graph: GibbsGraph) -> Slices:
        """The slices of a graph."""
        bounds = np.flatnonzero(np.diff(graph.colours, prepend=-1, append=-1))
        begins = [
            (begin, min(begin + LANES, end))
            for first, end in pairwise(bounds.tolist())
            for begin in range(first, end, LANES)
        ]
        neighbours, entries, starts = [], [], [0]
        for begin, end in begins:
            rows = int(np.diff(graph.indptr[begin : end + 1]).max(initial=0))
            nodes = np.full((rows, LANES), graph.updates, dtype=np.int32)
            listed = np.full((rows, LANES), -1, dtype=np.int32)
            for lane, position in enumerate(range(begin, end)):
                own = np.arange(graph.indptr[position], graph.indptr[position + 1])
                nodes[: own.shape[0], lane] = graph.neighbours[own]
                listed[: own.shape[0], lane] = own
            neighbours.append(nodes.ravel())
            entries.append(listed.ravel())
            starts.append(starts[-1] + rows)
        nothing = [np.zeros(0, dtype=np.int32)]
        return cls(
            positions=np.array([begin for begin, _ in begins], dtype=np.int32),
            valid=np.array([(1 << (end - begin)) - 1 for begin, end in begins], dtype=np.int32),
            starts=np.array(starts, dtype=np.int32),
            neighbours=np.concatenate(neighbours or nothing),
            entries=np.concatenate(entries or nothing),
        )

    def steps(self, program: Program) -> NDArray[np.int32]:
        """(rows · LANES,) steps of ``neighbours``."""
        return np.append(program.step, np.int32(0))[self.entries]


@kernel()
def run_one_chain(
    up: NDArray[np.int32],
    fields: NDArray[np.int32],
    positions: NDArray[np.int32],
    valid: NDArray[np.int32],
    starts: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    steps: NDArray[np.int32],
    twice_betas: NDArray[np.float64],
    factors: NDArray[np.int32],
    keys: NDArray[np.uint64],
    states: NDArray[np.uint32],
    scratch: NDArray[np.int16],
    bits: NDArray[np.int32],
    kind: NDArray[np.uint16],
    start: int,
) -> None:
    """Sweep one chain in place.

    Args:
        up: (updates + LANES,) int32, −1 where the spin of an update is +1, else 0; 0 past the last update.
        fields: (updates + LANES,) int32, field with the condition folded in and every free spin down.
        positions: see ``Slices``.
        valid: see ``Slices``.
        starts: see ``Slices``.
        neighbours: see ``Slices``.
        steps: (rows · LANES,) int32, twice the couplings.
        twice_betas: (sweeps,) 2β per unit of field.
        factors: ``exponent_factors(twice_betas)``.
        keys: (LANES,) the stream's key, in every lane.
        states: (4, 1) generator; left where the sweeps end.
        scratch: (5, LANES) int16.
        bits: (updates + LANES,) int32, room for the 16 bits of each update.
        kind: any array of as many bits an element as there are lanes.
        start: sweeps this chain has behind it.
    """
    updates = up.shape[0] - LANES
    padded = updates + updates % 2
    s0, s1, s2, s3 = states[0, 0], states[1, 0], states[2, 0], states[3, 0]
    for sweep in range(twice_betas.shape[0]):
        for row in range(3):
            simd.store_words(simd.splat(kind, factors[sweep, row]), scratch, row)
        for first in range(0, updates, 2):
            total = np.uint32(s0 + s3)
            word = np.uint32(np.uint32((total << np.uint32(7)) | (total >> np.uint32(25))) + s0)
            shifted = np.uint32(s1 << np.uint32(9))
            s2 ^= s0
            s3 ^= s1
            s1 ^= s2
            s0 ^= s3
            s2 ^= shifted
            s3 = np.uint32((s3 << np.uint32(11)) | (s3 >> np.uint32(21)))
            bits[first] = word & np.uint32(0xFFFF)
            bits[first + 1] = word >> np.uint32(16)
        for piece in range(positions.shape[0]):
            position = simd.at(positions, piece)
            total_field = simd32.load_words32(kind, fields, position)
            for entry in range(simd.at(starts, piece) * LANES, simd.at(starts, piece + 1) * LANES, LANES):
                states_there = simd32.gather(up, simd32.load_words32(kind, neighbours, entry))
                total_field = simd.add(total_field, simd.both(states_there, simd32.load_words32(kind, steps, entry)))
            field = simd32.low_words(total_field)
            own = simd32.low_words(simd32.load_words32(kind, bits, position))
            size = simd.smaller(simd.absolute(field), simd.field_words(kind, scratch, 0))
            exponent = simd.add(
                simd.multiply_low(size, simd.field_words(kind, scratch, 1)),
                simd.multiply_high(size, simd.field_words(kind, scratch, 2)),
            )
            rest = simd.shift_left(exponent, 4)
            power = simd.subtract(simd.splat(kind, C2), simd.multiply_high(rest, simd.splat(kind, C3)))
            power = simd.subtract(simd.splat(kind, C1), simd.multiply_high(rest, power))
            power = simd.subtract(simd.splat(kind, C0), simd.multiply_high(rest, power))
            power = simd.shift_right_each(power, simd.shift_right(exponent, 12))
            edge = simd.subtract(power, simd.multiply_high(own, power))
            rare: Any = simd.below(kind, own, edge)
            distance = simd.add(simd.subtract(own, edge), simd.splat(kind, MARGIN))
            if simd.any_below(distance, simd.splat(kind, 2 * MARGIN + 1)):
                open_lanes = simd.below(kind, distance, simd.splat(kind, 2 * MARGIN + 1))
                update = (start + sweep) * padded + position
                rare = settle(rare, open_lanes, field, own, scratch, keys, twice_betas[sweep], update, 1)
            found = simd.negative(kind, field) ^ rare
            before = simd32.load_words32(kind, up, position)
            simd32.store_words32(simd32.masks_where(found, simd.at(valid, piece), before), up, position)
    states[0, 0], states[1, 0], states[2, 0], states[3, 0] = s0, s1, s2, s3
