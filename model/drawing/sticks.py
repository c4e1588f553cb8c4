"""The energies of a layer's hits as a broken stick: what is drawn of each hit, and what its law sees.

See ``model.depth_decoder``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import STICK_VALUES
from qshower.model.drawing.fast_math import log, sine
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

_f = np.float32
_ONE = np.float32(1)
LEAST_EXCESS_MEV = 1e-6
"""Of a hit above the threshold, so that every hit has a share of the stick."""
LIMIT = 12.0
"""Of the broken stick's coordinate."""
SHARE_RANGE = (-8.0, 3.0)


@kernel(error_model="numpy")
def stick_values(
    rest: float,
    mean: float,
    left: int,
    sums: tuple[float, float, float],
    in_ring: int,
    cos: np.float32,
    sin: np.float32,
    logs: Floats,
    seen: Floats,
    at: int,
) -> None:
    """Write to ``seen`` (·,) from ``at`` on what the law of a hit's energy sees of the energy drawn so far.

    ``rest`` (MeV) is shared by ``left`` hits, ``mean`` (MeV) was the layer's share of each; ``in_ring`` hits are left
    in the ring; ``sums`` are those of r cos, r sin and r over the hits so far, weighted by energy; ``cos`` and
    ``sin`` are those of the hit's angle; ``logs`` are ``logarithms``.
    """
    east, north, out = _f(sums[0]), _f(sums[1]), sums[2]
    share = log(_f(max(rest, 1e-9) / (left * mean)))
    seen[at] = min(max(share, _f(SHARE_RANGE[0])), _f(SHARE_RANGE[1]))
    seen[at + 1] = logs[left] - _f(2)
    seen[at + 2] = east * cos + north * sin
    seen[at + 3] = north * cos - east * sin
    seen[at + 4] = _f(out)
    seen[at + 5] = logs[in_ring]
    seen[at + 6] = _ONE / _f(left)


@kernel(error_model="numpy")
def logarithms(most: int) -> Floats:
    """(most + 1,) natural logarithms of 1 ... ``most`` at their places, and 0 at 0."""
    found = np.zeros(most + 1, dtype=np.float32)
    for n in range(1, most + 1):
        found[n] = log(_f(n))
    return found


@kernel(error_model="numpy")
def _broken(showers: Floats, threshold: np.float32, waves: Floats) -> tuple[Places, Places, Places, Floats, Floats]:
    rows, layers, angular, radial = showers.shape
    total = np.count_nonzero(showers > 0)
    layer_of, angle_of = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    ring_of = np.empty(total, dtype=np.int64)
    seen, broken = np.empty((total, STICK_VALUES), dtype=np.float32), np.empty(total, dtype=np.float32)
    flat_seen, logs = seen.reshape(-1), logarithms(angular * radial)
    found = 0
    for row in range(rows):
        for layer in range(layers):
            rest = 0.0
            left = 0
            for angle in range(angular):
                for ring in range(radial):
                    if showers[row, layer, angle, ring] > 0:
                        rest += max(float(showers[row, layer, angle, ring] - threshold), LEAST_EXCESS_MEV)
                        left += 1
            if left < 2:
                continue
            whole, mean, east, north, out = rest, rest / left, 0.0, 0.0, 0.0
            for ring in range(radial):
                in_ring = 0
                for angle in range(angular):
                    in_ring += showers[row, layer, angle, ring] > 0
                for angle in range(angular):
                    if showers[row, layer, angle, ring] <= 0 or left < 2:
                        continue
                    value = max(float(showers[row, layer, angle, ring] - threshold), LEAST_EXCESS_MEV)
                    cos, sin = waves[angle, 1], waves[angle, 2]
                    stick_values(
                        rest, mean, left, (east, north, out), in_ring, cos, sin, logs, flat_seen, STICK_VALUES * found
                    )
                    share = min(max(value / rest, 1e-6), 1 - 1e-6)
                    broken[found] = min(max(math.log(share / (1 - share)) + math.log(left - 1.0), -LIMIT), LIMIT)
                    layer_of[found], angle_of[found], ring_of[found] = row * layers + layer, angle, ring
                    arm = value / whole * (ring + 0.5)
                    east += arm * float(waves[angle, 1])
                    north += arm * float(waves[angle, 2])
                    out += arm
                    rest -= value
                    left -= 1
                    in_ring -= 1
                    found += 1
    return layer_of[:found], angle_of[:found], ring_of[:found], seen[:found], broken[:found]


def broken_stick(showers: Floats, threshold_mev: np.float32) -> tuple[Places, Places, Places, Floats, Floats]:
    """Showers (rows, L, A, R) in MeV as broken sticks.

    Of each hit but the last of its layer, in the order of drawing: row * L + layer, angle, ring, what its law sees
    (hits, 7), and the coordinate that is drawn (hits,).
    """
    waves = angular_waves(showers.shape[2])
    found: tuple[Places, Places, Places, Floats, Floats] = _broken(np.ascontiguousarray(showers), threshold_mev, waves)
    return found


@kernel(error_model="numpy")
def angular_waves(angular: int) -> Floats:
    """(A, 5): 1, cos a, sin a, cos 2a, sin 2a at the centres of the angular bins."""
    waves = np.empty((angular, 5), dtype=np.float32)
    for angle in range(angular):
        half_turns = 2.0 * angle / angular
        waves[angle, 0] = _ONE
        for order in range(1, 3):
            waves[angle, 2 * order - 1] = _f(sine(order * half_turns + 0.5))
            waves[angle, 2 * order] = _f(sine(order * half_turns))
    return waves
