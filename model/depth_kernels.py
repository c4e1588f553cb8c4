"""Compiled loops of ``model.depth_decoder``: voxels drawn layer by layer, and showers read as broken sticks.

A row's showers depend on its own numbers alone, by the same operations in any batch. The window of a field is applied
as a sum over hits, which are few; the laws are those of ``DepthDecoder.log_likelihood``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.fast_math import exp, log, normal_quantile, scale
from qshower.model.inverse_transforms import HIGHEST_LOGIT, LOWEST_UNIFORM, threshold_of_largest
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

_f = np.float32
_ONE = np.float32(1)
VOXEL_COMPONENTS = 3
VECTOR = 16
LEAST_EXCESS_MEV = 1e-6
"""Of a hit above the threshold, so that every hit has a share of the stick."""
LIMIT = 12.0
"""Of the broken stick's coordinate."""
SHARE_RANGE = (-8.0, 3.0)
FORGET = np.float32(0.25)
FIELD_UNIT, FIELD_SCALE = np.float32(0.25), np.float32(5)


class Weights(NamedTuple):
    """Parameters of a ``DepthDecoder``'s voxels; C channels, W hit channels, R rings, 3K outputs of a law.

    The last axes of ``hit``, ``hit_bias``, ``law`` and ``law_bias`` are padded with 0 to whole vectors.
    ``window`` (R, bins, 3 C), ``harmonics`` (R, 3, 3 C), ``waves`` (A, 5), ``mix`` (C, W), ``mix_bias`` (W,), ``hit``
    (W, R), ``hit_bias`` (L, R), ``energy`` (W, W), ``energy_bias`` (L, W), ``near`` (3, R, W), ``rings`` (R, W),
    ``ring`` (R, W), ``stick`` (7, W), ``law`` (W, 3K), ``law_bias`` (R, 3K).
    """

    window: Floats
    harmonics: Floats
    waves: Floats
    mix: Floats
    mix_bias: Floats
    hit: Floats
    hit_bias: Floats
    energy: Floats
    energy_bias: Floats
    near: Floats
    rings: Floats
    ring: Floats
    stick: Floats
    law: Floats
    law_bias: Floats


@kernel(error_model="numpy")
def _hardswish(values: Floats) -> None:
    for i in range(values.shape[0]):
        x = values[i]
        values[i] = x * min(max(x + _f(3), _f(0)), _f(6)) * _f(1 / 6)


@kernel(error_model="numpy", fastmath={"contract"})
def _add(values: Floats, weight: Floats, outputs: Floats) -> None:
    """outputs (o,) += values (i,) @ weight (i, o)."""
    inputs = values.shape[0]
    whole = inputs - inputs % 4
    for i in range(0, whole, 4):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        for o in range(outputs.shape[0]):
            outputs[o] += (a * weight[i, o] + b * weight[i + 1, o]) + (c * weight[i + 2, o] + d * weight[i + 3, o])
    for i in range(whole, inputs):
        a = values[i]
        for o in range(outputs.shape[0]):
            outputs[o] += a * weight[i, o]


@kernel(error_model="numpy")
def _mixture(law: Floats, uniform: np.float32) -> np.float32:
    """One draw from a mixture with raw outputs (3K, and padding), as ``draws.mixture_values``."""
    components = VOXEL_COMPONENTS
    highest = law[0]
    for k in range(1, components):
        highest = max(highest, law[k])
    whole = _f(0)
    for k in range(components):
        whole += exp(law[k] - highest)
    left, below, chosen = whole * uniform, _f(0), 0
    weight = exp(law[0] - highest)
    for k in range(1, components):
        if left >= below + weight:
            below += weight
            chosen = k
            weight = exp(law[k] - highest)
        else:
            break
    within = min(max((left - below) / weight, LOWEST_UNIFORM), _ONE - LOWEST_UNIFORM)
    return _f(law[components + chosen] + scale(law[2 * components + chosen]) * normal_quantile(within))


@kernel(error_model="numpy")
def _stick_values(
    rest: float, mean: float, left: int, east: float, north: float, out: float, in_ring: int, wave: Floats, seen: Floats
) -> None:
    """What the law of a hit's energy sees of the energy drawn so far; ``wave`` (5,) at the hit's angle.

    ``rest`` (MeV) is shared by ``left`` hits, ``mean`` (MeV) was the layer's share of each; ``in_ring`` hits are left
    in the ring; (``east``, ``north``) and ``out`` are the sums of r (cos, sin) and r over the hits so far, weighted by
    energy.
    """
    share = log(_f(max(rest, 1e-9) / (left * mean)))
    seen[0] = min(max(share, _f(SHARE_RANGE[0])), _f(SHARE_RANGE[1]))
    seen[1] = log(_f(left)) - _f(2)
    seen[2] = _f(east) * wave[1] + _f(north) * wave[2]
    seen[3] = _f(north) * wave[1] - _f(east) * wave[2]
    seen[4] = _f(out)
    seen[5] = log(_f(in_ring))
    seen[6] = _ONE / _f(left)


