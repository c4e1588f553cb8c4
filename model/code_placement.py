"""Which bit of a code lies on which qubit: bits that depend on each other on coupled qubits.

The score to climb is

    sum over pairs of visible nodes u != v of  G_uv M[bit on u, bit on v]

with G_uv = 1 for coupled nodes plus ``SHARED`` for each hidden neighbour that the two have in common (a hidden spin
ties its neighbours together), and M the mutual information of two bits at given energy, -1/2 ln(1 - rho^2) from their
partial correlation rho. Swaps of two bits are annealed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError
from qshower.sampler.jit.kernel import kernel
from qshower.sampler.machine import BoltzmannMachine

SHARED = 0.15
ENERGY_POWERS = 6
LEAST_DEVIATION = 0.05
HOT, COLD = 0.3, 0.003

Doubles = NDArray[np.float64]


def place_code(
    machine: BoltzmannMachine,
    bits: NDArray[np.int8],
    energies_mev: Doubles,
    weights: Doubles,
    *,
    swaps: int,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Node of each bit, (bits,): a random subset of the free nodes, filled by annealing.

    ``bits`` (rows, bits) of -1, +1 or 0 (missing), with the rows' incident energies in MeV and weights.
    """
    free = machine.free_nodes
    count = bits.shape[1]
    if count > len(free):
        raise DefectError("code", f"{count} bits", f"at most {len(free)}, the machine's free spins")
    chosen = np.sort(np.random.default_rng((seed, 0)).permutation(len(free))[:count])
    graph = _closeness(machine, free, chosen)
    _, modes = np.linalg.eigh(np.diag(graph.sum(axis=1)) - graph)
    start = np.argsort(modes[:, min(1, count - 1)], kind="stable").astype(np.int64)
    place = _anneal(start, graph, partial_information(bits, energies_mev, weights), swaps, seed, HOT, COLD)
    nodes: NDArray[np.int64] = free[chosen[place]]
    return nodes


def partial_information(bits: NDArray[np.int8], energies_mev: Doubles, weights: Doubles) -> Doubles:
    """(bits, bits) mutual information in nats of each two bits at given energy, 0 on the diagonal."""
    logs = np.log(energies_mev)
    span = max(float(np.ptp(logs)), 1e-9)
    powers = ((logs - logs.min()) / span * 2 - 1)[:, None] ** np.arange(ENERGY_POWERS)
    weight = weights / weights.sum()
    root = np.sqrt(weight)[:, None]
    values = bits.astype(np.float64)
    fit = np.linalg.lstsq(powers * root, values * root, rcond=None)[0]
    left = np.where(bits != 0, values - powers @ fit, 0.0)
    covariance = (left * weight[:, None]).T @ left
    deviation = np.sqrt(np.diag(covariance)) + 1e-6
    scale = np.outer(deviation, deviation)
    correlation = np.clip(covariance / scale, -0.999, 0.999)
    information = -0.5 * np.log(1 - correlation**2) * np.minimum(1.0, scale)
    constant = deviation < LEAST_DEVIATION
    information[constant] = 0
    information[:, constant] = 0
    np.fill_diagonal(information, 0)
    result: Doubles = information
    return result


def _closeness(machine: BoltzmannMachine, free: NDArray[np.int64], chosen: NDArray[np.int64]) -> Doubles:
    position = np.full(machine.node_count, -1, dtype=np.int64)
    position[free] = np.arange(len(free))
    ends = position[machine.edges]
    ends = ends[(ends >= 0).all(axis=1)]
    coupled = np.zeros((len(free), len(free)))
    coupled[ends[:, 0], ends[:, 1]] = coupled[ends[:, 1], ends[:, 0]] = 1
    hidden = np.setdiff1d(np.arange(len(free)), chosen)
    across = coupled[np.ix_(chosen, hidden)]
    graph = coupled[np.ix_(chosen, chosen)] + SHARED * across @ across.T
    np.fill_diagonal(graph, 0)
    result: Doubles = graph
    return result


@kernel()
def _anneal(
    place: NDArray[np.int64], graph: Doubles, information: Doubles, swaps: int, seed: int, hot: float, cold: float
) -> NDArray[np.int64]:
    """Place (bits,) of each bit after annealed swaps."""
    np.random.seed(seed)  # noqa: NPY002 - compiled code has no Generator of its own
    count = place.shape[0]
    bit_at = np.empty(count, dtype=np.int64)
    for bit in range(count):
        bit_at[place[bit]] = bit
    for swap in range(swaps):
        one, there = np.random.randint(count), np.random.randint(count)  # noqa: NPY002
        here = place[one]
        if here == there:
            continue
        other = bit_at[there]
        gain = 0.0
        for at in range(count):
            nearer = graph[there, at] - graph[here, at]
            if nearer != 0:
                third = bit_at[at]
                if third not in (one, other):
                    gain += nearer * (information[one, third] - information[other, third])
        heat = hot * (cold / hot) ** (swap / swaps)
        if gain > 0 or np.random.random() < np.exp(gain / heat):  # noqa: NPY002
            place[one], place[other] = there, here
            bit_at[there], bit_at[here] = one, other
    return place
