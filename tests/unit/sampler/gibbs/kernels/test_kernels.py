"""The fast kernel against the plain rule, its rounding errors, and fixed-point fields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qshower.sampler.gibbs.kernels import many_chains
from qshower.sampler.gibbs.kernels.one_chain import LANES
from qshower.sampler.gibbs.kernels.run_block import BLOCK_TYPES, run_block_many, run_block_reference, run_one, slices_of
from qshower.sampler.gibbs.program import GibbsGraph, Program, graph_of, program_of
from qshower.sampler.gibbs.schedule import RAMP_START, ramp_and_hold
from qshower.sampler.gibbs.streams import DRAW, REFINE, further_bits, generator_states, stream_keys
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of
from tests.conftest import MachineMaker, SpinMaker


@pytest.mark.parametrize("free_condition", [False, True])
@pytest.mark.parametrize("coupling", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("family", ["pegasus", "zephyr"])
def test_every_width_gives_the_plain_rules_spins(
    rng: np.random.Generator,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    family: str,
    coupling: float,
    free_condition: bool,
) -> None:
    machine = lattice_machine(rng, family, nodes_per_partition=41, coupling=coupling, field=coupling)
    program = program_of(machine, free_condition=free_condition)
    assert not program.wide
    assert program.graph.updates % 2 == (0 if free_condition else 1)
    start = random_spins(rng, (64, machine.node_count))
    keys = stream_keys(streams_of(5, 64), DRAW)
    betas = ramp_and_hold(60)
    plain = start.copy()
    run_block_reference(program, plain, betas, keys)
    assert (plain != start).any()
    for state_type in BLOCK_TYPES:
        for rows in (1, 8 * np.dtype(state_type).itemsize):
            quick = start[:rows].copy()
            run_block_many(program, quick, betas, keys[:rows], state_type)
            assert np.array_equal(quick, plain[:rows]), (state_type, rows)
    for row in range(16):
        alone = start[row : row + 1].copy()
        run_one(program, alone, betas, keys[row : row + 1])
        assert np.array_equal(alone[0], plain[row]), row


def test_long_runs_are_cut_without_a_seam(
    rng: np.random.Generator, lattice_machine: MachineMaker, random_spins: SpinMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=8)
    program = program_of(machine)
    start, keys = random_spins(rng, (8, 32)), stream_keys(streams_of(1, 8), DRAW)

    def eight_together(
        program: Program, spins: NDArray[np.int8], betas: NDArray[np.float64], keys: NDArray[np.uint64]
    ) -> None:
        run_block_many(program, spins, betas, keys, np.uint8)

    def one_by_one(
        program: Program, spins: NDArray[np.int8], betas: NDArray[np.float64], keys: NDArray[np.uint64]
    ) -> None:
        for row in range(8):
            run_one(program, spins[row : row + 1], betas, keys[row : row + 1])

    found = set()
    for chunk in (7, 1024):
        monkeypatch.setattr("qshower.sampler.gibbs.kernels.run_block.CHUNK", chunk)
        for run in (run_block_reference, eight_together, one_by_one):
            spins = start.copy()
            run(program, spins, ramp_and_hold(40), keys)
            found.add(spins.tobytes())
    assert len(found) == 1


def test_slices_hold_every_neighbour_and_stay_within_a_class(
    rng: np.random.Generator, lattice_machine: MachineMaker
) -> None:
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=21)
    graph = graph_of(machine)
    slices = slices_of(graph)
    assert slices is slices_of(graph)
    seen: list[int] = []
    entries: list[int] = []
    for number, position in enumerate(slices.positions):
        lanes = int(slices.valid[number]).bit_count()
        seen += range(position, position + lanes)
        assert np.unique(graph.colours[position : position + lanes]).shape[0] == 1
        rows = slice(slices.starts[number] * LANES, slices.starts[number + 1] * LANES)
        listed = slices.entries[rows].reshape(-1, LANES)
        owners = np.searchsorted(graph.indptr, listed, side="right") - 1
        assert (owners == position + np.arange(LANES))[listed >= 0].all()
        there = slices.neighbours[rows].reshape(-1, LANES)
        assert np.array_equal(there[listed >= 0], graph.neighbours[listed[listed >= 0]])
        assert (there[listed < 0] == graph.updates).all()
        entries += listed[listed >= 0].tolist()
    assert seen == list(range(graph.updates))
    assert sorted(entries) == list(range(graph.neighbours.shape[0]))


def sixteen_bit_distance(twice_beta: float) -> NDArray[np.int64]:
    """Bits of V at the edge of q less the kernel's own edge, for every possible field, by the kernel's arithmetic."""
    cap, whole, fraction = many_chains.exponent_factors(np.array([twice_beta]))[0].astype(np.int64)
    field = np.arange(32768, dtype=np.int64)
    bits = np.floor(65536.0 / (1.0 + np.exp(np.minimum(twice_beta * field, 700.0)))).astype(np.int64)
    size = np.minimum(field, cap)
    exponent = size * whole + (size * fraction >> 16)
    assert exponent.max() < 65536
    rest = exponent << 4 & 0xFFFF
    power = many_chains.C2 - (rest * many_chains.C3 >> 16)
    power = many_chains.C1 - (rest * power >> 16)
    power = many_chains.C0 - (rest * power >> 16)
    assert power.min() > 0
    assert power.max() < 65536
    power = power >> (exponent >> 12)
    return bits - (power - (bits * power >> 16))


@pytest.mark.parametrize("scale", [163.0, 255.9, 700.0, 1115.0, 3749.0, 15543.0, 32000.0])
def test_rounding_errors_stay_within_the_margin_for_every_field(scale: float) -> None:
    """The comparison is monotone in V, so its error at the edge is its largest; all 32768 fields, 25 betas each."""
    for beta in np.append(ramp_and_hold(32)[:24], 1.0):
        distance = sixteen_bit_distance(2.0 * beta / scale)
        assert np.abs(distance).max() <= many_chains.MARGIN, (beta, scale)


def test_parameters_are_held_to_the_stated_precision(rng: np.random.Generator, lattice_machine: MachineMaker) -> None:
    machine = lattice_machine(rng, "pegasus", coupling=0.4)
    program = program_of(machine)
    graph = program.graph
    assert np.abs(program.step / 2 / program.scale - machine.j[graph.edge_ids]).max() <= 0.5 / program.scale
    reach = np.zeros(machine.node_count)
    np.add.at(reach, machine.edges[:, 0], np.abs(machine.j))
    np.add.at(reach, machine.edges[:, 1], np.abs(machine.j))
    largest = (np.abs(machine.h) + reach)[graph.order].max()
    assert 0.99 < program.scale * largest / 32767 <= 1.0
    conditions = np.where(rng.random((5, graph.held.shape[0])) < 0.5, -1, 1).astype(np.int8)
    free = np.where(rng.random((5, graph.updates)) < 0.5, -1, 1).astype(np.int8)
    spins = np.empty((5, machine.node_count), dtype=np.int8)
    spins[:, graph.held], spins[:, graph.order] = conditions, free
    field = program.base + np.zeros((5, 1))
    for position in range(graph.updates):
        rows = slice(graph.indptr[position], graph.indptr[position + 1])
        field[:, position] += (spins[:, graph.order[graph.neighbours[rows]]] > 0) @ program.step[rows]
        rows = slice(graph.held_indptr[position], graph.held_indptr[position + 1])
        field[:, position] += (conditions[:, graph.held_columns[rows]] > 0) @ program.held_step[rows]
    coupling = np.zeros((machine.node_count, machine.node_count))
    coupling[machine.edges[:, 0], machine.edges[:, 1]] = machine.j
    exact = (machine.h + spins @ (coupling + coupling.T))[:, graph.order]
    assert np.abs(field / program.scale - exact).max() <= (graph.degree + 1) / 2 / program.scale


def test_a_decided_bias_does_not_cost_the_others_their_precision(
    rng: np.random.Generator, random_machine: MachineMaker
) -> None:
    machine = random_machine(rng)
    huge = machine.h.copy()
    huge[machine.free_nodes[0]] = 1e6
    program = program_of(machine.with_parameters(huge, machine.j))
    assert not program.wide
    assert program.scale > 300


def test_graph_is_built_once_for_a_lattice_and_programs_once_for_a_machine(
    rng: np.random.Generator, lattice_machine: MachineMaker
) -> None:
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=8)
    other = machine.with_parameters(2 * machine.h, 2 * machine.j)
    assert graph_of(machine) is graph_of(other)
    assert graph_of(machine) is not graph_of(machine, free_condition=True)
    assert program_of(machine) is program_of(machine)
    assert program_of(machine) is not program_of(other)
    assert program_of(machine).graph is program_of(other).graph


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_graph_lists_every_edge_from_both_ends(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, 14))
    partitions = np.array(data.draw(st.lists(st.integers(0, 3), min_size=nodes, max_size=nodes)), dtype=np.int8)
    pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes) if partitions[a] != partitions[b]]
    drawn = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    edges = np.array(sorted(drawn), dtype=np.int32).reshape(-1, 2)
    free_condition = data.draw(st.booleans())
    graph = GibbsGraph.build(edges, partitions, free_condition=free_condition)
    found = set()
    for position, node in enumerate(graph.order):
        for entry in range(graph.indptr[position], graph.indptr[position + 1]):
            found.add((node, graph.order[graph.neighbours[entry]], graph.edge_ids[entry]))
        for entry in range(graph.held_indptr[position], graph.held_indptr[position + 1]):
            found.add((node, graph.held[graph.held_columns[entry]], graph.held_edge_ids[entry]))
    expected = {(a, b, i) for i, (a, b) in enumerate(edges)} | {(b, a, i) for i, (a, b) in enumerate(edges)}
    held = set() if free_condition else set(np.flatnonzero(partitions == 0))
    assert found == {entry for entry in expected if entry[0] not in held}
    assert set(graph.order) == set(range(nodes)) - held
    assert (np.diff(partitions[graph.order].astype(int)) >= 0).all()


def test_schedule_ramps_then_holds() -> None:
    for sweeps in (1, 2, 3, 7, 256):
        betas = ramp_and_hold(sweeps, beta=2.0)
        assert betas.shape == (sweeps,)
        assert betas[-1] == 2.0
        assert (np.diff(betas) >= 0).all()
        assert betas.max() == 2.0
    betas = ramp_and_hold(256)
    assert betas[0] == pytest.approx(RAMP_START)
    assert (betas == 1.0).sum() == 64


def reference_xoshiro(state: NDArray[np.uint32], count: int) -> list[int]:
    """xoshiro128++ in Python's integers, from its published definition."""
    mask, found = 0xFFFFFFFF, []
    s = [int(word) for word in state]
    for _ in range(count):
        total = (s[0] + s[3]) & mask
        found.append((((total << 7) | (total >> 25)) + s[0]) & mask)
        shifted = (s[1] << 9) & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = ((s[3] << 11) | (s[3] >> 21)) & mask
    return found


