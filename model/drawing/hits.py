"""Which voxels of a layer are hit: a Pareto sample (Rosén, J. Stat. Plan. Inference 62, 1997).

The hits are the voxels of largest e^logit · u/(1 − u), so that each is hit with nearly the probability of its logit
when these probabilities sum to the count, as those of a trained decoder do, which sees the count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.drawing.fast_math import exp
from qshower.model.drawing.inverse_transforms import threshold_of_largest
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

HIGHEST_LOGIT = np.float32(60.0)
_ONE = np.float32(1)


@kernel(error_model="numpy")
def draw_hits(
    logits: Floats,
    at: int,
    stride: int,
    angular: int,
    radial: int,
    uniforms: Floats,
    first: int,
    count: int,
    keys: Floats,
    hits: NDArray[np.int32],
) -> int:
    """Write the places of one layer's hits to ``hits`` (A · R,); their number, ``count`` but for equal keys.

    Args:
        logits: (·,) those of angle a stand from at + a · stride on.
        at: see ``logits``.
        stride: see ``logits``.
        angular: A, bins in angle.
        radial: R, bins in radius.
        uniforms: (·,) one for each voxel, from ``first`` on.
        first: see ``uniforms``.
        count: number of hits.
        keys: (A · R,) for intermediate values.
        hits: (≥ A · R,) places angle · R + ring, rising.
    """
    for angle in range(angular):
        for ring in range(radial):
            u = uniforms[first + angle * radial + ring]
            keys[angle * radial + ring] = exp(min(logits[at + angle * stride + ring], HIGHEST_LOGIT)) * u / (_ONE - u)
    lowest = threshold_of_largest(keys, count)
    found = 0
    for place in range(angular * radial):
        hits[found] = place
        found += keys[place] >= lowest
    return found
