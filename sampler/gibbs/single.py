"""The kernel for one chain: lanes are nodes of one class, which do not see each other, in place of chains.

It gives the same spins as ``qshower.sampler.gibbs.plain``, to the bit: the order of updates within a class does not
matter once each update has its own bits of the generator, which are drawn in order before every sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.compiling import kernel
from qshower.sampler.gibbs import lanes, lanes32
from qshower.sampler.gibbs.fast import C0, C1, C2, C3, MARGIN, settle
from qshower.sampler.gibbs.graph import GibbsGraph, Programme

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

    def steps(self, programme: Programme) -> NDArray[np.int32]:
        """(rows · LANES,) steps of ``neighbours``."""
        return np.append(programme.step, np.int32(0))[self.entries]


@kernel()
def run_single(
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
            lanes.store_words(lanes.splat(kind, factors[sweep, row]), scratch, row)
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
            position = lanes.at(positions, piece)
            total_field = lanes32.load_words32(kind, fields, position)
            for entry in range(lanes.at(starts, piece) * LANES, lanes.at(starts, piece + 1) * LANES, LANES):
                states_there = lanes32.gather(up, lanes32.load_words32(kind, neighbours, entry))
                total_field = lanes.add(
                    total_field, lanes32.both(states_there, lanes32.load_words32(kind, steps, entry))
                )
            field = lanes32.low_words(total_field)
            own = lanes32.low_words(lanes32.load_words32(kind, bits, position))
            size = lanes.smaller(lanes.absolute(field), lanes.field_words(kind, scratch, 0))
            exponent = lanes.add(
                lanes.multiply_low(size, lanes.field_words(kind, scratch, 1)),
                lanes.multiply_high(size, lanes.field_words(kind, scratch, 2)),
            )
            rest = lanes.shift_left(exponent, 4)
            power = lanes.subtract(lanes.splat(kind, C2), lanes.multiply_high(rest, lanes.splat(kind, C3)))
            power = lanes.subtract(lanes.splat(kind, C1), lanes.multiply_high(rest, power))
            power = lanes.subtract(lanes.splat(kind, C0), lanes.multiply_high(rest, power))
            power = lanes.shift_right_each(power, lanes.shift_right(exponent, 12))
            edge = lanes.subtract(power, lanes.multiply_high(own, power))
            rare: Any = lanes.below(kind, own, edge)
            distance = lanes.add(lanes.subtract(own, edge), lanes.splat(kind, MARGIN))
            if lanes.any_below(distance, lanes.splat(kind, 2 * MARGIN + 1)):
                open_lanes = lanes.below(kind, distance, lanes.splat(kind, 2 * MARGIN + 1))
                update = (start + sweep) * padded + position
                rare = settle(rare, open_lanes, field, own, scratch, keys, twice_betas[sweep], update, 1)
            found = lanes.negative(kind, field) ^ rare
            before = lanes32.load_words32(kind, up, position)
            lanes32.store_words32(lanes32.masks_where(found, lanes.at(valid, piece), before), up, position)
    states[0, 0], states[1, 0], states[2, 0], states[3, 0] = s0, s1, s2, s3
