"""The Boltzmann machine every sampler draws from.

Law (spins s ∈ {−1, +1}, energies in units of kT, β = 1)::

    E(s) = Σ_i h_i s_i + Σ_(ij) J_ij s_i s_j        P(s) ∝ exp(−E(s))

Partition 0 holds the *condition*: its spins are given, and samplers draw the others from P(s_free | s_0 = c).
Folding the condition into the biases of the free spins, h_eff = h + J·c, is exact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError

PARTITION_COUNT = 4


def are_spins(values: NDArray[Any], width: int) -> bool:
    """Whether ``values`` are rows of ``width`` spins: int8 of −1 and +1.

    >>> are_spins(np.array([[1, -1]], dtype=np.int8), 2), are_spins(np.array([[1, 0]], dtype=np.int8), 2)
    (True, False)
    """
    shaped = values.ndim == 2 and values.shape[1] == width and values.dtype == np.int8
    return shaped and bool((np.abs(values) == 1).all())


def check_spins(field: str, values: NDArray[Any], width: int) -> None:
    """InvalidInputError unless ``values`` are rows of ``width`` spins."""
    if not are_spins(values, width):
        raise DefectError(field, f"{values.dtype} {values.shape}", f"int8 (rows, {width}) of -1 and +1")


@dataclass(frozen=True, slots=True, eq=False)
class BoltzmannMachine:
    """A Boltzmann machine on a sparse graph whose nodes are split into independent colour classes.

    Two spins, the first of which is the condition::

        >>> machine = BoltzmannMachine(
        ...     h=np.array([0.0, 0.5], dtype=np.float32),
        ...     j=np.array([-1.0], dtype=np.float32),
        ...     edges=np.array([[0, 1]], dtype=np.int32),
        ...     partitions=np.array([0, 1], dtype=np.int8),
        ...     qubits=np.array([0, 1]),
        ...     topology="none",
        ... )
        >>> machine.energies(np.array([[1, 1], [1, -1]], dtype=np.int8)).tolist()
        [-0.5, 0.5]
        >>> machine.folded_fields(np.array([[1], [-1]], dtype=np.int8)).tolist()
        [[-0.5], [1.5]]

    Attributes:
        h: (nodes,) float32, biases in kT.
        j: (edges,) float32, couplings in kT.
        edges: (edges, 2) int32, node indices with ``edges[:, 0] < edges[:, 1]``, sorted, each pair once.
        partitions: (nodes,) int8, colour class 0..3 of each node; no edge joins two nodes of one class.
        qubits: (nodes,) int64, linear label of each node's qubit in the ideal graph ``topology``.
        topology: the ideal hardware graph, ``"zephyr:12"`` or ``"pegasus:16"``, or ``"none"`` for a machine of no chip.
    """

    h: NDArray[np.float32]
    j: NDArray[np.float32]
    edges: NDArray[np.int32]
    partitions: NDArray[np.int8]
    qubits: NDArray[np.int64]
    topology: str

    def __post_init__(self) -> None:
        nodes, pairs = self.h.shape[0], self.j.shape[0]
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...], type[np.generic]]] = {
            "h": (self.h, (nodes,), np.float32),
            "j": (self.j, (pairs,), np.float32),
            "edges": (self.edges, (pairs, 2), np.int32),
            "partitions": (self.partitions, (nodes,), np.int8),
            "qubits": (self.qubits, (nodes,), np.int64),
        }
        for name, (array, shape, dtype) in shapes.items():
            if array.shape != shape or array.dtype != dtype:
                raise DefectError(name, f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {shape}")
        for name in ("h", "j"):
            if not np.isfinite(getattr(self, name)).all():
                raise DefectError(name, "a value that is not finite", "finite values")
        if pairs:
            first, second = self.edges[:, 0], self.edges[:, 1]
            if first.min() < 0 or second.max() >= nodes or not (first < second).all():
                raise DefectError("edges", "a pair out of order or range", f"0 <= i < j < {nodes}")
            order = first.astype(np.int64) * nodes + second
            if not (np.diff(order) > 0).all():
                raise DefectError("edges", "unsorted or repeated pairs", "sorted pairs, each once")
            if (self.partitions[first] == self.partitions[second]).any():
                raise DefectError("partitions", "an edge inside one partition", "a proper colouring")
        if nodes and (self.partitions.min() < 0 or self.partitions.max() >= PARTITION_COUNT):
            raise DefectError("partitions", "a class out of range", f"0..{PARTITION_COUNT - 1}")
        if np.unique(self.qubits).shape[0] != nodes:
            raise DefectError("qubits", "a qubit used twice", "one qubit for each node")
        for name in shapes:
            getattr(self, name).flags.writeable = False

    @property
    def node_count(self) -> int:
        """Number of spins, the condition's included."""
        return int(self.h.shape[0])

    @property
    def topology_family(self) -> str:
        """``"zephyr"``, ``"pegasus"`` or ``"none"``."""
        return self.topology.split(":")[0]

    def nodes_of(self, partition: int) -> NDArray[np.int64]:
        """Indices of the nodes of one partition, ascending."""
        return np.flatnonzero(self.partitions == partition)

    @property
    def condition_nodes(self) -> NDArray[np.int64]:
        """Indices of the nodes that hold the condition (partition 0), ascending: the order of a condition's spins."""
        return self.nodes_of(0)

    @property
    def free_nodes(self) -> NDArray[np.int64]:
        """Indices of the nodes that are drawn (partitions 1 to 3), ascending."""
        return np.flatnonzero(self.partitions != 0)

    def energies(self, spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """E(s) in kT of each row of ``spins``, (rows, nodes) of −1 and +1."""
        # Here, so that whoever only describes a machine does without a compiler.
        from qshower.sampler.energy import ising_energies

        # A writable copy in one layout: the kernel is compiled once for all callers.
        energies: NDArray[np.float64] = ising_energies(
            np.array(spins, dtype=np.int8, order="C"), self.h, self.j, self.edges
        )
        return energies

    def law_sha256(self) -> str:
        """Hash of the law: biases, couplings, edges and partitions. Where its qubits lie on a chip does not enter."""
        digest = hashlib.sha256()
        for array, kind in ((self.h, "<f4"), (self.j, "<f4"), (self.edges, "<i4"), (self.partitions, "<i1")):
            digest.update(f"{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Hash of everything that defines the law and its lattice, as 16 hexadecimal digits."""
        digest = hashlib.sha256(self.topology.encode())
        for array in (self.h, self.j, self.edges, self.partitions, self.qubits):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def folded_fields(self, conditions: NDArray[np.int8]) -> NDArray[np.float64]:
        """h_eff = h + J·c of the free nodes, (rows, free nodes), for conditions (rows, condition nodes)."""
        free, clamped = self.free_nodes, self.condition_nodes
        position = np.full(self.node_count, -1, dtype=np.int64)
        position[clamped] = np.arange(clamped.shape[0])
        coupling = np.zeros((clamped.shape[0], self.node_count), dtype=np.float64)
        for one, other in ((0, 1), (1, 0)):
            picked = self.partitions[self.edges[:, one]] == 0
            coupling[position[self.edges[picked, one]], self.edges[picked, other]] = self.j[picked]
        fields: NDArray[np.float64] = self.h[free].astype(np.float64) + conditions @ coupling[:, free]
        return fields

    def with_parameters(self, h: NDArray[np.floating], j: NDArray[np.floating]) -> Self:
        """The same lattice with other biases and couplings."""
        return replace(self, h=np.array(h, dtype=np.float32), j=np.array(j, dtype=np.float32))
