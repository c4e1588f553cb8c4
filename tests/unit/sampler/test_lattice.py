from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.ideal_graph import ideal_graph, topology_of
from qshower.sampler.lattice import compact_lattice


@pytest.mark.parametrize(("family", "least_edges"), [("zephyr", 11_000), ("pegasus", 8_300)])
def test_default_block_is_compact_and_four_coloured(family: str, least_edges: int) -> None:
    machine = compact_lattice(family)
    assert np.bincount(machine.partitions).tolist() == [302, 302, 302, 302]
    assert len(machine.edges) >= least_edges
    chip = ideal_graph(machine.topology)
    assert all(chip.has_edge(*machine.qubits[edge]) for edge in machine.edges)
    graph = nx.Graph(machine.edges.tolist())
    assert graph.number_of_nodes() == machine.node_count
    assert nx.is_connected(graph)


@pytest.mark.parametrize("topology", ["zephyr:3", "pegasus:4"])
def test_colouring_is_proper_on_the_whole_chip(topology: str) -> None:
    graph = ideal_graph(topology)
    colours = {qubit: topology_of(topology).colour_of(qubit) for qubit in graph}
    assert set(colours.values()) == {0, 1, 2, 3}
    assert all(colours[a] != colours[b] for a, b in graph.edges)


@pytest.mark.parametrize("topology", ["chimera:4", "zephyr", "zephyr:0", "zephyr:x", "pegasus:1", "zephyr:99", ""])
def test_topology_that_is_none_is_refused(topology: str) -> None:
    with pytest.raises(InvalidInputError, match="topology"):
        topology_of(topology)


def test_a_block_larger_than_the_chip_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nodes_per_partition"):
        compact_lattice("zephyr", nodes_per_partition=100, chip_size=2)
