"""From a machine and its placement to the h and J that a QPU is programmed with, and back to whole states.

Law: with the condition c on partition 0, the free spins follow P ∝ exp(−Σ h_eff,i s_i − Σ J_ij s_i s_j). A coupling
that the hardware does not have (to an unplaced node, to a qubit whose coupler is missing, to a condition node that was
given no qubit) is folded into the field of its placed end: h_i ← h_i + J_ij m_j, where m_j is c_j for a condition node,
which is exact, and a mean-field magnetisation otherwise, which is not: refinement repairs what that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine
from qshower.sampler.placement import Placement

_MEAN_FIELD_STEPS = 60
_MEAN_FIELD_DAMPING = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A placement made ready for programming.

    Attributes:
        machine: the law.
        placement: where its nodes live.
        nodes: (n,) int64, the placed nodes, ascending.
        qubits: (n,) int64, their qubits.
        couplings: (m,) int64, indices of the machine's edges that are programmed.
        ends: (m, 2) int64, their ends as positions in ``nodes``.
        sources: (k,) int64, the nodes that folded couplings lead to, ascending.
        flow: (n, k) float64, coupling of each placed node to each of ``sources`` that is folded, 0 elsewhere.
        needs_mean_field: whether some folded coupling leads to a node whose spin is not known.
    """

    machine: BoltzmannMachine
    placement: Placement
    nodes: NDArray[np.int64]
    qubits: NDArray[np.int64]
    couplings: NDArray[np.int64]
    ends: NDArray[np.int64]
    sources: NDArray[np.int64]
    flow: NDArray[np.float64]
    needs_mean_field: bool

    @classmethod
    def of(cls, machine: BoltzmannMachine, placement: Placement) -> Layout:
        """The layout of one placement."""
        nodes = np.flatnonzero(placement.qubit_of_node >= 0)
        position = np.full(machine.node_count, -1, dtype=np.int64)
        position[nodes] = np.arange(nodes.size)
        ends = position[machine.edges]
        programmed: NDArray[np.bool_] = np.all(ends >= 0, axis=1)
        programmed[placement.missing_edges] = False
        couplings = np.flatnonzero(programmed)
        folded = [np.flatnonzero(~programmed & (ends[:, one] >= 0)) for one in (0, 1)]
        sources = np.unique(np.concatenate([machine.edges[folded[0], 1], machine.edges[folded[1], 0]]))
        flow = np.zeros((nodes.size, sources.size))
        for one, other in ((0, 1), (1, 0)):
            column = np.searchsorted(sources, machine.edges[folded[one], other])
            flow[ends[folded[one], one], column] = machine.j[folded[one]]
        return cls(
            machine=machine,
            placement=placement,
            nodes=nodes,
            qubits=placement.qubit_of_node[nodes],
            couplings=couplings,
            ends=ends[couplings],
            sources=sources.astype(np.int64),
            flow=flow,
            needs_mean_field=bool(flow[:, machine.partitions[sources] != 0].any()),
        )

    @property
    def j(self) -> NDArray[np.float64]:
        """(m,) couplings to program, in kT."""
        return self.machine.j[self.couplings].astype(np.float64)

    @property
    def colours(self) -> NDArray[np.int8]:
        """(n,) colour class of each placed node."""
        return self.machine.partitions[self.nodes]

    def fields(self, conditions: NDArray[np.int8], means: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(rows, n) fields to program in kT, for conditions (rows, condition nodes).

        ``means`` (rows, nodes) are the magnetisations of ``mean_field`` at these conditions, if they are known already.
        """
        machine = self.machine
        if means is None and self.needs_mean_field:
            means = mean_field(machine, conditions)
        states = np.zeros((conditions.shape[0], machine.node_count)) if means is None else means.copy()
        states[:, machine.condition_nodes] = conditions
        fields: NDArray[np.float64] = machine.h[self.nodes].astype(np.float64) + states[:, self.sources] @ self.flow.T
        return fields

    def local_fields(self, fields: NDArray[np.float64], spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """(reads, n) what each placed spin of ``spins`` (reads, n) feels under programmed ``fields`` (n,), kT."""
        matrix = np.zeros((self.nodes.size, self.nodes.size), dtype=np.float32)
        matrix[self.ends[:, 0], self.ends[:, 1]] = self.j
        matrix[self.ends[:, 1], self.ends[:, 0]] = self.j
        felt: NDArray[np.float64] = fields + spins.astype(np.float32) @ matrix
        return felt


def neighbour_table(machine: BoltzmannMachine) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(nodes, degree) neighbours and couplings, padded with neighbour 0 and coupling 0."""
    ends = np.concatenate([machine.edges, machine.edges[:, ::-1]]).astype(np.int64)
    values = np.tile(machine.j.astype(np.float64), 2)
    order = np.argsort(ends[:, 0], kind="stable")
    ends, values = ends[order], values[order]
    degree = np.bincount(ends[:, 0], minlength=machine.node_count)
    column = np.arange(ends.shape[0]) - np.repeat(np.cumsum(degree) - degree, degree)
    neighbours = np.zeros((machine.node_count, max(1, int(degree.max(initial=0)))), dtype=np.int64)
    couplings = np.zeros(neighbours.shape)
    neighbours[ends[:, 0], column] = ends[:, 1]
    couplings[ends[:, 0], column] = values
    return neighbours, couplings


def mean_field(machine: BoltzmannMachine, conditions: NDArray[np.int8]) -> NDArray[np.float64]:
    """(rows, nodes) magnetisations m_i = −tanh(h_i + Σ_j J_ij m_j), the condition held; damped, class by class."""
    neighbours, couplings = neighbour_table(machine)
    means = np.zeros((conditions.shape[0], machine.node_count))
    means[:, machine.condition_nodes] = conditions
    classes = [machine.nodes_of(partition) for partition in range(1, PARTITION_COUNT)]
    for _ in range(_MEAN_FIELD_STEPS):
        largest = 0.0
        for nodes in classes:
            field = machine.h[nodes] + np.einsum("rnd,nd->rn", means[:, neighbours[nodes]], couplings[nodes])
            change = _MEAN_FIELD_DAMPING * (-np.tanh(field) - means[:, nodes])
            means[:, nodes] += change
            largest = max(largest, float(np.abs(change).max(initial=0.0)))
        if largest < 1e-3:
            break
    return means


def draw_unplaced(
    machine: BoltzmannMachine,
    spins: NDArray[np.int8],
    unplaced: NDArray[np.int64],
    streams: NDArray[np.uint64],
) -> None:
    """Draw the spins of the nodes ``unplaced`` in ``spins`` (rows, nodes), each from its conditional given the others.

    Nodes of one class are drawn together; one that is not drawn yet counts as 0 for the others. Row i uses random
    numbers of its own stream only.
    """
    if unplaced.size == 0:
        return
    neighbours, couplings = neighbour_table(machine)
    uniform = np.stack([np.random.default_rng([*map(int, stream), 0x40]).random(unplaced.size) for stream in streams])
    state = spins.astype(np.float64)
    state[:, unplaced] = 0.0
    for partition in range(PARTITION_COUNT):
        picked = np.flatnonzero(machine.partitions[unplaced] == partition)
        nodes = unplaced[picked]
        field = machine.h[nodes] + np.einsum("rnd,nd->rn", state[:, neighbours[nodes]], couplings[nodes])
        up = uniform[:, picked] < 1.0 / (1.0 + np.exp(2.0 * field))
        state[:, nodes] = np.where(up, 1.0, -1.0)
    spins[:, unplaced] = state[:, unplaced].astype(np.int8)
