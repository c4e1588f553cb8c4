"""A machine made ready for Gibbs kernels: the order of updates, neighbours in rows, parameters in fixed point.

The lattice part (`GibbsGraph`) depends on edges and partitions alone and is kept for the last few lattices; the
parameter part (`Program`) is a gather of h and J, so that other parameters on the same lattice cost microseconds.

Fixed point. The field of node i is x_i = h_i + Σ_j J_ij s_j. Kernels add integers, round(scale·h_i) and
round(scale·J_ij), so a field is the same to the bit whatever the order of the additions and whether the condition is
folded in or not. ``scale`` is the largest that keeps every possible field within the integer type. The law drawn from
is therefore that of a machine whose parameters differ from the given ones by at most 1/(2·scale).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.machine import BoltzmannMachine

NARROW_LIMIT = 32_767
"""Largest field of the 16-bit kernels."""

WIDE_LIMIT = 2**30
"""Largest field of the 32-bit kernels."""

NARROW_QUANTUM = 1.0 / 256.0
"""The 16-bit kernels serve machines whose parameters they hold in steps of at most this many kT (times beta)."""

DECIDED_FIELD = 48.0
"""A bias this far, in kT, beyond all couplings of its node together is as good as infinite: flips below e⁻⁹⁶."""

_MOST_ENTRIES = 16

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class GibbsGraph:
    """The lattice of a machine as Gibbs kernels walk it.

    Attributes:
        nodes: number of spins.
        order: (updates,) int32, nodes in the order of one sweep: by class, degree and index.
        indptr: (updates + 1,) int32, rows of ``neighbours`` and ``edge_ids`` for each entry of ``order``.
        neighbours: (entries,) int32, neighbours that are updated themselves, by their position in ``order``.
        edge_ids: (entries,) int32, index of each entry's edge in the machine's ``j``.
        held: (condition nodes,) int32, nodes that are not updated; empty when every class is free.
        held_indptr, held_columns, held_edge_ids: for each entry of ``order``, its neighbours among ``held`` (column
            of the condition) and their edges.
        colours: (updates,) int8, partition of each entry of ``order``, ascending.
        degree: largest number of neighbours of a node.
    """

    nodes: int
    order: NDArray[np.int32]
    indptr: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    edge_ids: NDArray[np.int32]
    held: NDArray[np.int32]
    held_indptr: NDArray[np.int32]
    held_columns: NDArray[np.int32]
    held_edge_ids: NDArray[np.int32]
    colours: NDArray[np.int8]
    degree: int

    @classmethod
    def build(cls, edges: NDArray[np.int32], partitions: NDArray[np.int8], *, free_condition: bool) -> GibbsGraph:
        """The graph of a lattice, partition 0 held unless ``free_condition``."""
        nodes = partitions.shape[0]
        first_class = 0 if free_condition else 1
        held = np.flatnonzero(partitions < first_class).astype(np.int32)
        ends = np.concatenate([edges, edges[:, ::-1]])
        ids = np.tile(np.arange(edges.shape[0], dtype=np.int32), 2)
        by_node = np.lexsort((ends[:, 1], ends[:, 0]))
        ends, ids = ends[by_node], ids[by_node]
        starts = np.searchsorted(ends[:, 0], np.arange(nodes + 1))
        degrees = np.diff(starts)
        inner = np.bincount(ends[partitions[ends[:, 1]] >= first_class, 0], minlength=nodes)
        free_nodes = np.flatnonzero(partitions >= first_class)
        # Within a class any order is the same law; by degree, the kernels' inner loops run in predictable lengths.
        order = free_nodes[np.lexsort((free_nodes, inner[free_nodes], partitions[free_nodes]))].astype(np.int32)
        entries = np.concatenate(
            [np.arange(starts[node], starts[node + 1]) for node in order] or [np.zeros(0, dtype=np.int64)]
        )
        owners = np.repeat(np.arange(order.shape[0]), degrees[order])
        place = np.empty(nodes, dtype=np.int32)
        place[order] = np.arange(order.shape[0], dtype=np.int32)
        place[held] = np.arange(held.shape[0], dtype=np.int32)
        places = place[ends[entries, 1]]
        free = partitions[ends[entries, 1]] >= first_class
        return cls(
            nodes=nodes,
            order=order,
            indptr=_rows(owners[free], order.shape[0]),
            neighbours=places[free],
            edge_ids=ids[entries[free]],
            held=held,
            held_indptr=_rows(owners[~free], order.shape[0]),
            held_columns=places[~free],
            held_edge_ids=ids[entries[~free]],
            colours=partitions[order],
            degree=int(degrees.max(initial=0)),
        )

    @property
    def updates(self) -> int:
        """Spin updates in one sweep."""
        return int(self.order.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Parameters of a machine in fixed point, in the order of a graph.

    With b = (s + 1)/2 the field at position p is ``base[p]`` plus ``step[k]`` for each neighbour, updated or held, that
    is up. All arithmetic is modulo 2¹⁶ (2³² if ``wide``): only the final sum has to fit.

    Attributes:
        graph: the lattice.
        scale: units per kT.
        wide: whether the fields need 32 bits.
        base: (updates,) int32, the field with every neighbour down.
        step: (entries,) int32, twice the coupling.
        held_step: (held entries,) int32, twice the coupling to a held neighbour.
        packed_step: ``step`` modulo 2¹⁶, in both halves of an int32.
        packed_held_step: likewise.
        base16: ``base`` modulo 2¹⁶.
    """

    graph: GibbsGraph
    scale: float
    wide: bool
    base: NDArray[np.int32]
    step: NDArray[np.int32]
    held_step: NDArray[np.int32]
    packed_step: NDArray[np.int32]
    packed_held_step: NDArray[np.int32]
    base16: NDArray[np.int16]

    @classmethod
    def build(cls, graph: GibbsGraph, h: NDArray[np.float32], j: NDArray[np.float32], beta: float) -> Program:
        """Parameters (h, j) on ``graph``, for schedules that end at ``beta``."""
        bias = h[graph.order].astype(np.float64)
        weight, held = j[graph.edge_ids].astype(np.float64), j[graph.held_edge_ids].astype(np.float64)
        strength = _row_sums(np.abs(weight), graph.indptr) + _row_sums(np.abs(held), graph.held_indptr)
        reach = strength + DECIDED_FIELD / max(beta, 1.0 / DECIDED_FIELD)
        bias = np.clip(bias, -reach, reach)
        bound = max(float((np.abs(bias) + strength).max(initial=0.0)), 1.0)
        room = (graph.degree + 2) / 2
        wide = bound * beta / NARROW_LIMIT > NARROW_QUANTUM
        scale = ((WIDE_LIMIT if wide else NARROW_LIMIT) - room) / bound
        units, held_units = np.rint(weight * scale), np.rint(held * scale)
        base = np.rint(bias * scale) - _row_sums(units, graph.indptr) - _row_sums(held_units, graph.held_indptr)
        step, held_step = _whole(2 * units), _whole(2 * held_units)
        return cls(
            graph=graph,
            scale=scale,
            base16=_whole(base).astype(np.int16),
            wide=wide,
            base=_whole(base),
            step=step,
            held_step=held_step,
            packed_step=_packed(step),
            packed_held_step=_packed(held_step),
        )


