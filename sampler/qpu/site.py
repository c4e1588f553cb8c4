"""Homes of a machine on a solver, kept for as long as its graph_id stays the same."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from sampler.machine import BoltzmannMachine
from sampler.placement import best_placements, machine_fingerprint
from sampler.qpu.layout import Layout
from sampler.qpu.ranges import CouplingLimits
from sampler.qpu.solver import SolverInfo

_KEPT = 8


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One copy of a machine on a solver: how it lies there, and which limits its couplings have."""

    layout: Layout
    limits: CouplingLimits

    @classmethod
    def of(cls, info: SolverInfo, layout: Layout) -> Site:
        """The site of a layout on ``info``."""
        return cls(layout, CouplingLimits.of(info, layout.qubits[layout.ends]))

    @property
    def unrealised(self) -> NDArray[np.int64]:
        """(holes,) free nodes that have no qubit."""
        placement = self.layout.placement
        return np.flatnonzero((placement.qubit_of_node < 0) & (self.layout.machine.partitions != 0))


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """The best single site of a machine, and the disjoint ones that can be used side by side."""

    single: Site
    copies: tuple[Site, ...]


class SiteCache:
    """Sites by machine, graph and way of holding the condition. Safe to use from several threads."""

    def __init__(self, max_copies: int, max_hole_fraction: float) -> None:
        self._max_copies, self._max_hole_fraction = max_copies, max_hole_fraction
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, str, str, bool], Sites] = OrderedDict()

    def of(self, machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool) -> Sites:
        """Sites of ``machine`` on today's graph of ``info``.

        Raises:
            PlacementError: it has none with few enough holes.
        """
        key = (*info.key, machine_fingerprint(machine), place_condition)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = self._find(machine, info, place_condition=place_condition)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept

    def _find(self, machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool) -> Sites:
        found = [
            best_placements(
                machine,
                info.graph,
                copies=copies,
                place_condition=place_condition,
                max_hole_fraction=self._max_hole_fraction,
            )
            for copies in sorted({1, self._max_copies})
        ]
        sites = [tuple(Site.of(info, Layout.of(machine, placement)) for placement in some) for some in found]
        return Sites(sites[0][0], sites[-1])
