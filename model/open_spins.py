"""Gibbs sweeps that hold some spins of each row where they are: latents of which a shower fixes a part.

The law is that of ``sampler.machine`` at beta 1, given the held spins. The samplers' own kernels hold the condition
alone, the same spins in every row; here each row holds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.jit.kernel import kernel
from qshower.sampler.machine import BoltzmannMachine

Spins = NDArray[np.int8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Neighbours of the free nodes.

    ``order`` (free,) nodes by colour class; the neighbours of number k are ``node`` and ``edge`` from ``start[k]`` to
    ``start[k + 1]``.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    node: NDArray[np.int64]
    edge: NDArray[np.int64]

    @classmethod
    def of(cls, machine: BoltzmannMachine) -> Self:
        """Of a machine's lattice, nodes by colour class."""
        edges = machine.edges.astype(np.int64)
        ends, others = edges.T.reshape(-1), edges[:, ::-1].T.reshape(-1)
        numbers = np.tile(np.arange(len(edges)), 2)
        order = machine.free_nodes[np.argsort(machine.partitions[machine.free_nodes], kind="stable")]
        lists = [np.flatnonzero(ends == node) for node in order]
        start = np.concatenate([[0], np.cumsum([len(found) for found in lists])]).astype(np.int64)
        index = np.concatenate(lists) if lists else np.zeros(0, dtype=np.int64)
        return cls(order.astype(np.int64), start, others[index], numbers[index])

    def sweep(
        self,
        law: tuple[Floats, Floats],
        spins: Spins,
        held: NDArray[np.bool_],
        sweeps: int,
        rng: np.random.Generator,
    ) -> Spins:
        """Gibbs sweeps, by ``law`` (h, J) at beta 1, of the spins (rows, nodes) that are not ``held``; in a copy."""
        columns = np.ascontiguousarray(spins.T, dtype=np.int8)
        words = rng.integers(1, 2**32 - 1, size=len(spins), dtype=np.uint32)
        h, j = (np.array(values) for values in law)
        fixed = np.ascontiguousarray(held.T)
        _sweep(columns, fixed, h, j, self.order, self.start, self.node, self.edge, sweeps, words)
        return np.ascontiguousarray(columns.T)


@kernel(fastmath={"contract", "nsz"})
def _sweep(
    spins: Spins,
    held: NDArray[np.bool_],
    h: Floats,
    j: Floats,
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    node: NDArray[np.int64],
    edge: NDArray[np.int64],
    sweeps: int,
    words: NDArray[np.uint32],
) -> None:
    rows = spins.shape[1]
    field = np.empty(rows, dtype=np.float32)
    one, unit = np.float32(1), np.float32(2.0**-24)
    for _ in range(sweeps):
        for place in range(order.shape[0]):
            here = order[place]
            field[:] = h[here]
            for k in range(start[place], start[place + 1]):
                coupling, near = j[edge[k]], spins[node[k]]
                for row in range(rows):
                    field[row] += coupling * np.float32(near[row])
            own, fixed = spins[here], held[here]
            for row in range(rows):
                word = words[row]
                word = np.uint32(word ^ np.uint32(word << np.uint32(13)))
                word = np.uint32(word ^ np.uint32(word >> np.uint32(17)))
                word = np.uint32(word ^ np.uint32(word << np.uint32(5)))
                words[row] = word
                u = (np.float32(word >> np.uint32(8)) + np.float32(0.5)) * unit
                up = u * (one + np.exp(np.float32(2) * field[row])) < one
                own[row] = own[row] if fixed[row] else (np.int8(1) if up else np.int8(-1))


def pair_means(spins: Spins, edges: NDArray[np.int32]) -> Doubles:
    """(edges,) mean of s_i s_j over rows of spins (rows, nodes)."""
    means: Doubles = _pair_sums(np.ascontiguousarray(spins.T), np.array(edges)) / len(spins)
    return means


@kernel()
def _pair_sums(spins: Spins, edges: NDArray[np.int32]) -> Doubles:
    sums = np.empty(edges.shape[0], dtype=np.float64)
    for pair in range(edges.shape[0]):
        one, other = spins[edges[pair, 0]], spins[edges[pair, 1]]
        total = np.int32(0)
        for row in range(one.shape[0]):
            total += np.int32(one[row] * other[row])
        sums[pair] = total
    return sums
