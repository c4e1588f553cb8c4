"""Precision, recall, density and coverage: do samples lie where the reference lies, and everywhere it lies?

Showers are points of the space of log10 voxel energies, empty voxels at the threshold. The ball of a shower reaches to
its k-th nearest neighbour (k = 5) within its own set::

    precision = share of samples inside some reference ball     density  = balls per sample they lie in, / k
    recall    = share of references inside some sample ball      coverage = share of reference balls that hold a sample

Equal laws give a density near 1; the other three then depend on k and the dimension, so the floor of reference against
reference must stand beside them. Distances are worked out in blocks: memory grows with N, not with N². Sources:
arXiv:1904.06991 and arXiv:2002.09797.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError

NEIGHBOURS = 5
BLOCK_ROWS = 1024

Points = NDArray[np.float32]
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Prdc:
    """Precision, recall, density, coverage with their standard errors, from ``count`` showers of each set.

    Errors count showers as independent, which the shared balls make slightly optimistic.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precision_error: float
    recall_error: float
    density_error: float
    coverage_error: float
    count: int


def log_voxels(showers_mev: NDArray[np.float32], threshold_mev: float) -> Points:
    """(N, voxels) log10 of voxel energies over the threshold; 0 for all below it."""
    floor = np.float32(threshold_mev if threshold_mev > 0 else 1e-3)
    points = np.maximum(showers_mev, floor)
    points /= floor
    return np.log10(points, out=points)


def prdc(reference: Points, sample: Points, *, neighbours: int = NEIGHBOURS, progress: Progress | None = None) -> Prdc:
    """The four figures for two sets of points of equal width; the larger set is cut to the smaller's size.

    Raises:
        InvalidInputError: fewer than ``neighbours`` + 1 points in a set.
    """
    count = min(len(reference), len(sample))
    if count <= neighbours:
        raise InvalidInputError("showers", count, f"at least {neighbours + 1} in each set")
    x, y = reference[:count], sample[:count]
    x_norms, y_norms = (np.einsum("ij,ij->i", rows, rows) for rows in (x, y))

    def report(share: float) -> None:
        if progress is not None:
            progress(share)

    x_radii = _radii(x, x_norms, neighbours)
    report(0.3)
    y_radii = _radii(y, y_norms, neighbours)
    report(0.6)
    balls_of_sample = np.zeros(count, dtype=np.int64)
    recalled = np.zeros(count, dtype=bool)
    covered = np.zeros(count, dtype=bool)
    for start in range(0, count, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        squared = _squared(x[rows], x_norms[rows], y, y_norms)
        inside = squared < x_radii[rows, None]
        balls_of_sample += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (squared < y_radii[None, :]).any(axis=1)
    report(1.0)
    precise = balls_of_sample > 0
    density = balls_of_sample / neighbours
    return Prdc(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=float(density.mean()),
        coverage=float(covered.mean()),
        precision_error=_share_error(precise),
        recall_error=_share_error(recalled),
        density_error=float(density.std(ddof=1) / np.sqrt(count)),
        coverage_error=_share_error(covered),
        count=count,
    )


def _share_error(hits: NDArray[np.bool_]) -> float:
    share = (hits.sum() + 1) / (len(hits) + 2)
    return float(np.sqrt(share * (1 - share) / len(hits)))


def _squared(x: Points, x_norms: Points, y: Points, y_norms: Points) -> Points:
    squared = x @ y.T
    squared *= -2
    squared += x_norms[:, None]
    squared += y_norms[None, :]
    return squared


def _radii(points: Points, norms: Points, neighbours: int) -> Points:
    """(N,) squared distance of each point to its k-th nearest other point."""
    radii = np.empty(len(points), dtype=np.float32)
    for start in range(0, len(points), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(points))
        squared = _squared(points[start:stop], norms[start:stop], points, norms)
        squared[np.arange(stop - start), np.arange(start, stop)] = np.inf
        radii[start:stop] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii
