"""Placing a machine's lattice on a chip with defects.

A qubit of either family is a segment: orientation u, a line (its perpendicular coordinate, in groups whose members
are interchangeable) and a start along that line. On Zephyr the four k of one (u, w) may be permuted, on Pegasus the two
k of one pair; translations, mirror images (Zephyr: all eight of the square, Pegasus: the one about the antidiagonal)
and these permutations are automorphisms of the ideal graph, so any of them is as good a home for the machine. Among
them the placement with the fewest and least important unplaced nodes is chosen: an *unplaced* node has no qubit, a
*missing edge* is one whose two qubits work and whose coupler does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import PlacementError
from qshower.sampler.ideal_graph import TOPOLOGIES, Segments, Symmetry, Topology, topology_of
from qshower.sampler.machine import BoltzmannMachine

_CONDITION_WEIGHT: Final = 0.1
"""Cost of an unplaced node whose spin is given, against one whose spin is drawn: it is folded exactly."""
_EXAMINED: Final = 8
"""Number of best placements by missing qubits that are also judged by missing couplers."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkingGraph:
    """The qubits and couplers of a solver that work today.

    Attributes:
        family: ``zephyr`` or ``pegasus``.
        size: grid size of the ideal graph the labels refer to.
        qubits: (qubits,) int64, ascending linear labels.
        couplers: (couplers, 2) int64, each pair once, the smaller label first.
        graph_id: the solver's own name of this graph.
    """

    family: str
    size: int
    qubits: NDArray[np.int64]
    couplers: NDArray[np.int64]
    graph_id: str

    @property
    def topology(self) -> Topology:
        """The ideal graph that the labels refer to."""
        return TOPOLOGIES[self.family](self.size)

    @property
    def label_count(self) -> int:
        """Number of linear labels of the ideal graph, whether they work or not."""
        return self.topology.label_count


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the nodes of a machine live on a working graph.

    Attributes:
        qubit_of_node: (nodes,) int64, the qubit of each node, −1 for a node that got or needs none.
        needed: (nodes,) bool, the nodes that want a qubit: all, or only the free ones where the condition is folded.
        unplaced: (unplaced,) int64, needed nodes that got no qubit, ascending.
        missing_edges: (missing,) int64, indices of the edges between two placed nodes that have no coupler.
        missing_qubits: (unplaced,) int64, ideal label of the qubit each of them lacks.
        missing_couplers: (missing, 2) int64, the pair of qubits each of ``missing_edges`` wants a coupler between.
        missing_share: of the Σ |J| between placed free nodes, the share whose coupler is missing; counted, not
            weighed, on an untrained machine. What a condition node lacks can be folded exactly, and is not in it.
        cost: what was minimised; an unplaced node of mean importance costs 1.
    """

    qubit_of_node: NDArray[np.int64]
    needed: NDArray[np.bool_]
    unplaced: NDArray[np.int64]
    missing_edges: NDArray[np.int64]
    missing_qubits: NDArray[np.int64]
    missing_couplers: NDArray[np.int64]
    missing_share: float
    cost: float

    @property
    def unplaced_fraction(self) -> float:
        """Share of the nodes that need a qubit and got none."""
        return float(self.unplaced.size) / max(1, int(np.count_nonzero(self.needed)))

    def within(self, limit: float) -> bool:
        """Whether no more than the share ``limit`` of its nodes is unplaced, nor of its couplings is missing."""
        return self.unplaced_fraction <= limit and self.missing_share <= limit


def graph_mask(graph: WorkingGraph) -> NDArray[np.bool_]:
    """(labels + 1,) bool, which linear labels work; the last entry, False, answers for the label −1."""
    mask = np.zeros(graph.label_count + 1, dtype=np.bool_)
    mask[graph.qubits] = True
    return mask


class PlacementSearch:
    """One machine on one chip: the costs of all placements for any set of free qubits.

    ``weight`` is the cost of leaving each needed node unplaced, in the order of the labels that the search gives.
    """

    def __init__(self, machine: BoltzmannMachine, graph: WorkingGraph, *, place_condition: bool) -> None:
        if machine.topology_family != graph.family or graph.family not in TOPOLOGIES:
            raise PlacementError(f"the model lives on {machine.topology}, the solver on {graph.family}:{graph.size}")
        self._machine, self._graph, self._topology = machine, graph, graph.topology
        self._needed = np.ones(machine.node_count, dtype=np.bool_)
        if not place_condition:
            self._needed[machine.condition_nodes] = False
        self._nodes = np.flatnonzero(self._needed)
        home = topology_of(machine.topology).segments(machine.qubits[self._nodes])
        order = np.lexsort((home.start, home.member, home.group, home.u))
        self._nodes = self._nodes[order]
        self._home = Segments(home.u[order], home.group[order], home.member[order], home.start[order])
        self._weigh()
        # One slot for each (line group, member) that holds nodes; the nodes of a slot lie side by side.
        bundle = self._home.u * (1 << 20) + self._home.group
        _, self._bundle = np.unique(bundle, return_inverse=True)
        self._slot = self._bundle * self._topology.members + self._home.member
        self._bundles = int(self._bundle.max()) + 1
        self._orders = np.array(list(permutations(range(self._topology.members))), dtype=np.int64)
        self._couplers = _coupler_keys(graph)
        self._images = [self._image(symmetry) for symmetry in self._topology.symmetries]
        if not any(len(shifts) for _, shifts in self._images):
            raise PlacementError(f"the model's block is larger than the chip {self._topology}")

    def _weigh(self) -> None:
        machine = self._machine
        touch = np.abs(machine.j.astype(np.float64))
        strength = np.abs(machine.h.astype(np.float64))
        for end in (0, 1):
            strength += np.bincount(machine.edges[:, end], weights=touch, minlength=machine.node_count)
        if not strength.any():  # an untrained lattice: every coupling counts the same
            touch = np.ones_like(touch)
            for end in (0, 1):
                strength += np.bincount(machine.edges[:, end], minlength=machine.node_count)
        scale = float(strength[self._needed].mean()) or 1.0
        weight = 0.5 + 0.5 * strength / scale
        weight[machine.condition_nodes] *= _CONDITION_WEIGHT
        self.weight = weight[self._nodes]
        position = np.full(machine.node_count, -1, dtype=np.int64)
        position[self._nodes] = np.arange(self._nodes.size)
        ends = position[machine.edges]
        self._edge_index = np.flatnonzero((ends >= 0).all(axis=1))
        self._edges = ends[self._edge_index]
        self._edge_weight = touch[self._edge_index] / scale
        self._edge_free: NDArray[np.bool_] = np.all(machine.partitions[machine.edges[self._edge_index]] != 0, axis=1)

    def _image(self, symmetry: Symmetry) -> tuple[Segments, NDArray[np.int64]]:
        """The block's mirror image, moved to the corner, and the translations (n, 2) that keep it on the chip."""
        image = self._topology.image(symmetry, self._home)
        return image, self._topology.translations(*self._topology.extent(image))

    def best(self, active: NDArray[np.bool_]) -> Placement:
        """The cheapest placement on the qubits of ``active``."""
        return self.placement(self._choose(active, self._images), active)

    def corners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lowest corners (n, 2) that the block may have on the chip, and its width and height (2,) less one."""
        image, shifts = self._images[0]
        low, high = self._topology.extent(image)
        return low + shifts, high - low

    def best_near(self, corner: tuple[int, int], active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The (nodes,) labels that lie best on the qubits of ``active``, of all images near ``corner``."""
        near = [(image, self._nearest(image, shifts, corner)) for image, shifts in self._images if len(shifts)]
        return self._choose(active, near)

    def _nearest(self, image: Segments, shifts: NDArray[np.int64], corner: tuple[int, int]) -> NDArray[np.int64]:
        """(1, 2) the shift that brings the image's lowest corner closest to ``corner``."""
        distance = np.abs(shifts + self._topology.extent(image)[0] - np.array(corner)).sum(axis=1)
        return shifts[[int(distance.argmin())]]

    def _choose(self, active: NDArray[np.bool_], images: list[tuple[Segments, NDArray[np.int64]]]) -> NDArray[np.int64]:
        """The (nodes,) labels that lie best on the qubits of ``active``."""
        costs, orders, labels = [], [], []
        for image, shifts in images:
            if not len(shifts):
                continue
            homes = self._homes(image, shifts)
            absent = ~active[homes]
            slot_costs = np.zeros((len(shifts), self._bundles * self._topology.members, self._topology.members))
            starts = np.flatnonzero(np.diff(self._slot, prepend=-1))
            slot_costs[:, self._slot[starts]] = np.add.reduceat(absent * self.weight[:, None], starts, axis=1)
            by_bundle = slot_costs.reshape(len(shifts), self._bundles, self._topology.members, self._topology.members)
            members = np.arange(self._topology.members)
            by_order = by_bundle[:, :, members, self._orders].sum(axis=3)
            order = by_order.argmin(axis=2)
            total = np.take_along_axis(by_order, order[:, :, None], axis=2)[:, :, 0].sum(axis=1)
            keep = np.argsort(total, kind="stable")[:_EXAMINED]
            costs.append(total[keep])
            orders.append(order[keep])
            labels.append(homes[keep])
        cost, order, home = np.concatenate(costs), np.concatenate(orders), np.concatenate(labels)
        ranked = np.argsort(cost, kind="stable")[:_EXAMINED]
        best = self._polish(home[ranked[0]], order[ranked[0]], active)
        for row in ranked[1:]:
            if cost[row] >= best[0]:
                break
            polished = self._polish(home[row], order[row], active)
            best = polished if polished[0] < best[0] else best
        return best[1]

    def _homes(self, image: Segments, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        """(shifts, nodes, members) labels of each node for each choice of its line's member; −1 where none exists."""
        across = np.where(image.u == 0, shifts[:, :1], shifts[:, 1:]) // self._topology.group_width
        along = np.where(image.u == 0, shifts[:, 1:], shifts[:, :1])
        shape = (len(shifts), image.u.size, self._topology.members)
        return self._topology.labels(
            Segments(
                u=np.broadcast_to(image.u[None, :, None], shape),
                group=np.broadcast_to((image.group + across)[:, :, None], shape),
                member=np.broadcast_to(np.arange(self._topology.members), shape),
                start=np.broadcast_to((image.start + along)[:, :, None], shape),
            )
        )

    def _labels(self, home: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
        member = self._orders[order[self._bundle], self._home.member]
        return home[np.arange(self._nodes.size), member]

    def _cost(
        self, labels: NDArray[np.int64], active: NDArray[np.bool_], edges: NDArray[np.int64] | slice = slice(None)
    ) -> tuple[float, NDArray[np.int64]]:
        """Total cost, and which of ``edges`` lack their coupler though both ends are placed."""
        placed = active[labels]
        ends = self._edges[edges]
        both = placed[ends].all(axis=1)
        broken = both & ~self._coupled(labels[ends[:, 0]], labels[ends[:, 1]])
        cost = float(self.weight[~placed].sum() + self._edge_weight[edges][broken].sum())
        return cost, np.flatnonzero(broken)

    def _coupled(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        keys = np.minimum(one, other) * self._graph.label_count + np.maximum(one, other)
        at = np.minimum(np.searchsorted(self._couplers, keys), max(0, self._couplers.size - 1))
        found: NDArray[np.bool_] = self._couplers[at] == keys if self._couplers.size else np.zeros(keys.shape, np.bool_)
        return found

    def _polish(
        self, home: NDArray[np.int64], order: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[float, NDArray[np.int64]]:
        """Reorder the lines that touch missing couplers, one at a time, while that lowers the cost."""
        order = order.copy()
        labels = self._labels(home, order)
        cost, broken = self._cost(labels, active)
        for bundle in np.unique(self._bundle[self._edges[broken]]):
            touching = np.flatnonzero((self._bundle[self._edges] == bundle).any(axis=1))
            trials = []
            for choice in range(len(self._orders)):
                order[bundle] = choice
                trials.append(self._cost(self._labels(home, order), active, touching)[0])
            order[bundle] = int(np.argmin(trials))
        labels = self._labels(home, order)
        cost, _ = self._cost(labels, active)
        return cost, labels

    def placement(self, labels: NDArray[np.int64], active: NDArray[np.bool_]) -> Placement:
        """The machine on ``labels`` (nodes,), as far as ``active`` has them."""
        cost, broken = self._cost(labels, active)
        placed = active[labels]
        qubits = np.full(self._machine.node_count, -1, dtype=np.int64)
        qubits[self._nodes[placed]] = labels[placed]
        lacking = np.argsort(self._nodes[~placed])
        broken = broken[np.argsort(self._edge_index[broken])]
        free = self._edge_free & placed[self._edges].all(axis=1)
        whole = float(self._edge_weight[free].sum())
        return Placement(
            qubit_of_node=qubits,
            needed=self._needed,
            unplaced=self._nodes[~placed][lacking],
            missing_edges=self._edge_index[broken],
            missing_qubits=labels[~placed][lacking],
            missing_couplers=np.sort(labels[self._edges[broken]], axis=1),
            missing_share=float(self._edge_weight[broken[free[broken]]].sum()) / whole if whole else 0.0,
            cost=cost,
        )


def _coupler_keys(graph: WorkingGraph) -> NDArray[np.int64]:
    return np.sort(graph.couplers.min(axis=1) * graph.label_count + graph.couplers.max(axis=1))
