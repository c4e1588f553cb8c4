"""The machine's fit and the open spins' law against enumeration; bounds; placement."""

import itertools

import numpy as np
from numpy.typing import NDArray

from qshower.model.code_placement import _closeness, partial_information, place_code
from qshower.model.open_spins import Graph, pair_means
from qshower.model.training.machine_fit import Coded, FitSchedule, MachineFit
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine


def placement_score(machine: BoltzmannMachine, nodes: NDArray[np.int64], information: NDArray[np.float64]) -> float:
    """The score that ``code_placement`` climbs, of a placement, in nats."""
    free = machine.free_nodes
    places = np.searchsorted(free, nodes)
    order = np.argsort(places)
    graph = _closeness(machine, free, places[order])
    return float((graph * information[np.ix_(order, order)]).sum() / 2)


def machine_of(nodes_per_partition: int = 2, scale: float = 0.6) -> BoltzmannMachine:
    rng = np.random.default_rng(3)
    lattice = compact_lattice("zephyr", nodes_per_partition)
    h = rng.normal(0, 0.4, lattice.node_count).astype(np.float32)
    return lattice.with_parameters(h, rng.normal(0, scale, len(lattice.j)).astype(np.float32))


def free_states(machine: BoltzmannMachine, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    free = machine.free_nodes
    states = np.empty((2 ** len(free), machine.node_count), dtype=np.int8)
    states[:, free] = list(itertools.product([-1, 1], repeat=len(free)))
    states[:, machine.condition_nodes] = condition
    weight = np.exp(-(energy := machine.energies(states)) + energy.min())
    return states, weight / weight.sum()


def test_open_spins_follow_the_law_given_the_held_ones() -> None:
    machine = machine_of()
    rng = np.random.default_rng(0)
    rows = 40_000
    states, _ = free_states(machine, np.array([1, -1], dtype=np.int8))
    held = np.zeros((rows, machine.node_count), dtype=np.bool_)
    held[:, machine.condition_nodes] = True
    held[:, machine.free_nodes[0]] = True
    start = states[rng.integers(len(states), size=rows)].copy()
    start[:, machine.free_nodes[0]] = 1
    drawn = Graph.of(machine).sweep((machine.h, machine.j), start, held, 40, rng)
    assert (drawn[held] == start[held]).all()
    states, weight = free_states(machine, np.array([1, -1], dtype=np.int8))
    weight = weight * (states[:, machine.free_nodes[0]] == 1)
    expected = weight @ states / weight.sum()
    # Five standard errors of a mean of independent spins: a false alarm in a million.
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=5 / np.sqrt(rows))


def test_a_fit_with_hidden_spins_finds_the_moments_of_what_it_saw() -> None:
    truth = machine_of(scale=0.8)
    states, weight = free_states(truth, np.array([1, -1], dtype=np.int8))
    rng = np.random.default_rng(1)
    rows = states[rng.choice(len(states), size=6000, p=weight)]
    nodes = truth.free_nodes[[0, 2, 3, 5]]
    bits = rows[:, nodes].copy()
    bits[rng.random(bits.shape) < 0.1] = 0
    coded = Coded(bits, nodes, rows[:, truth.condition_nodes], np.full(len(rows), 1e3), np.ones(len(rows)))
    fit = MachineFit(truth.with_parameters(0 * truth.h, 0 * truth.j), coded, FitSchedule(steps=1500, rate=0.02, seed=2))
    state = fit.start()
    while state.step < fit.schedule.steps:
        state, _ = fit.step(state)
    found = fit.machine(state)
    assert np.abs(found.j).max() <= 2 + 1e-5
    assert np.abs(found.h).max() <= 4 + 1e-5
    drawn, probability = free_states(found, np.array([1, -1], dtype=np.int8))
    seen = drawn[:, nodes].astype(float)
    wanted = rows[:, nodes].astype(float)
    model = np.einsum("n,na,nb->ab", probability, seen, seen)
    data = wanted.T @ wanted / len(wanted)
    np.testing.assert_allclose(model, data, atol=0.06)
    np.testing.assert_allclose(probability @ seen, wanted.mean(axis=0), atol=0.06)
    assert 10 <= len(state.trajectory) <= 13


def test_coupled_qubits_get_bits_that_depend_on_each_other() -> None:
    rng = np.random.default_rng(5)
    lattice = compact_lattice("zephyr", 20)
    steps = rng.choice([-1, 1], p=[0.1, 0.9], size=(4000, 30))
    bits = np.cumprod(steps, axis=1).astype(np.int8)
    energies, weights = np.exp(rng.uniform(7, 11, 4000)), np.ones(4000)
    information = partial_information(bits, energies, weights)
    placed = place_code(lattice, bits, energies, weights, swaps=40_000, seed=1)
    assert len(np.unique(placed)) == 30
    assert (lattice.partitions[placed] != 0).all()
    shuffled = rng.permutation(placed)
    assert placement_score(lattice, placed, information) > 1.3 * placement_score(lattice, shuffled, information)


def test_pair_means_are_means_of_products() -> None:
    spins = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), (200, 6))
    edges = np.array([[0, 1], [2, 5]], dtype=np.int32)
    expected = (spins[:, edges[:, 0]] * spins[:, edges[:, 1]]).mean(axis=0)
    np.testing.assert_allclose(pair_means(spins, edges), expected)
