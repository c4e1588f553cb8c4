"""Parallel tempering against exact laws, on machines where ramps of the same cost get the weights of valleys wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import SamplerOptions
from qshower.sampler.tempering import HOTTEST_BETA, TemperingSampler, ladder_of, temper
from tests.conftest import LawMaker, MachineMaker, RequestMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

ROWS = 6000
COST = 1.5
"""CPU time of a tempering sweep of one replica in Gibbs sweeps, energies and exchanges included, rounded up."""

SPINS_TOGETHER = 12


def equal_cost(sweeps: int, machine: BoltzmannMachine) -> SamplerOptions:
    """Gibbs sweeps of a ramp that takes as long as tempering of so many sweeps."""
    return SamplerOptions(sweeps=int(COST * sweeps * len(ladder_of(machine))))


@pytest.fixture
def two_valleys(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    """12 spins that all want to agree, with a barrier of tens of kT between up and down and a bias of a few kT."""
    machine = random_machine(rng, free=12, condition=3, density=1.0)
    between_free = (machine.partitions[machine.edges] != 0).all(axis=1)
    j = np.where(between_free, np.float32(-0.7), rng.normal(0, 0.05, machine.j.shape).astype(np.float32))
    return machine.with_parameters(np.full(15, -0.08, np.float32), j)


def test_tempering_weighs_valleys_right_where_a_ramp_does_not(
    two_valleys: BoltzmannMachine,
    base_seed: int,
    judge: Judge,
    checks: Checks,
    rng: np.random.Generator,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    enumerate_law: LawMaker,
) -> None:
    levels = rng.permutation(np.unique(random_spins(rng, (32, 3)), axis=0))[:2]
    conditions = rng.permutation(np.repeat(levels, ROWS // 2, axis=0))
    laws = {level.tobytes(): enumerate_law(two_valleys, level) for level in levels}
    request = latent_request(two_valleys, conditions, seed=base_seed, options=equal_cost(128, two_valleys))
    with GibbsSampler() as ramp:
        assert judge.failed(checks.exact(laws, ramp.sample(request).spins, conditions)), "the machine is too easy"
    request = latent_request(two_valleys, conditions, seed=base_seed, options=SamplerOptions(sweeps=128))
    with TemperingSampler() as sampler:
        judge(checks.exact(laws, sampler.sample(request).spins, conditions))


def clusters_of(machine: BoltzmannMachine, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Disjoint clusters of ``SPINS_TOGETHER`` well connected free nodes, ascending in each."""
    left = set(machine.free_nodes.tolist())
    neighbours: dict[int, list[int]] = {node: [] for node in left}
    for one, other in machine.edges.tolist():
        if one in left and other in left:
            neighbours[one].append(other)
            neighbours[other].append(one)
    clusters: list[NDArray[np.int64]] = []
    for seed in rng.permutation(machine.free_nodes).tolist():
        cluster = [seed] if seed in left else []
        while cluster and len(cluster) < SPINS_TOGETHER:
            reached = [node for inside in cluster for node in neighbours[inside] if node in left - set(cluster)]
            cluster = [*cluster, max(sorted(set(reached)), key=reached.count)] if reached else []
        left -= set(cluster)
        clusters += [np.sort(cluster)] if cluster else []
    return clusters


def cluster_machine(
    lattice: BoltzmannMachine, clusters: list[NDArray[np.int64]], rng: np.random.Generator
) -> tuple[BoltzmannMachine, NDArray[np.float64]]:
    """The lattice with couplings inside the clusters alone: two valleys each, 1 kT of bias, barriers of about 20 kT.

    Signs are those of a random gauge, so that neither couplings nor biases look alike. Returns the gauge too.
    """
    owner = np.full(lattice.node_count, -1)
    for number, cluster in enumerate(clusters):
        owner[cluster] = number
    gauge = random_signs(rng, lattice.node_count)
    one, other = lattice.edges.T
    inside = (owner[one] >= 0) & (owner[one] == owner[other])
    held = (lattice.partitions[lattice.edges] == 0).any(axis=1)
    weak = np.where(held, rng.normal(0, 0.05, held.shape[0]), 0.0)
    j = np.where(inside, -0.8 * gauge[one] * gauge[other], weak)
    return lattice.with_parameters((-0.04 * gauge).astype(np.float32), j.astype(np.float32)), gauge