def _whole(values: NDArray[np.float64]) -> NDArray[np.int32]:
    return values.astype(np.int64).astype(np.int32)


def _packed(steps: NDArray[np.int32]) -> NDArray[np.int32]:
    low = steps.astype(np.uint32) & np.uint32(0xFFFF)
    return (low | (low << np.uint32(16))).view(np.int32)


def _rows(owners: NDArray[np.int64], rows: int) -> NDArray[np.int32]:
    return np.searchsorted(owners, np.arange(rows + 1)).astype(np.int32)


def _row_sums(values: NDArray[np.float64], indptr: NDArray[np.int32]) -> NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    rows: NDArray[np.float64] = sums[indptr[1:]] - sums[indptr[:-1]]
    return rows


class LastUsed(Generic[Value]):
    """The last few values by the identity of the (immutable) arrays they were made from."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[object, ...], tuple[tuple[object, ...], Value]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[object, ...]) -> Value | None:
        """The value kept under ``key``."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return None if entry is None else entry[1]

    def put(self, key: tuple[object, ...], sources: tuple[object, ...], value: Value) -> None:
        """Keep ``value``, made from ``sources``, whose identities are in ``key``."""
        # The sources are held so that an identity in the key cannot be reused while the entry lives.
        with self._lock:
            self._entries[key] = (sources, value)
            while len(self._entries) > _MOST_ENTRIES:
                self._entries.popitem(last=False)


_graphs: LastUsed[GibbsGraph] = LastUsed()
_programs: LastUsed[Program] = LastUsed()


def graph_of(machine: BoltzmannMachine, *, free_condition: bool = False) -> GibbsGraph:
    """The graph of a machine's lattice, built once per lattice."""
    key = (id(machine.edges), id(machine.partitions), free_condition)
    graph = _graphs.get(key)
    if graph is None:
        graph = GibbsGraph.build(machine.edges, machine.partitions, free_condition=free_condition)
        _graphs.put(key, (machine.edges, machine.partitions), graph)
    return graph


def program_of(machine: BoltzmannMachine, *, free_condition: bool = False, beta: float = 1.0) -> Program:
    """The fixed-point parameters of a machine, built once per machine."""
    key = (id(machine.h), id(machine.j), id(machine.edges), id(machine.partitions), free_condition, beta)
    program = _programs.get(key)
    if program is None:
        graph = graph_of(machine, free_condition=free_condition)
        program = Program.build(graph, machine.h, machine.j, beta)
        _programs.put(key, (machine.h, machine.j, machine.edges, machine.partitions), program)
    return program
