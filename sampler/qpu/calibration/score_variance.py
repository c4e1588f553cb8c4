"""How much control errors move the reads of one programming together.

The score of a read is the slope g = Σ a σ(−r a), a = −2 s x, of its log pseudolikelihood, x the local fields in kT.
Errors of h and J are constant over one programming: spin i feels x_i + n_i. They move the scores of all reads of that
programming by Σ x_i (tanh(x_i + n_i) − tanh x_i), nought on average over programmings. To first order, and if the n_i
of different spins were independent, the variance of that is v c, with

    v = Σ x_i² w_i / c,    c = Σ x_i² (1 − tanh² x_i),

w_i the variance of what spin i's mean strays from −tanh x_i by, and c the score's own curvature a read. So the sum of n
scores of curvature C = n c has the variance C + v n C, from programming to programming. An error of J_ij moves the
scores of both its ends, in one direction if the coupling is weak: v is taken twice. It hardly depends on the machine's
strength, so that an amplified calibration tells how far the score of a draw may be off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.qpu.calibration.estimators import Estimate, slopes_and_curves
from qshower.sampler.qpu.calibration.scale import pulls_of
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads

_SIGMAS = 2.0
_LEAST_READS = 4
"""Fewer reads of a programming do not show how far its spins stray."""


def score_variance(parts: Sequence[PartReads], r: float) -> float | None:
    """v, in kT², from how far spins stray, or from the scores themselves if these say clearly that it is larger.

    Args:
        parts: reads of one calibration, each part with the same number of reads and of gauges.
        r: the scale at which they are likeliest.

    Returns:
        v, at least 0; None if each programming has too few reads to tell.
    """
    programming = gauge_of_reads(parts[0].spins.shape[0], parts[0].gauges)
    if np.bincount(programming).min() < _LEAST_READS:
        return None
    strayed = curvature = 0.0
    for part in parts:
        felt = part.factor * part.embedding.layout.local_fields(part.fields, part.spins)
        weights = np.square(felt).mean(axis=0)
        residuals = part.spins.astype(np.float64) + np.tanh(r * felt)
        strayed += float(weights @ _strayed(residuals, programming))
        curvature += float(weights @ (1.0 - np.tanh(r * felt) ** 2).mean(axis=0))
    by_spins = 2.0 * max(0.0, strayed) / max(curvature, 1e-12)
    by_scores = _by_scores(parts, r, programming)
    clear = by_scores is not None and by_scores.value - _SIGMAS * by_scores.error > by_spins
    return by_scores.value if by_scores is not None and clear else by_spins


def _strayed(residuals: NDArray[np.float64], programming: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) mean square over programmings of the means of ``residuals`` (reads, n), sampling variance taken off."""
    found = []
    for number in range(int(programming.max()) + 1):
        mine = residuals[programming == number]
        found.append(mine.mean(axis=0) ** 2 - mine.var(axis=0, ddof=1) / len(mine))
    strayed: NDArray[np.float64] = np.mean(found, axis=0)
    return strayed


def _by_scores(parts: Sequence[PartReads], r: float, programming: NDArray[np.int64]) -> Estimate | None:
    """v from how the scores of the programmings differ on each copy; None if there is but one of them."""
    sizes = np.bincount(programming)
    count = sizes.size
    if count < 2:
        return None
    between = within = weight = 0.0
    for part in parts:
        slopes, curves = slopes_and_curves(pulls_of(part), r)
        sums, squares = np.bincount(programming, slopes), np.bincount(programming, slopes**2)
        between += float(((sums - sizes * slopes.mean()) ** 2).sum()) * count / (count - 1)
        within += float((sizes / (sizes - 1) * (squares - sums**2 / sizes)).sum())
        weight += float((sizes * np.bincount(programming, curves)).sum())
    weight, freedom = max(weight, 1e-12), len(parts) * (count - 1)
    return Estimate((between - within) / weight, float(np.sqrt(2.0 / freedom)) * between / weight)