def test_generator_is_xoshiro() -> None:
    """A free spin of zero field is up where its 16 bits are 2**15 or more: the bits can be read off the spins."""
    machine = BoltzmannMachine(
        h=np.zeros(33, np.float32),
        j=np.zeros(0, np.float32),
        edges=np.zeros((0, 2), np.int32),
        partitions=np.ones(33, np.int8),
        qubits=np.arange(33),
        topology="none",
    )
    keys = stream_keys(streams_of(3, 8), DRAW)
    states = generator_states(keys)
    spins = np.ones((8, 33), dtype=np.int8)
    run_block_many(program_of(machine), spins, np.ones(1), keys, np.uint8)
    for row in range(8):
        words = reference_xoshiro(states[:, row], 17)
        halves = [half for word in words for half in (word & 0xFFFF, word >> 16)][:33]
        clear = [abs(half - 32768) > 1 for half in halves]
        up = [half < 32768 for half in halves]
        assert [s > 0 for s, c in zip(spins[row], clear, strict=True) if c] == [
            u for u, c in zip(up, clear, strict=True) if c
        ]
    assert states.dtype == np.uint32


def test_streams_and_purposes_are_apart() -> None:
    pairs = np.array([[seed, index] for seed in range(40) for index in range(40)], dtype=np.uint64)
    keys = np.concatenate([stream_keys(pairs, DRAW), stream_keys(pairs, REFINE)])
    assert np.unique(keys).shape[0] == 3200
    states = generator_states(keys)
    for words in states:
        assert abs(np.mean([int(word).bit_count() for word in words]) - 16.0) < 5 * np.sqrt(8 / 3200)
    assert len({int(further_bits(np.uint64(1), update)) for update in range(100)}) == 100


def test_wide_fields_use_the_plain_kernel(rng: np.random.Generator, random_machine: MachineMaker) -> None:
    machine = random_machine(rng, coupling=100.0)
    program = program_of(machine)
    assert program.wide
    assert isinstance(program, Program)
    assert program.scale > 1e5
