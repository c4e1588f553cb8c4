"""Compact, well connected, 4-coloured blocks of Pegasus and Zephyr.

The naive choice, the first qubits of each colour over the whole chip, leaves 2 to 3 thousand couplers between 1208
qubits; a compact block keeps 8 (Pegasus) to 11 (Zephyr) thousand.
"""

from __future__ import annotations

from functools import cache

import networkx as nx
import numpy as np
from dwave.graphs import (
    pegasus_coordinates,
    pegasus_four_color,
    pegasus_graph,
    pegasus_sublattice_mappings,
    zephyr_coordinates,
    zephyr_four_color,
    zephyr_graph,
    zephyr_sublattice_mappings,
)

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine

CHIP_SIZE = {"zephyr": 12, "pegasus": 16}
"""Grid size of today's full-size chip of each family: the ideal graph a model's qubit labels refer to."""


@cache
def ideal_graph(topology: str) -> nx.Graph:
    """The ideal hardware graph of ``topology`` (``"zephyr:12"``, ``"pegasus:16"``), nodes by linear label."""
    family, size = parse_topology(topology)
    return nx.freeze(zephyr_graph(size) if family == "zephyr" else pegasus_graph(size, fabric_only=True))


def parse_topology(topology: str) -> tuple[str, int]:
    """Family and grid size of ``"zephyr:12"``; InvalidInputError for anything that is no hardware graph."""
    family, _, size = topology.partition(":")
    if family not in CHIP_SIZE or not size.isdecimal() or not 1 <= int(size) <= 32:
        raise InvalidInputError("topology", topology, "zephyr:M or pegasus:M with M from 1 to 32, such as zephyr:12")
    if family == "pegasus" and int(size) < 2:
        raise InvalidInputError("topology", topology, "pegasus:M with M from 2 to 32")
    return family, int(size)


def colour_of(family: str, size: int, qubit: int) -> int:
    """Colour class 0..3 of a qubit by linear label; no coupler joins two qubits of one class."""
    if family == "zephyr":
        return int(zephyr_four_color(zephyr_coordinates(size).linear_to_zephyr(qubit), scheme=1))
    return int(pegasus_four_color(pegasus_coordinates(size).linear_to_pegasus(qubit)))


def compact_lattice(family: str, nodes_per_partition: int = 302, chip_size: int | None = None) -> BoltzmannMachine:
    """A machine (h = J = 0) on the smallest square block of ``family`` that holds four classes of the given size.

    The block is trimmed by removing, again and again, the qubit of lowest degree from a class that has too many. Nodes
    are ordered by partition, then by qubit label.
    """
    size = chip_size if chip_size is not None else CHIP_SIZE[family]
    chip = ideal_graph(f"{family}:{size}")
    for block_size in range(1 if family == "zephyr" else 2, size + 1):
        block = _block(family, block_size, size)
        colours = {qubit: colour_of(family, size, qubit) for qubit in block}
        counts = np.bincount(list(colours.values()), minlength=PARTITION_COUNT)
        if counts.min() >= nodes_per_partition:
            break
    else:
        raise InvalidInputError("nodes_per_partition", nodes_per_partition, f"what fits one {family}:{size} chip")
    graph = chip.subgraph(block).copy()
    while counts.max() > nodes_per_partition:
        full = {colour for colour in range(PARTITION_COUNT) if counts[colour] > nodes_per_partition}
        weakest = min((degree, qubit) for qubit, degree in graph.degree() if colours[qubit] in full)[1]
        graph.remove_node(weakest)
        counts[colours[weakest]] -= 1
    qubits = np.array(sorted(graph, key=lambda qubit: (colours[qubit], qubit)), dtype=np.int64)
    return machine_on(graph, qubits, np.array([colours[q] for q in qubits], dtype=np.int8), f"{family}:{size}")


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


def _block(family: str, block_size: int, chip_size: int) -> list[int]:
    """Linear labels, in the chip, of the block of ``block_size`` at the chip's first corner."""
    chip = ideal_graph(f"{family}:{chip_size}")
    block = ideal_graph(f"{family}:{block_size}")
    sublattice_mappings = zephyr_sublattice_mappings if family == "zephyr" else pegasus_sublattice_mappings
    place = next(iter(sublattice_mappings(block, chip)))
    return sorted(place(qubit) for qubit in block)
