"""Whether programmed values are within a solver's ranges, and the factor that would bring them there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import ProblemRangeError
from qshower.sampler.qpu.ocean.solver import Range, SolverInfo
from qshower.sampler.qpu.qpu_settings import QpuSettings

_ROOM = 1e-9
"""Relative room left to a limit when values are brought within it: a solver adds up in an order of its own, and grants
nothing. What is beyond by no more than this is not worth a word."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class CouplingLimits:
    """The limits on J that belong to one layout: which of its couplings add up in which group.

    Attributes:
        info: the solver whose limits they are.
        group: (entries,) int64, group of each entry, 0..groups − 1.
        coupling: (entries,) int64, position of the coupling in the layout.
        groups: number of groups.
    """

    info: SolverInfo
    group: NDArray[np.int64]
    coupling: NDArray[np.int64]
    groups: int

    @classmethod
    def of(cls, info: SolverInfo, pairs: NDArray[np.int64]) -> CouplingLimits:
        """The groups that the couplers ``pairs`` (m, 2) of qubits belong to."""
        count = info.graph.label_count
        keys = info.graph.couplers[:, 0] * count + info.graph.couplers[:, 1]
        order = np.argsort(keys)
        wanted = pairs.min(axis=1) * count + pairs.max(axis=1)
        coupler = order[np.searchsorted(keys, wanted, sorter=order)]
        position = np.full(len(keys), -1, dtype=np.int64)
        position[coupler] = np.arange(len(pairs))
        entry = position[info.groups[:, 1]]
        kept = entry >= 0
        used, group = np.unique(info.groups[kept, 0], return_inverse=True)
        return cls(info, group.astype(np.int64), entry[kept], int(used.size))

    def sums(self, j: NDArray[np.float64]) -> NDArray[np.float64]:
        """(groups,) sums of the couplings ``j`` (m,)."""
        sums: NDArray[np.float64] = np.zeros(self.groups)
        np.add.at(sums, self.group, j[self.coupling])
        return sums


def fitting_factor(limits: CouplingLimits, h: NDArray[np.float64], j: NDArray[np.float64]) -> tuple[float, str]:
    """Largest factor up to 1 that brings (h, J), in programmed units, into every range, and what is outside.

    The second value is empty if nothing is, by more than rounding explains.
    """
    info, outside, factor = limits.info, [], 1.0
    checks: list[tuple[str, NDArray[np.float64], Range, float]] = [
        ("h", h, info.h_range, 0.0),
        ("J", j, info.j_range, 0.0),
    ]
    if info.sum_range is not None:
        checks.append(("sums of J", limits.sums(j), info.sum_range, _ROUNDING))
    for name, values, (low, high), rounding in checks:
        with np.errstate(divide="ignore"):
            fits = np.where(values > 0, high / values, low / np.where(values == 0, -1e-300, values))
        if (fits < 1.0 + rounding).any():
            factor = min(factor, float(fits.min()) * (1.0 - _ROOM))
        beyond = fits < 1.0 - _ROOM
        if beyond.any():
            outside.append(f"{int(beyond.sum())} of {values.size} {name} outside [{low:g}, {high:g}]")
    return factor, ", ".join(outside)


def widest_beta(limits: CouplingLimits, h: NDArray[np.float64], j: NDArray[np.float64]) -> float:
    """Smallest beta_eff at which (h, J)/beta_eff, for h and J in kT, is within every range."""
    return 1e-6 / fitting_factor(limits, 1e6 * h, 1e6 * j)[0]


def checked_factor(
    limits: CouplingLimits, h: NDArray[np.float64], j: NDArray[np.float64], beta: float, settings: QpuSettings
) -> tuple[float, str | None]:
    """The factor to apply to (h, J)/beta, and a note if it differs from 1 by more than rounding.

    Raises:
        ProblemRangeError: the settings' ``range_policy`` is to refuse, or the factor is below their ``min_rescale``, or
            a value is not finite.
    """
    if not (np.isfinite(h).all() and np.isfinite(j).all()):
        raise ProblemRangeError("h or J to be programmed is not finite")
    factor, outside = fitting_factor(limits, h, j)
    if not outside:
        return factor, None
    message = f"at beta_eff = {beta:.4g} on {limits.info.name}: {outside}"
    if settings.range_policy == "refuse":
        raise ProblemRangeError(f"(h, J)/beta_eff leaves the solver's ranges {message}")
    if factor < settings.min_rescale:
        raise ProblemRangeError(
            f"(h, J)/beta_eff leaves the solver's ranges {message}; they would fit scaled by {factor:.3f}, "
            f"less than the {settings.min_rescale:g} allowed"
        )
    return factor, f"(h, J) scaled by {factor:.3f}, so drawn {1 / factor:.3f} times hotter before refinement, {message}"
