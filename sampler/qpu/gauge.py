"""Spin-reversal gauges: the same law, programmed with some spins' signs reversed.

With g ∈ {−1, +1}ⁿ: h' = g·h, J'_ij = g_i g_j J_ij, s = g·s'. A flip can turn an allowed J = −1.5 into +1.5, which is
not; and the sums of J over a coupler group change. Flips that would leave the ranges are undone.

An error that belongs to the chip, δh or δJ, acts on the given spins as g_i δh_i and g_i g_j δJ_ij. Over random gauges
its mean falls like one over the root of their number. Over four gauges that are one random gauge, turned by the rows of
``_PATTERNS`` colour class by colour class, it is nought: in each column, and in the product of any two, as many signs
are + as −. So what the errors do to first order cancels among every four gauges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampler.qpu.ranges import CouplingLimits
from sampler.qpu.solver import SolverInfo

_ATTEMPTS = 50
_PATTERNS = np.array([[1, 1, 1, 1], [1, -1, -1, 1], [1, 1, -1, -1], [1, -1, 1, -1]], dtype=np.int8)
"""Rows: gauges of a set; columns: colour classes. Class 0, the condition, is never turned: its h is held anyway."""
GAUGES_OF_A_SET = len(_PATTERNS)


def draw_gauges(
    info: SolverInfo,
    limits: CouplingLimits,
    ends: NDArray[np.int64],
    j: NDArray[np.float64],
    colours: NDArray[np.int8],
    count: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int8]]:
    """``count`` gauges (spins,) that keep ``j`` (m,), already within the ranges, within them, in sets of four.

    Args:
        info: the solver.
        limits: the coupling groups of these couplings.
        ends: (m, 2) int64, positions of the ends of each coupling.
        j: (m,) float64, programmed couplings.
        colours: (spins,) int8, colour class 0..3 of each spin; no coupling joins two of one class.
        count: how many.
        rng: where the flips come from.
    """
    gauges = []
    for number in range(count):
        turn = number % GAUGES_OF_A_SET
        if turn == 0:
            base = rng.choice(np.array([-1, 1], dtype=np.int8), size=colours.size)
        gauges.append(_permitted(info, limits, ends, j, base * _PATTERNS[turn][colours]))
    return gauges


def _permitted(
    info: SolverInfo,
    limits: CouplingLimits,
    ends: NDArray[np.int64],
    j: NDArray[np.float64],
    gauge: NDArray[np.int8],
) -> NDArray[np.int8]:
    """``gauge``, in place, without the flips that would bring ``j`` out of its ranges."""
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
    return np.ones_like(gauge)