@kernel(error_model="numpy")
def _broken(
    showers: Floats, threshold: np.float32, waves: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    rows, layers, angular, radial = showers.shape
    total = np.count_nonzero(showers > 0)
    layer_of, angle_of = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    ring_of = np.empty(total, dtype=np.int64)
    seen, broken = np.empty((total, 7), dtype=np.float32), np.empty(total, dtype=np.float32)
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
                    _stick_values(rest, mean, left, east, north, out, in_ring, waves[angle], seen[found])
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


def broken_stick(
    showers: Floats, threshold_mev: np.float32
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Showers (rows, L, A, R) in MeV as broken sticks.

    Of each hit but the last of its layer, in the order of drawing: row * L + layer, angle, ring, what its law sees
    (hits, 7), and the coordinate that is drawn (hits,).
    """
    waves = angular_waves(showers.shape[2])
    found: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Floats, Floats] = _broken(
        np.ascontiguousarray(showers), threshold_mev, waves
    )
    return found


def angular_waves(angular: int) -> Floats:
    """(A, 5): 1, cos a, sin a, cos 2a, sin 2a at the centres of the angular bins."""
    angle = 2 * np.pi * np.arange(angular) / angular
    waves = [np.ones(angular), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    return np.stack(waves, axis=1).astype(np.float32)


@kernel(error_model="numpy")
def _hit_layer(
    code: Floats, weight: Floats, bias: Floats, uniforms: Floats, count: int, keys: Floats, hit: NDArray[np.bool_]
) -> int:
    """Fill ``hit`` (A, R) by Pareto sampling; the number of hits, ``count`` but for equal keys."""
    angular, radial = hit.shape
    logits = np.empty(weight.shape[1], dtype=np.float32)
    for angle in range(angular):
        logits[:] = bias
        _add(code[angle], weight, logits)
        for ring in range(radial):
            u = uniforms[angle * radial + ring]
            keys[angle * radial + ring] = exp(min(logits[ring], HIGHEST_LOGIT)) * u / (_ONE - u)
    lowest = threshold_of_largest(keys, count)
    hits = 0
    for angle in range(angular):
        for ring in range(radial):
            hit[angle, ring] = keys[angle * radial + ring] >= lowest
            hits += hit[angle, ring]
    return hits


@kernel(error_model="numpy")
def _break_layer(
    code: Floats,
    base: Floats,
    hit: NDArray[np.bool_],
    hits: int,
    energy: float,
    uniforms: Floats,
    weights: Weights,
    threshold: np.float32,
    voxels: Floats,
) -> None:
    """Fill ``voxels`` (A, R), MeV, of one layer; ``base`` (W,) is the part of the code that all angles share."""
    angular, radial = hit.shape
    width = base.shape[0]
    own = np.empty((angular, width), dtype=np.float32)
    for ring in range(radial):
        in_ring = 0
        for angle in range(angular):
            in_ring += hit[angle, ring]
        filled = log(_ONE + _f(in_ring))
        for w in range(width):
            base[w] += filled * weights.rings[ring, w]
    for angle in range(angular):
        own[angle] = base
        _add(code[angle], weights.energy, own[angle])
        for offset in range(3):
            near = (angle + offset - 1) % angular
            for ring in range(radial):
                if hit[near, ring]:
                    for w in range(width):
                        own[angle, w] += weights.near[offset, ring, w]
    hidden, law = np.empty(width, dtype=np.float32), np.empty(weights.law.shape[1], dtype=np.float32)
    seen = np.empty(7, dtype=np.float32)
    whole = max(energy - hits * float(threshold), hits * LEAST_EXCESS_MEV)
    rest, left, mean, east, north, out = whole, hits, whole / hits, 0.0, 0.0, 0.0
    for ring in range(radial):
        in_ring = 0
        for angle in range(angular):
            in_ring += hit[angle, ring]
        for angle in range(angular):
            if not hit[angle, ring]:
                continue
            value: float = rest
            if left > 1:
                _stick_values(rest, mean, left, east, north, out, in_ring, weights.waves[angle], seen)
                for w in range(width):
                    hidden[w] = own[angle, w] + weights.ring[ring, w]
                _add(seen, weights.stick, hidden)
                _hardswish(hidden)
                law[:] = weights.law_bias[ring]
                _add(hidden, weights.law, law)
                drawn = _mixture(law, uniforms[angle * radial + ring])
                coordinate = min(max(float(drawn), -LIMIT), LIMIT) - float(log(_f(left - 1)))
                value = rest / (1.0 + float(exp(_f(-coordinate))))
            voxels[angle, ring] = threshold + _f(value)
            arm = value / whole * (ring + 0.5)
            east += arm * float(weights.waves[angle, 1])
            north += arm * float(weights.waves[angle, 2])
            out += arm
            rest = max(rest - value, 0.0)
            left -= 1
            in_ring -= 1


@kernel(error_model="numpy", fastmath={"contract"})
def _fields_of(voxels: Floats, hit: NDArray[np.bool_], weights: Weights, fields: Floats) -> None:
    """Add to ``fields`` (A, 3 C) what the hits of one layer give to later ones."""
    angular, radial = hit.shape
    reach = weights.window.shape[1] // 2
    wave = np.empty(5, dtype=np.float32)
    amplitude = np.zeros((5, fields.shape[1]), dtype=np.float32)
    for ring in range(radial):
        wave[:] = 0
        for angle in range(angular):
            if not hit[angle, ring]:
                continue
            light = log(_ONE + voxels[angle, ring] * FIELD_SCALE) * FIELD_UNIT
            for k in range(5):
                wave[k] += light * weights.waves[angle, k]
            for offset in range(2 * reach + 1):
                seen_by = (angle + reach - offset) % angular
                for c in range(fields.shape[1]):
                    fields[seen_by, c] += light * weights.window[ring, offset, c]
        if wave[0] == 0:
            continue
        for k in range(5):
            order = (k + 1) // 2
            for c in range(fields.shape[1]):
                amplitude[k, c] += wave[k] * weights.harmonics[ring, order, c]
    for angle in range(angular):
        for k in range(5):
            height = weights.waves[angle, k]
            for c in range(fields.shape[1]):
                fields[angle, c] += height * amplitude[k, c]


@kernel(error_model="numpy")
def draw_voxels(
    rings: Floats,
    counts: Floats,
    energies: Floats,
    uniforms: Floats,
    start: int,
    weights: Weights,
    threshold: np.float32,
) -> Floats:
    """Voxel energies (rows, L, A, R) in MeV: ``counts`` hits of each layer that sum to ``energies``, (rows, L) each.

    ``rings`` (rows, L, A, C); the numbers of ``uniforms`` (rows, .) from ``start`` on are used, (L, A, R) for hits and
    as many for energies.
    """
    rows, layers, angular, channels = rings.shape
    radial, width = weights.ring.shape[0], weights.hit.shape[0]
    voxels = angular * radial
    showers = np.zeros((rows, layers, angular, radial), dtype=np.float32)
    keys = np.empty(voxels, dtype=np.float32)
    hit = np.zeros((angular, radial), dtype=np.bool_)
    hidden = np.empty(channels, dtype=np.float32)
    code = np.empty((angular, width), dtype=np.float32)
    base = np.empty(width, dtype=np.float32)
    fields = np.empty((angular, 3 * channels), dtype=np.float32)
    for row in range(rows):
        last = np.zeros((angular, channels), dtype=np.float32)
        before = np.zeros((angular, channels), dtype=np.float32)
        coming = np.zeros((angular, channels), dtype=np.float32)
        memory = np.zeros((angular, channels), dtype=np.float32)
        for layer in range(layers):
            fields[:] = 0
            count = int(counts[row, layer])
            if count > 0:
                for angle in range(angular):
                    for c in range(channels):
                        seen = last[angle, c] + before[angle, c] + memory[angle, c]
                        hidden[c] = rings[row, layer, angle, c] + seen
                    _hardswish(hidden)
                    code[angle] = weights.mix_bias
                    _add(hidden, weights.mix, code[angle])
                    _hardswish(code[angle])
                first = start + layer * voxels
                hits = _hit_layer(
                    code, weights.hit, weights.hit_bias[layer], uniforms[row, first : first + voxels], count, keys, hit
                )
                base[:] = weights.energy_bias[layer]
                second = first + layers * voxels
                _break_layer(
                    code,
                    base,
                    hit,
                    hits,
                    float(energies[row, layer]),
                    uniforms[row, second : second + voxels],
                    weights,
                    threshold,
                    showers[row, layer],
                )
                _fields_of(showers[row, layer], hit, weights, fields)
            for angle in range(angular):
                for c in range(channels):
                    before[angle, c] = coming[angle, c]
                    last[angle, c] = fields[angle, c]
                    coming[angle, c] = fields[angle, channels + c]
                    memory[angle, c] = (_ONE - FORGET) * memory[angle, c] + FORGET * fields[angle, 2 * channels + c]
    return showers
