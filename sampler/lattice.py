"""Compact, well connected, 4-coloured blocks of Pegasus and Zephyr.

The naive choice, the first qubits of each colour over the whole chip, leaves 2 to 3 thousand couplers between 1208
qubits; a compact block keeps 8 (Pegasus) to 11 (Zephyr) thousand.
"""

from __future__ import annotations

import networkx as nx
import numpy as np

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.ideal_graph import TOPOLOGIES, ideal_graph
from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine

__all__ = ["compact_lattice", "ideal_graph", "machine_on"]


def compact_lattice(family: str, nodes_per_partition: int = 302, chip_size: int | None = None) -> BoltzmannMachine:
    """A machine (h = J = 0) on the smallest square block of ``family`` that holds four classes of the given size.

    The block is trimmed by removing, again and again, the qubit of lowest degree from a class that has too many. Nodes
    are ordered by partition, then by qubit label.

    >>> machine = compact_lattice("zephyr", nodes_per_partition=12, chip_size=1)
    >>> machine.node_count, len(machine.edges), machine.topology
    (48, 280, 'zephyr:1')
    """
    kind = TOPOLOGIES[family]
    chip = kind(chip_size if chip_size is not None else kind.chip_size)
    for block_size in range(kind.smallest_size, chip.size + 1):
        block = chip.block(block_size)
        colours = {qubit: chip.colour_of(qubit) for qubit in block}
        counts = np.bincount(list(colours.values()), minlength=PARTITION_COUNT)
        if counts.min() >= nodes_per_partition:
            break
    else:
        raise InvalidInputError("nodes_per_partition", nodes_per_partition, f"what fits one {chip} chip")
    graph = chip.graph().subgraph(block).copy()
    while counts.max() > nodes_per_partition:
        full = {colour for colour in range(PARTITION_COUNT) if counts[colour] > nodes_per_partition}
        weakest = min((degree, qubit) for qubit, degree in graph.degree() if colours[qubit] in full)[1]
        graph.remove_node(weakest)
        counts[colours[weakest]] -= 1
    qubits = np.array(sorted(graph, key=lambda qubit: (colours[qubit], qubit)), dtype=np.int64)
    return machine_on(graph, qubits, np.array([colours[q] for q in qubits], dtype=np.int8), str(chip))


def machine_on(
    graph: nx.Graph, qubits: np.ndarray[tuple[int], np.dtype[np.int64]], partitions: np.ndarray, topology: str
) -> BoltzmannMachine:
    """A machine with h = J = 0 whose node i is ``qubits[i]`` and whose edges are all couplers between them."""
    node_of = {int(qubit): node for node, qubit in enumerate(qubits)}
    pairs = sorted(tuple(sorted((node_of[a], node_of[b]))) for a, b in graph.subgraph(node_of).edges)
    edges = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return BoltzmannMachine(
        h=np.zeros(len(qubits), dtype=np.float32),
        j=np.zeros(len(edges), dtype=np.float32),
        edges=edges,
        partitions=np.asarray(partitions, dtype=np.int8),
        qubits=np.asarray(qubits, dtype=np.int64),
        topology=topology,
    )
