"""Coupler shims: making up for each coupler's own offset, which is there whatever J is programmed.

All couplers at once: the whole graph is programmed with h = 0 and J_ij = ±j0 at random, j0 small, several times, every
coupler as often with + as with −. In each programming the effective coupling K_ij (kT) of every pair is found by
regression: given its neighbours, a spin follows P(s_i | s) ∝ exp(−s_i (a_i + Σ_j K_ij s_j)), whatever the rest of the
graph does, so indirect paths between i and j do not blur K_ij as they blur a correlation. The slope of K on the
programmed J is the chip's β, and the mean of K_ij over programmings, divided by β, is what the coupler is off by. It is
known to within noise only, so that part of it is made up for which the offsets' spread has of the spread seen.

Source of the regression: Ravikumar, Wainwright and Lafferty, High-Dimensional Ising Model Selection Using
l1-Regularized Logistic Regression, Annals of Statistics 38, 1287 (2010), arXiv:1010.0311, here without the penalty, as
the graph is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, SamplerAnswerError
from qshower.sampler.qpu.embedding.ranges import CouplingLimits
from qshower.sampler.qpu.ocean.problems import Problem
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.session import QpuSession

_PROBE_J = 0.03
"""Weak enough for the graph to stay far from freezing at any beta_eff seen, strong enough to tell beta_eff."""
_PAIRS_OF_PROBES = 4
_CHECKS = 2
COUPLER_PROGRAMMINGS = 2 * _PAIRS_OF_PROBES + _CHECKS
_NEWTON_STEPS = 3
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class CouplerOffsets:
    """What every coupler of a graph is off by.

    Attributes:
        offsets: what each coupler is taken to be off by, in programmed units, in the order of the couplers' labels.
        beta: effective inverse temperature seen on the way, in 1/(programmed unit).
        before: root mean square offset, in programmed units, its own error taken off.
        after: the same with the offsets made up for.
        reads: reads behind it.
        measured_at: UTC, ISO 8601.
    """

    offsets: list[float]
    beta: float
    before: float
    after: float
    reads: int
    measured_at: str

    def of_pairs(self, info: SolverInfo, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m,) offsets of the couplers ``pairs`` (m, 2) of qubits.

        Raises:
            InvalidInputError: there are not as many offsets as the graph has couplers.
        """
        keys = np.sort(_keys(info, info.graph.couplers))
        if keys.size != len(self.offsets):
            raise DefectError(
                "coupler offsets", f"{len(self.offsets)} kept", f"{keys.size}, one for each coupler of {info.name}"
            )
        values: NDArray[np.float64] = np.array(self.offsets)[np.searchsorted(keys, _keys(info, pairs))]
        return values