def random_signs(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.choice(np.array([-1.0, 1.0]), count)


def cluster_law(
    machine: BoltzmannMachine, cluster: NDArray[np.int64], fields: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """States (states, spins) of a cluster and their exact probabilities, for folded ``fields`` (nodes,)."""
    states = ((np.arange(1 << len(cluster))[:, None] >> np.arange(len(cluster))) & 1) * 2.0 - 1.0
    energies = states @ fields[cluster]
    inside = np.isin(machine.edges, cluster).all(axis=1)
    ends = np.searchsorted(cluster, machine.edges[inside])
    for (one, other), weight in zip(ends, machine.j[inside].astype(np.float64), strict=True):
        energies += weight * states[:, one] * states[:, other]
    weights = np.exp(energies.min() - energies)
    return states, weights / weights.sum()


def cluster_checks(
    machine: BoltzmannMachine,
    clusters: list[NDArray[np.int64]],
    gauge: NDArray[np.float64],
    levels: NDArray[np.int8],
    spins: NDArray[np.int8],
    checks: Checks,
) -> dict[str, float]:
    """P-values of each cluster's valley and of each of its spins, for rows of the levels in turn."""
    found = {}
    for number, level in enumerate(levels):
        drawn = spins[number :: len(levels)].astype(np.float64)
        fields = np.zeros(machine.node_count)
        fields[machine.free_nodes] = machine.folded_fields(level[None])[0]
        valleys: list[np.float64] = []
        in_first: list[np.int64] = []
        ups: list[np.int64] = []
        up: list[np.float64] = []
        for cluster in clusters:
            states, probabilities = cluster_law(machine, cluster, fields)
            valleys.append(probabilities[states @ gauge[cluster] > 0].sum())
            in_first.append((drawn[:, cluster] @ gauge[cluster] > 0).sum())
            up.extend(probabilities @ (states > 0))
            ups.extend((drawn[:, cluster] > 0).sum(axis=0))
        rows = drawn.shape[0]
        found[f"valleys {number}"] = checks.binomial_tests(np.array(in_first), rows, np.array(valleys))
        found[f"spins {number}"] = checks.binomial_tests(np.array(ups), rows, np.array(up))
    return found


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_tempering_weighs_the_valleys_of_a_block_right_where_a_ramp_of_equal_cost_does_not(
    family: str,
    rng: np.random.Generator,
    base_seed: int,
    judge: Judge,
    checks: Checks,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
) -> None:
    """About nine clusters of 12 spins, hence hundreds of valleys, on a block of 4 x 40 nodes."""
    lattice = lattice_machine(rng, family, nodes_per_partition=40)
    clusters = clusters_of(lattice, rng)
    machine, gauge = cluster_machine(lattice, clusters, rng)
    assert len(clusters) >= 5
    levels = random_spins(rng, (2, 40))
    conditions = np.tile(levels, (2000, 1))
    sweeps = 1024
    request = latent_request(machine, conditions, seed=base_seed, options=equal_cost(sweeps, machine))
    with GibbsSampler() as ramp:
        spins = ramp.sample(request).spins
    assert judge.failed(cluster_checks(machine, clusters, gauge, levels, spins, checks)), "the machine is too easy"
    request = latent_request(machine, conditions, seed=base_seed, options=SamplerOptions(sweeps=sweeps))
    with TemperingSampler() as sampler:
        spins = sampler.sample(request).spins
    judge(cluster_checks(machine, clusters, gauge, levels, spins, checks))


def test_tempering_of_random_machines(
    base_seed: int,
    judge: Judge,
    checks: Checks,
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    enumerate_law: LawMaker,
) -> None:
    machine = random_machine(rng, free=14, condition=4, coupling=0.7)
    levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:2]
    conditions = rng.permutation(np.repeat(levels, ROWS // 2, axis=0))
    request = latent_request(machine, conditions, seed=base_seed, options=SamplerOptions(sweeps=66))
    with TemperingSampler() as sampler:
        spins = sampler.sample(request).spins
    judge(checks.exact({level.tobytes(): enumerate_law(machine, level) for level in levels}, spins, conditions))


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_ladder_of_a_full_machine_exchanges_everywhere(
    family: str,
    rng: np.random.Generator,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
) -> None:
    machine = lattice_machine(rng, family)
    betas = ladder_of(machine)
    assert betas[0] == HOTTEST_BETA
    assert betas[-1] == 1.0
    assert (np.diff(betas) > 0).all()
    assert np.array_equal(betas, ladder_of(machine))
    request = latent_request(machine, random_spins(rng, (32, 302)))
    _, accepted = temper(machine, request.conditions, request.streams, 80, betas)
    # About 0.4 by design; 32 rows x 40 attempts know each to 0.014 or so.
    assert (accepted > 0.2).all()
    assert (accepted < 0.7).all()
