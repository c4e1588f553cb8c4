"""Spin-reversal gauges: the same law, programmed with some spins' signs reversed.

With g ∈ {−1, +1}ⁿ: h' = g·h, J'_ij = g_i g_j J_ij, s = g·s'. A flip can turn an allowed J = −1.5 into +1.5, which is
not; and the sums of J over a coupler group change. Flips that would leave the ranges are undone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampler.qpu.ranges import CouplingLimits
from sampler.qpu.solver import SolverInfo

_ATTEMPTS = 50


def draw_gauge(
    info: SolverInfo,
    limits: CouplingLimits,
    ends: NDArray[np.int64],
    j: NDArray[np.float64],
    spins: int,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """(spins,) a random gauge that keeps ``j`` (m,), already within the ranges, within them.

    Args:
        info: the solver.
        limits: the coupling groups of these couplings.
        ends: (m, 2) int64, positions of the ends of each coupling.
        j: (m,) float64, programmed couplings.
        spins: number of spins.
        rng: where the flips come from.
    """
    gauge = rng.choice(np.array([-1, 1], dtype=np.int8), size=spins)
    low, high = info.j_range
    for _ in range(_ATTEMPTS):
        turned = j * gauge[ends].prod(axis=1)
        bad = np.flatnonzero((turned > high) | (turned < low))
        if info.sum_range is not None:
            sums = limits.sums(turned)
            over = np.flatnonzero((sums > info.sum_range[1]) | (sums < info.sum_range[0]))
            if over.size:
                bad = np.union1d(bad, limits.coupling[np.isin(limits.group, over)])
        if not bad.size:
            return gauge
        # Both ends of each offending coupling go back to the given signs, where everything is within the ranges.
        gauge[ends[bad].ravel()] = 1
    return np.ones(spins, dtype=np.int8)
