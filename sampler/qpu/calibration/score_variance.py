"""How much control errors move the reads of one programming together.

The score of a read is the slope g = Σ a σ(−r a), a = −2 s x, of its log pseudolikelihood, x the local fields in kT.
Errors of h and J are constant over one programming: spin i feels x_i + n_i. They move the scores of all reads of that
programming by Σ x_i (tanh(x_i + n_i) − tanh x_i), nought on average over programmings, and of variance v c to first
order, with c = Σ x_i² (1 − tanh² x_i) the score's own curvature a read, and v the variance of n, weighted by how much
each spin counts. So the sum of n scores of curvature C = n c has the variance C + v n C, from programming to
programming. v hardly depends on the machine's strength, so that an amplified calibration tells how far the score of a
draw may be off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qshower.sampler.qpu.calibration.estimators import Estimate, slopes_and_curves
from qshower.sampler.qpu.calibration.scale import pulls_of
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads


def score_variance(parts: Sequence[PartReads], r: float, gauges: int) -> Estimate | None:
    """v, in kT², from how the scores of the programmings differ on each copy; None if there is but one of them.

    Args:
        parts: reads of one calibration, each part with the same number of reads, drawn in ``gauges``.
        r: the scale at which they are likeliest.
        gauges: programmings that the reads of each part are shared out over.
    """
    reads = parts[0].spins.shape[0]
    programming = gauge_of_reads(reads, gauges)
    sizes = np.bincount(programming)
    count = sizes.size
    if count < 2:
        return None
    between = within = weight = 0.0
    for part in parts:
        slopes, curves = slopes_and_curves(pulls_of(part), r)
        sums, squares = np.bincount(programming, slopes), np.bincount(programming, slopes**2)
        between += float(((sums - sizes * slopes.mean()) ** 2).sum()) * count / (count - 1)
        within += float((sizes / np.maximum(sizes - 1, 1) * (squares - sums**2 / sizes)).sum())
        weight += float((sizes * np.bincount(programming, curves)).sum())
    weight, freedom = max(weight, 1e-12), len(parts) * (count - 1)
    return Estimate((between - within) / weight, float(np.sqrt(2.0 / freedom)) * between / weight)
