"""Placing a machine's lattice on a chip with defects.

A qubit of either family is a segment: orientation u, a line (its perpendicular coordinate, in groups whose members
are interchangeable) and a start along that line. On Zephyr the four k of one (u, w) may be permuted, on Pegasus the two
k of one pair; translations, mirror images (Zephyr: all eight of the square, Pegasus: the one about the antidiagonal)
and these permutations are automorphisms of the ideal graph, so any of them is as good a home for the machine. Among
them the placement with the fewest and least important holes is chosen: a *hole* is a node without a qubit, a *missing
edge* one whose two qubits work and whose coupler does not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import permutations, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import PlacementError
from qshower.sampler.ideal_graph import (
    FAMILIES,
    Segments,
    Symmetry,
    extent,
    label_count,
    labels_of,
    segments_of,
    symmetries,
    translations,
)
from qshower.sampler.machine import BoltzmannMachine

_CONDITION_WEIGHT: Final = 0.1
"""Cost of a hole whose spin is given, against one whose spin is drawn: folding it into its neighbours is exact."""
_EXAMINED: Final = 8
"""Number of best placements by missing qubits that are also judged by missing couplers."""
_NAMED: Final = 40
"""Missing qubits or couplers that an error's message names; its attributes have all of them."""


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
    def label_count(self) -> int:
        """Number of linear labels of the ideal graph, whether they work or not."""
        return label_count(self.family, self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the nodes of a machine live on a working graph.

    Attributes:
        qubit_of_node: (nodes,) int64, the qubit of each node, −1 for a hole or a node that needs none.
        needed: (nodes,) bool, the nodes that want a qubit: all, or only the free ones where the condition is folded.
        holes: (holes,) int64, needed nodes that got no qubit, ascending.
        missing_edges: (missing,) int64, indices of the edges between two placed nodes that have no coupler.
        missing_qubits: (holes,) int64, ideal label of the qubit each hole lacks.
        missing_couplers: (missing, 2) int64, the pair of qubits each of ``missing_edges`` wants a coupler between.
        missing_share: of the Σ |J| between placed free nodes, the share whose coupler is missing; counted, not
            weighed, on an untrained machine. What a condition node lacks can be folded exactly, and is not in it.
        cost: what was minimised; a hole of mean importance costs 1.
    """

    qubit_of_node: NDArray[np.int64]
    needed: NDArray[np.bool_]
    holes: NDArray[np.int64]
    missing_edges: NDArray[np.int64]
    missing_qubits: NDArray[np.int64]
    missing_couplers: NDArray[np.int64]
    missing_share: float
    cost: float

    @property
    def hole_fraction(self) -> float:
        """Holes among the nodes that need a qubit."""
        return float(self.holes.size) / max(1, int(np.count_nonzero(self.needed)))

    def within(self, limit: float) -> bool:
        """Whether no more than the share ``limit`` of its nodes is holes, nor of its couplings is missing."""
        return self.hole_fraction <= limit and self.missing_share <= limit


def best_placements(
    machine: BoltzmannMachine,
    graph: WorkingGraph,
    *,
    copies: int = 1,
    place_condition: bool = False,
    max_hole_fraction: float = 0.1,
) -> tuple[Placement, ...]:
    """The best placement of ``machine``, or up to ``copies`` disjoint ones, best first.

    As ``placements_by_number``, of which this is the last.
    """
    return placements_by_number(
        machine, graph, copies=copies, place_condition=place_condition, max_hole_fraction=max_hole_fraction
    )[-1]


def placements_by_number(
    machine: BoltzmannMachine,
    graph: WorkingGraph,
    *,
    copies: int,
    place_condition: bool = False,
    max_hole_fraction: float = 0.1,
) -> tuple[tuple[Placement, ...], ...]:
    """The best placement of ``machine``, the best two disjoint ones found, three, … and ``copies``, each best first.

    Args:
        machine: its ``qubits`` are labels of the ideal graph ``machine.topology``.
        graph: today's chip, of the same family and any size.
        copies: how many disjoint placements to look for; it ends earlier if no more stay below the limit.
        place_condition: whether condition nodes need qubits too; not so when the condition is folded into h.
        max_hole_fraction: a placement is refused if more than this share of its nodes has no qubit, or if more than
            this share of the |J| between those that have one has no coupler.

    Raises:
        PlacementError: the families differ, the block is larger than the chip, or the best placement lacks more than
            the limit; the error names the missing qubits or couplers.
    """
    search = _Search(machine, graph, place_condition=place_condition)
    active = graph_mask(graph)
    best = search.best(active)
    _refuse_above(best, max_hole_fraction, graph)
    by_number: dict[int, tuple[Placement, ...]] = {1: (best,)}
    if copies > 1:
        for gap in (0, 1):
            for number, tiling in search.tilings(active, copies, max_hole_fraction, gap).items():
                known = by_number.get(number)
                if number > 1 and (known is None or _worst(tiling) < _worst(known)):
                    by_number[number] = tiling
    return tuple(by_number[number] for number in sorted(by_number))


def _worst(placements: tuple[Placement, ...]) -> tuple[float, float]:
    """Highest cost, then the sum of all."""
    return max(placement.cost for placement in placements), sum(placement.cost for placement in placements)


def _refuse_above(best: Placement, limit: float, graph: WorkingGraph) -> None:
    """PlacementError if the best placement has too many holes or lacks too many couplers."""
    if best.within(limit):
        return
    chip = f"{graph.family}:{graph.size} ({graph.graph_id})"
    qubits = tuple(best.missing_qubits.tolist())
    couplers = tuple((one, other) for one, other in best.missing_couplers.tolist())
    if best.hole_fraction > limit:
        message = (
            f"the model needs {np.count_nonzero(best.needed)} qubits and its best placement on {chip} lacks "
            f"{len(qubits)}, more than {limit:.0%}; missing qubits: {_listed([str(qubit) for qubit in qubits])}"
        )
    else:
        message = (
            f"the model's best placement on {chip} lacks {len(couplers)} couplers between working qubits, which would "
            f"carry {best.missing_share:.1%} of its |J|, more than {limit:.0%}; missing couplers: "
            f"{_listed([f'{one}-{other}' for one, other in couplers])}"
        )
    raise PlacementError(message, qubits=qubits, couplers=couplers)


def _listed(names: list[str]) -> str:
    """The first names, and how many there are beside them."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def graph_mask(graph: WorkingGraph) -> NDArray[np.bool_]:
    """(labels + 1,) bool, which linear labels work; the last entry, False, answers for the label −1."""
    mask = np.zeros(graph.label_count + 1, dtype=np.bool_)
    mask[graph.qubits] = True
    return mask


def machine_fingerprint(machine: BoltzmannMachine) -> str:
    """SHA-256 of everything that defines the law and its lattice, as 16 hexadecimal digits."""
    digest = hashlib.sha256(machine.topology.encode())
    for array in (machine.h, machine.j, machine.edges, machine.partitions, machine.qubits):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


class _Search:
    """One machine on one chip: the costs of all placements for any set of free qubits."""

    def __init__(self, machine: BoltzmannMachine, graph: WorkingGraph, *, place_condition: bool) -> None:
        family, size_text = machine.topology.split(":") if ":" in machine.topology else (machine.topology, "0")
        if family != graph.family or family not in FAMILIES:
            raise PlacementError(f"the model lives on {machine.topology}, the solver on {graph.family}:{graph.size}")
        self._machine, self._graph, self._kind = machine, graph, FAMILIES[family]
        self._needed = np.ones(machine.node_count, dtype=np.bool_)
        if not place_condition:
            self._needed[machine.condition_nodes] = False
        self._nodes = np.flatnonzero(self._needed)
        home = segments_of(family, int(size_text), machine.qubits[self._nodes])
        order = np.lexsort((home.start, home.member, home.group, home.u))
        self._nodes = self._nodes[order]
        self._home = Segments(home.u[order], home.group[order], home.member[order], home.start[order])
        self._weigh()
        # One slot for each (line group, member) that holds nodes; the nodes of a slot lie side by side.
        bundle = self._home.u * (1 << 20) + self._home.group
        _, self._bundle = np.unique(bundle, return_inverse=True)
        self._slot = self._bundle * self._kind.members + self._home.member
        self._bundles = int(self._bundle.max()) + 1
        self._orders = np.array(list(permutations(range(self._kind.members))), dtype=np.int64)
        self._couplers = _coupler_keys(graph)
        self._images = [self._image(symmetry) for symmetry in symmetries(family)]
        if not any(len(shifts) for _, shifts in self._images):
            raise PlacementError(f"the model's block is larger than the chip {family}:{graph.size}")

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
        self._weight = weight[self._nodes]
        position = np.full(machine.node_count, -1, dtype=np.int64)
        position[self._nodes] = np.arange(self._nodes.size)
        ends = position[machine.edges]
        self._edge_index = np.flatnonzero((ends >= 0).all(axis=1))
        self._edges = ends[self._edge_index]
        self._edge_weight = touch[self._edge_index] / scale
        self._edge_free: NDArray[np.bool_] = np.all(machine.partitions[machine.edges[self._edge_index]] != 0, axis=1)

    def _image(self, symmetry: Symmetry) -> tuple[Segments, NDArray[np.int64]]:
        """The block's mirror image, moved to the corner, and the translations (n, 2) that keep it on the chip."""
        image = symmetry.apply(self._home, self._kind)
        low, high = extent(image, self._kind)
        return image, translations(self._graph.family, self._graph.size, low, high)

    def best(self, active: NDArray[np.bool_]) -> Placement:
        """The cheapest placement on the qubits of ``active``."""
        return self._placement(self._choose(active, self._images), active)

    def tilings(
        self, active: NDArray[np.bool_], copies: int, limit: float, gap: int
    ) -> dict[int, tuple[Placement, ...]]:
        """Disjoint placements on a grid of corners, each the best of its corner's symmetries, by their number.

        ``gap`` 0 lets neighbouring copies want the same border line, which is then shared out between them.
        """
        wanted: list[NDArray[np.int64]] = []
        free = active.copy()
        low, high = extent(self._images[0][0], self._kind)
        corners = low + self._images[0][1]
        columns, rows = (
            _stops(int(corners[:, axis].min()), int(corners[:, axis].max()), int((high - low)[axis]) + gap)
            for axis in (0, 1)
        )
        for corner in product(columns, rows):
            near = [(image, self._nearest(image, shifts, corner)) for image, shifts in self._images if len(shifts)]
            labels = self._choose(free, near)
            wanted.append(labels)
            free[labels[free[labels]]] = False
        found: dict[int, tuple[Placement, ...]] = {}
        while wanted:
            if len(wanted) <= copies:
                placements = [
                    self._placement(labels, mine)
                    for labels, mine in zip(wanted, self._shared_out(wanted, active), strict=True)
                ]
                if all(placement.within(limit) for placement in placements):
                    found[len(wanted)] = tuple(sorted(placements, key=lambda placement: placement.cost))
            wanted.pop(self._most_contested(wanted, active))
        return found

    def _most_contested(self, wanted: list[NDArray[np.int64]], active: NDArray[np.bool_]) -> int:
        """The copy that would be worst off if it got nothing that another wants."""
        sole = active & (_claims(wanted, active.size) < 2)
        return int(np.argmax([self._weight[~sole[labels]].sum() for labels in wanted]))

    def _shared_out(self, wanted: list[NDArray[np.int64]], active: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """What is left of ``active`` for each copy: a qubit that several want goes to the one that is worst off."""
        contested = active & (_claims(wanted, active.size) > 1)
        left = [active & ~contested for _ in wanted]
        costs = [float(self._weight[~mine[labels]].sum()) for mine, labels in zip(left, wanted, strict=True)]
        claims: dict[int, list[tuple[float, int]]] = {}
        for copy, labels in enumerate(wanted):
            for node in np.flatnonzero(contested[labels]):
                claims.setdefault(int(labels[node]), []).append((float(self._weight[node]), copy))
        # The weightiest first, so that small ones are left to even things out.
        for qubit, those in sorted(claims.items(), key=lambda claim: -max(claim[1])[0]):
            weight, winner = max(those, key=lambda one: costs[one[1]])
            costs[winner] -= weight
            left[winner][qubit] = True
        return left

    def _nearest(self, image: Segments, shifts: NDArray[np.int64], corner: tuple[int, int]) -> NDArray[np.int64]:
        """(1, 2) the shift that brings the image's lowest corner closest to ``corner``."""
        distance = np.abs(shifts + extent(image, self._kind)[0] - np.array(corner)).sum(axis=1)
        return shifts[[int(distance.argmin())]]

    def _choose(self, active: NDArray[np.bool_], images: list[tuple[Segments, NDArray[np.int64]]]) -> NDArray[np.int64]:
        """The (nodes,) labels that lie best on the qubits of ``active``."""
        costs, orders, labels = [], [], []
        for image, shifts in images:
            if not len(shifts):
                continue
            homes = self._homes(image, shifts)
            absent = ~active[homes]
            slot_costs = np.zeros((len(shifts), self._bundles * self._kind.members, self._kind.members))
            starts = np.flatnonzero(np.diff(self._slot, prepend=-1))
            slot_costs[:, self._slot[starts]] = np.add.reduceat(absent * self._weight[:, None], starts, axis=1)
            by_bundle = slot_costs.reshape(len(shifts), self._bundles, self._kind.members, self._kind.members)
            members = np.arange(self._kind.members)
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
        across = np.where(image.u == 0, shifts[:, :1], shifts[:, 1:]) // self._kind.group_width
        along = np.where(image.u == 0, shifts[:, 1:], shifts[:, :1])
        shape = (len(shifts), image.u.size, self._kind.members)
        return labels_of(
            self._graph.family,
            self._graph.size,
            np.broadcast_to(image.u[None, :, None], shape),
            np.broadcast_to((image.group + across)[:, :, None], shape),
            np.broadcast_to(np.arange(self._kind.members), shape),
            np.broadcast_to((image.start + along)[:, :, None], shape),
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
        cost = float(self._weight[~placed].sum() + self._edge_weight[edges][broken].sum())
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

    def _placement(self, labels: NDArray[np.int64], active: NDArray[np.bool_]) -> Placement:
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
            holes=self._nodes[~placed][lacking],
            missing_edges=self._edge_index[broken],
            missing_qubits=labels[~placed][lacking],
            missing_couplers=np.sort(labels[self._edges[broken]], axis=1),
            missing_share=float(self._edge_weight[broken[free[broken]]].sum()) / whole if whole else 0.0,
            cost=cost,
        )


def _claims(wanted: list[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    """(size,) how many copies want each qubit; the last entry is that of the label −1."""
    claims = np.zeros(size, dtype=np.int64)
    for labels in wanted:
        claims[labels] += 1
    return claims


def _coupler_keys(graph: WorkingGraph) -> NDArray[np.int64]:
    return np.sort(graph.couplers.min(axis=1) * graph.label_count + graph.couplers.max(axis=1))


def _stops(low: int, high: int, pitch: int) -> list[int]:
    """As many places as fit between two corners at ``pitch``, spread evenly."""
    count = (high - low) // max(1, pitch) + 1
    return [round(place) for place in np.linspace(low, high, count)] if count > 1 else [low]
