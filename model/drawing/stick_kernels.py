"""Compiled draws of the energies of a layer's hits (``model.depth_decoder``): the sticks of all rows side by side.

Each hit of a row waits for the one before it, so that the rows are what is done together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import STICK_VALUES
from qshower.model.drawing.fast_math import exp, hardswish
from qshower.model.drawing.inverse_transforms import mixture_values, put_law
from qshower.model.drawing.products import LANES, add_products, in_tiles
from qshower.model.drawing.sticks import LIMIT, stick_values
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]
Places = NDArray[np.int32]

_f = np.float32


class StickWeights(NamedTuple):
    """Of a ``DepthDecoder``, its last axes filled with 0 to whole panels; W hit channels, R rings.

    ``stick`` and ``law`` in panels; ``of_ring`` (R, W), ``law_bias`` (R, 3K); ``waves`` (A, 5).
    """

    stick: Floats
    law: Floats
    of_ring: Floats
    law_bias: Floats
    waves: Floats


class Sticks(NamedTuple):
    """Buffers of the sticks that are broken side by side: of each row, and of each row's present hit, in tiles."""

    rest: NDArray[np.float64]
    mean: NDArray[np.float64]
    whole: NDArray[np.float64]
    sums: NDArray[np.float64]
    in_ring: NDArray[np.int64]
    which: NDArray[np.int64]
    logs: Floats
    seen: Floats
    hidden: Floats
    law: Floats
    laws: Floats
    chosen: Floats
    drawn: Floats


@kernel(error_model="numpy")
def break_sticks(
    hits: Places,
    found: NDArray[np.int64],
    busy: int,
    firsts: NDArray[np.int64],
    uniforms: Floats,
    threshold: np.float32,
    weights: StickWeights,
    own_codes: Floats,
    sticks: Sticks,
    values: Floats,
) -> None:
    """Fill ``values`` (busy, A · R) with the energies of the hits, in their order.

    ``hits`` (busy, A · R) are places ring · A + angle, of which the first ``found`` (busy,) of each row count; the
    uniforms of row i stand from ``firsts[i]`` on, by angle and ring; ``sticks.rest`` is what the hits of a row share.
    """
    angular, radial = weights.waves.shape[0], weights.of_ring.shape[0]
    voxels, width = angular * radial, weights.of_ring.shape[1]
    last = 0
    for own in range(busy):
        last = max(last, found[own])
        sticks.whole[own] = sticks.rest[own]
        sticks.mean[own] = sticks.rest[own] / max(found[own], 1)
        sticks.sums[own, 0] = sticks.sums[own, 1] = sticks.sums[own, 2] = 0.0
        for ring in range(radial):
            sticks.in_ring[own, ring] = 0
        for hit in range(found[own]):
            sticks.in_ring[own, hits[own * voxels + hit] // angular] += 1
    for step in range(last):
        several = 0
        for own in range(busy):
            left = found[own] - step
            if left == 1:
                values[own * voxels + step] = threshold + _f(sticks.rest[own])
            if left < 2:
                continue
            place = hits[own * voxels + step]
            ring, angle = place // angular, place % angular
            sums = (sticks.sums[own, 0], sticks.sums[own, 1], sticks.sums[own, 2])
            stick_values(
                sticks.rest[own],
                sticks.mean[own],
                left,
                sums,
                sticks.in_ring[own, ring],
                weights.waves[angle, 1],
                weights.waves[angle, 2],
                sticks.logs,
                sticks.seen,
                several * STICK_VALUES,
            )
            code = (own * angular + angle) * width
            for w in range(width):
                sticks.hidden[several * width + w] = own_codes[code + w] + weights.of_ring[ring, w]
            for k in range(LANES):
                sticks.law[several * LANES + k] = weights.law_bias[ring, k]
            sticks.chosen[several] = uniforms[firsts[own] + angle * radial + ring]
            sticks.which[several] = own
            several += 1
        if several == 0:
            continue
        tiled = in_tiles(several)
        add_products(sticks.seen, 0, STICK_VALUES, tiled, weights.stick, sticks.hidden, 0, width, sticks.hidden, 0)
        for i in range(several * width):
            sticks.hidden[i] = hardswish(sticks.hidden[i])
        add_products(sticks.hidden, 0, width, tiled, weights.law, sticks.law, 0, LANES, sticks.law, 0)
        for i in range(several):
            put_law(sticks.law, i * LANES, sticks.laws, i)
        mixture_values(sticks.laws, sticks.chosen, sticks.drawn, several)
        for i in range(several):
            own = sticks.which[i]
            place = hits[own * voxels + step]
            ring, angle = place // angular, place % angular
            bounded = min(max(float(sticks.drawn[i]), -LIMIT), LIMIT)
            coordinate = bounded - float(sticks.logs[found[own] - step - 1])
            value = sticks.rest[own] / (1.0 + float(exp(_f(-coordinate))))
            values[own * voxels + step] = threshold + _f(value)
            arm = value / sticks.whole[own] * (ring + 0.5)
            sticks.sums[own, 0] += arm * float(weights.waves[angle, 1])
            sticks.sums[own, 1] += arm * float(weights.waves[angle, 2])
            sticks.sums[own, 2] += arm
            sticks.rest[own] = max(sticks.rest[own] - value, 0.0)
            sticks.in_ring[own, ring] -= 1
