"""From reads to whole states of the machine that follow its law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.chains import refine
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.embedding.layout import draw_unplaced
from qshower.sampler.request import LatentRequest
from qshower.sampler.time_limit import TimeLimit


@dataclass(frozen=True, slots=True)
class HeldCondition:
    """How well the placed spins of the condition were held.

    Attributes:
        wrong: spins that were read against the condition.
        spins: spins of the condition over all reads; 0 where it was folded.
    """

    wrong: int
    spins: int

    @property
    def share_wrong(self) -> float:
        """Share of the spins that were wrong."""
        return self.wrong / self.spins if self.spins else 0.0


def held_condition(request: LatentRequest, parts: Sequence[PartReads]) -> HeldCondition:
    """How well the ``parts`` of a draw for ``request`` hold their condition."""
    machine = request.machine
    wrong = spins = 0
    for reads in parts:
        layout = reads.embedding.layout
        held = np.flatnonzero(machine.partitions[layout.nodes] == 0)
        if held.size:
            column = np.searchsorted(machine.condition_nodes, layout.nodes[held])
            wanted = request.conditions[reads.part.rows[0]][column]
            wrong += int((reads.spins[:, held] != wanted).sum())
            spins += int(reads.spins[:, held].size)
    return HeldCondition(wrong, spins)


def assemble(
    request: LatentRequest, parts: Sequence[PartReads], refine_sweeps: int, limit: TimeLimit
) -> NDArray[np.int8]:
    """(rows, nodes) states: each row its own read, the condition set, unplaced nodes drawn, refined by ``limit``."""
    machine = request.machine
    spins = np.zeros((request.rows, machine.node_count), dtype=np.int8)
    for reads in parts:
        rows = reads.part.rows
        spins[np.ix_(rows, reads.embedding.layout.nodes)] = reads.spins[: rows.size]
        spins[np.ix_(rows, machine.condition_nodes)] = request.conditions[rows]
    for reads in parts:
        rows, unplaced = reads.part.rows, reads.embedding.unplaced
        if unplaced.size:
            block = spins[rows]
            draw_unplaced(machine, block, unplaced, request.streams[rows])
            spins[rows] = block
    return refine(machine, spins, refine_sweeps, request.streams, limit=limit)