def measure_couplers(
    session: QpuSession,
    annealing_time_us: float,
    reads: int,
    flux_phi0: NDArray[np.float64] | None,
    measured_at: str,
) -> CouplerOffsets:
    """Measure the offsets of all couplers: eight programmings of ``reads`` reads, and two that measure what is left.

    Args:
        session: on what, and at whose expense.
        annealing_time_us: anneal time.
        reads: reads of each programming; below some 50 for each coupler of a qubit offsets drown in noise.
        flux_phi0: (nominal qubits,) flux biases that make up for the qubits' own offsets, or None.
        measured_at: UTC, ISO 8601.

    Returns:
        What every coupler is off by, and how much of that is left once it is made up for.

    Raises:
        SamplerAnswerError: the couplers do not respond.
    """
    info = session.solver
    qubits = info.graph.qubits
    couplers = info.graph.couplers[np.argsort(_keys(info, info.graph.couplers))]
    ends = np.searchsorted(qubits, couplers)
    limits = CouplingLimits.of(info, couplers)

    def problem(j: NDArray[np.float64]) -> Problem:
        return Problem(qubits, np.zeros(qubits.size), ends, j, reads, annealing_time_us, flux_phi0)

    signs = session.rng.choice(np.array([-1.0, 1.0]), size=(_PAIRS_OF_PROBES, len(couplers)))
    nothing = np.zeros(len(couplers))
    probes = np.stack([permitted(limits, nothing, _PROBE_J * j) for j in np.concatenate([signs, -signs])])
    answers = session.run([problem(permitted(limits, np.zeros(len(j)), j)) for j in probes])
    found = np.stack([fitted_couplings(answer.spins, ends) for answer in answers])
    beta = float((found * probes).sum() / np.square(probes).sum())
    if not beta > 0:
        raise SamplerAnswerError(
            f"the couplers of {info.name} do not respond to J", problem_ids=tuple(session.usage.problem_ids)
        )
    off = found / beta - probes
    offsets = off.mean(axis=0)
    seen = float(np.square(offsets).mean())
    own = max(0.0, seen - float(off.var(axis=0, ddof=1).mean()) / len(probes))
    offsets *= own / seen
    left = permitted(limits, nothing, -offsets)
    answers = session.run([problem(left)] * _CHECKS)
    one, other = (fitted_couplings(answer.spins, ends) / beta for answer in answers)
    return CouplerOffsets(
        offsets=offsets.round(6).tolist(),
        beta=beta,
        before=_root(own),
        # Two independent looks at the same rest: what differs between them is noise and drops out.
        after=_root(float((one * other).mean())),
        reads=reads * (len(probes) + _CHECKS),
        measured_at=measured_at,
    )


def fitted_couplings(spins: NDArray[np.int8], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) K_ij in kT of each pair ``ends`` (m, 2) from ``spins`` (reads, n): the mean of what its two spins tell.

    Each spin's pseudolikelihood is maximised on its own by Newton's method, with a field beside the couplings.

    Returns:
        (m,) couplings, in kT.
    """
    reads, count = spins.shape
    states = np.asfortranarray(spins, dtype=np.float32)
    both, pair = np.concatenate([ends, ends[:, ::-1]]), np.tile(np.arange(len(ends)), 2)
    order = np.argsort(both[:, 0], kind="stable")
    starts = np.searchsorted(both[order, 0], np.arange(count + 1))
    couplings = np.zeros(len(ends))
    for spin in range(count):
        mine = order[starts[spin] : starts[spin + 1]]
        if mine.size == 0:
            continue
        felt = np.concatenate([np.ones((reads, 1), dtype=np.float32), states[:, both[mine, 1]]], axis=1)
        weights = np.zeros(mine.size + 1, dtype=np.float32)
        for _ in range(_NEWTON_STEPS):
            pushed = np.tanh(felt @ weights)
            slope = felt.T @ (states[:, spin] + pushed)
            curve = (felt * (1.0 - pushed**2)[:, None]).T @ felt
            curve[np.diag_indices_from(curve)] += _RIDGE * reads
            weights = weights - np.linalg.solve(curve, slope)
        couplings[pair[mine]] += weights[1:] / 2.0
    return couplings


def permitted(limits: CouplingLimits, j: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """``j`` + ``change`` (m,) but where that would leave a range in which ``j`` alone is: there ``j`` stays."""
    info = limits.info
    low, high = info.j_range
    changed = np.where((j + change < low) | (j + change > high), j, j + change)
    if info.sum_range is not None:
        while True:
            sums = limits.sums(changed)
            over = np.flatnonzero((sums < info.sum_range[0]) | (sums > info.sum_range[1]))
            touched = limits.coupling[np.isin(limits.group, over)]
            if not over.size or np.array_equal(changed[touched], j[touched]):
                break
            changed[touched] = j[touched]
    return changed


def _keys(info: SolverInfo, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = pairs.min(axis=1) * info.graph.label_count + pairs.max(axis=1)
    return keys


def _root(square: float) -> float:
    return float(np.sqrt(max(0.0, square)))
