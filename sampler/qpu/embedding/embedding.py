"""Embeddings of a machine on a solver, kept for as long as its graph_id stays the same."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.embedding.layout import Layout
from qshower.sampler.qpu.embedding.ranges import CouplingLimits
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.tiling import placements_by_number

_KEPT = 8
_NUMBERS = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64})
"""Numbers of copies that are kept ready, beside the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One copy of a machine on a solver: how it lies there, and which limits its couplings have."""

    layout: Layout
    limits: CouplingLimits

    @classmethod
    def of(cls, info: SolverInfo, layout: Layout) -> Embedding:
        """The embedding of a layout on ``info``."""
        return cls(layout, CouplingLimits.of(info, layout.qubits[layout.ends]))

    @property
    def unplaced(self) -> NDArray[np.int64]:
        """(unplaced,) free nodes that have no qubit."""
        placement = self.layout.placement
        return np.flatnonzero((placement.qubit_of_node < 0) & (self.layout.machine.partitions != 0))

    @property
    def missing_couplers(self) -> int:
        """Couplings between free nodes that have qubits, but no coupler between them."""
        machine = self.layout.machine
        ends = machine.edges[self.layout.placement.missing_edges]
        return int(np.count_nonzero((machine.partitions[ends] != 0).all(axis=1)))


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Where a machine can be drawn: ``choices`` are one embedding, two disjoint ones, three, … as many as there are.

    The more there are, the more qubits the worst of them lacks.
    """

    choices: tuple[tuple[Embedding, ...], ...]

    @property
    def single(self) -> Embedding:
        """The best single embedding."""
        return self.choices[0][0]

    @property
    def copies(self) -> tuple[Embedding, ...]:
        """As many as can be used side by side."""
        return self.choices[-1]


class EmbeddingCache:
    """Embeddings by machine, graph and way of holding the condition. Safe to use from several threads."""

    def __init__(self, max_copies: int, max_missing_fraction: float) -> None:
        self._max_copies, self._max_missing_fraction = max_copies, max_missing_fraction
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, str, str, bool], Embeddings] = OrderedDict()

    def of(self, machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool) -> Embeddings:
        """Embeddings of ``machine`` on today's graph of ``info``.

        Raises:
            PlacementError: it has none with few enough missing qubits and couplers.
        """
        key = (*info.key, machine.fingerprint(), place_condition)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = self._find(machine, info, place_condition=place_condition)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept

    def _find(self, machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool) -> Embeddings:
        found = placements_by_number(
            machine,
            info.graph,
            copies=self._max_copies,
            place_condition=place_condition,
            max_missing_fraction=self._max_missing_fraction,
        )
        return Embeddings(
            tuple(
                tuple(Embedding.of(info, Layout.of(machine, placement)) for placement in some)
                for some in found
                if len(some) in _NUMBERS or some is found[-1]
            )
        )
