"""Compiled draws of a depth decoder's voxels: layer after layer in depth, all rows of a tile at once.

The same maps as those of ``model.depth_decoder``. A field is applied as a sum over hits, which are few. The sticks of
all rows are broken hit by hit side by side, since each hit of a row waits for the one before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import (
    BITS_WINDOW,
    ENERGY_FEATURES,
    FIELD_SCALE_MEV,
    FIELD_UNIT,
    FORGET,
    NEIGHBOUR_LAYERS,
    RESPONSE_SCALE,
    STICK_VALUES,
    WINDOW,
)
from qshower.model.drawing.code_kernels import tell_bits
from qshower.model.drawing.fast_math import hardswish, log
from qshower.model.drawing.hits import draw_hits
from qshower.model.drawing.inverse_transforms import LAW, whole_lanes
from qshower.model.drawing.network_kernels import apply_gelu, round_the_circle, tell_near_layers
from qshower.model.drawing.products import LANES, add_products, add_scaled, in_tiles
from qshower.model.drawing.stick_kernels import Sticks, StickWeights, break_sticks
from qshower.model.drawing.sticks import LEAST_EXCESS_MEV, logarithms
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]
Spins = NDArray[np.int8]
Places = NDArray[np.int32]

_f = np.float32
_ONE = np.float32(1)
BINS, HARMONICS, WAVES = 2 * WINDOW + 1, 3, 5


class DepthWeights(NamedTuple):
    """What draws a ``DepthDecoder``'s voxels.

    Weights in panels and biases of its maps, those of each layer (L, ·); then tables whose last axes are filled with 0
    to whole panels: of C channels, W hit channels and R rings, ``near`` (3, R, W), ``rings`` (R, W), ``window`` (R,
    BINS, 3 C) and ``harmonics`` (R, HARMONICS, 3 C); and what breaks the sticks.
    """

    layer: Floats
    layer_bias: Floats
    ring: Floats
    ring_energy: Floats
    ring_bias: Floats
    around: Floats
    around_bias: Floats
    mix: Floats
    mix_bias: Floats
    hit: Floats
    hit_bias: Floats
    energy: Floats
    energy_bias: Floats
    near: Floats
    rings: Floats
    window: Floats
    harmonics: Floats
    sticks: StickWeights


class _Layer(NamedTuple):
    """Buffers of one layer's draw: of the rows with hits in it, in their order."""

    told: Floats
    hidden: Floats
    ring: Floats
    circle: Floats
    code: Floats
    mixed: Floats
    logits: Floats
    own: Floats


@kernel(error_model="numpy")
def _ring_codes(energy: Floats, busy: int, layer: int, channels: int, weights: DepthWeights, buffers: _Layer) -> None:
    """Fill ``buffers.code`` (busy, A, panels): what is known of a layer before any voxel; ``energy`` (busy, ·) flat."""
    hidden, ring = buffers.hidden, buffers.ring
    angular, width = weights.sticks.waves.shape[0], weights.around_bias.size
    hidden_width, ring_width = weights.layer_bias.shape[1], weights.ring_bias.shape[1]
    inputs = weights.layer.shape[2]
    add_products(buffers.told, 0, inputs, busy, weights.layer[layer], weights.layer_bias[layer], 0, 0, hidden, 0)
    apply_gelu(hidden, busy * hidden_width)
    add_products(energy, 0, ENERGY_FEATURES, busy, weights.ring_energy[layer], weights.ring_bias[layer], 0, 0, ring, 0)
    add_products(hidden, 0, hidden_width, in_tiles(busy), weights.ring, ring, 0, ring_width, ring, 0)
    apply_gelu(ring, busy * ring_width)
    for own in range(busy):
        round_the_circle(ring, own * ring_width, angular, channels, buffers.circle)
        add_products(
            buffers.circle,
            0,
            channels,
            angular,
            weights.around,
            weights.around_bias,
            0,
            0,
            buffers.code,
            own * angular * width,
        )


@kernel(error_model="numpy")
def _stick_codes(
    hits: Places, at: int, found: int, own: int, layer: int, base: Floats, weights: DepthWeights, buffers: _Layer
) -> None:
    """Fill row ``own`` of ``buffers.own`` (busy, A, panels): what the energies of the layer's hits are told."""
    angular, radial = weights.sticks.waves.shape[0], weights.sticks.of_ring.shape[0]
    width, panels = base.size, base.size // LANES
    flat_rings, flat_near = weights.rings.reshape(-1), weights.near.reshape(-1)
    base[:] = weights.energy_bias[layer]
    hit = at
    for ring in range(radial):
        in_ring = 0
        while hit < at + found and hits[hit] // angular == ring:
            in_ring += 1
            hit += 1
        add_scaled(log(_ONE + _f(in_ring)), flat_rings, ring * width, panels, base, 0)
    to = own * angular * width
    mixed_width = weights.mix_bias.size
    add_products(
        buffers.mixed, own * angular * mixed_width, mixed_width, angular, weights.energy, base, 0, 0, buffers.own, to
    )
    for hit in range(at, at + found):
        ring, angle = hits[hit] // angular, hits[hit] % angular
        for offset in range(3):
            seen_by = (angle + 1 - offset + angular) % angular
            add_scaled(_ONE, flat_near, (offset * radial + ring) * width, panels, buffers.own, to + seen_by * width)


@kernel(error_model="numpy")
def _fields_of(
    values: Floats, hits: Places, at: int, found: int, weights: DepthWeights, amplitude: Floats, fields: Floats, to: int
) -> None:
    """Add to ``fields`` (from ``to`` on: (A, panels of 3 C)) what the hits of one layer give to later ones."""
    angular = weights.sticks.waves.shape[0]
    width = weights.window.shape[2]
    panels = width // LANES
    flat_window, flat_harmonics = weights.window.reshape(-1), weights.harmonics.reshape(-1)
    amplitude[:] = 0
    hit = at
    while hit < at + found:
        ring = hits[hit] // angular
        sums = (_f(0), _f(0), _f(0), _f(0), _f(0))
        while hit < at + found and hits[hit] // angular == ring:
            angle = hits[hit] % angular
            light = log(_ONE + values[hit] * _f(1 / FIELD_SCALE_MEV)) * _f(FIELD_UNIT)
            wave = weights.sticks.waves
            sums = (
                sums[0] + light,
                sums[1] + light * wave[angle, 1],
                sums[2] + light * wave[angle, 2],
                sums[3] + light * wave[angle, 3],
                sums[4] + light * wave[angle, 4],
            )
            for offset in range(BINS):
                seen_by = (angle + WINDOW - offset + angular) % angular
                add_scaled(light, flat_window, (ring * BINS + offset) * width, panels, fields, to + seen_by * width)
            hit += 1
        for k in range(WAVES):
            place = (ring * HARMONICS + (k + 1) // 2) * width
            add_scaled(sums[k], flat_harmonics, place, panels, amplitude, k * width)
    for angle in range(angular):
        for k in range(WAVES):
            add_scaled(weights.sticks.waves[angle, k], amplitude, k * width, panels, fields, to + angle * width)


@kernel(error_model="numpy")
def _by_ring(hits: Places, found: int, angular: int, radial: int, begins: Places, sorted_hits: Places, at: int) -> None:
    """Write hits (places angle · R + ring, rising) as places ring · A + angle, rising, from ``at`` on."""
    begins[:] = 0
    for hit in range(found):
        begins[hits[hit] % radial + 1] += 1
    for ring in range(radial):
        begins[ring + 1] += begins[ring]
    for hit in range(found):
        ring = hits[hit] % radial
        sorted_hits[at + begins[ring]] = ring * angular + hits[hit] // radial
        begins[ring] += 1


@kernel(error_model="numpy")
def depth_voxels(
    bits: Spins,
    share_bits: int,
    energy: Floats,
    log_response: Floats,
    log_shares: Floats,
    counts: Floats,
    energies: Floats,
    uniforms: Floats,
    start: int,
    channels: tuple[int, int],
    threshold: np.float32,
    weights: DepthWeights,
) -> Floats:
    """Voxel energies (rows, L, A, R) in MeV: ``counts`` hits of each layer that sum to its energy.

    Args:
        bits: (rows, L, bits of a layer).
        share_bits: how many of these, the first, the voxels are not told.
        energy: (rows, ENERGY_FEATURES).
        log_response: (rows,) ln(E_tot/E_inc).
        log_shares: (rows, L) of the total energy, summing to 1.
        counts: (rows, L) hits.
        energies: (rows, L) MeV.
        uniforms: (rows, ·) of which those from ``start`` on are used, (L, A, R) for hits and as many for energies.
        start: see ``uniforms``.
        channels: of a ring, and of a voxel.
        threshold: least energy of a hit, MeV.
        weights: see there.
    """
    rows, layers = counts.shape
    angular, radial = weights.sticks.waves.shape[0], weights.sticks.of_ring.shape[0]
    voxels, of_field = angular * radial, weights.window.shape[2]
    of_ring, of_voxel = channels
    inputs, code_width = weights.layer.shape[2], weights.around_bias.size
    hit_width, mixed_width, own_width = weights.hit_bias.shape[1], weights.mix_bias.size, weights.energy_bias.shape[1]
    showers = np.zeros((rows, layers, angular, radial), dtype=np.float32)
    flat_showers, flat_uniforms = showers.reshape(-1), uniforms.reshape(-1)
    tiled = in_tiles(rows)
    buffers = _Layer(
        np.zeros(tiled * inputs, dtype=np.float32),
        np.zeros(tiled * weights.layer_bias.shape[1], dtype=np.float32),
        np.zeros(tiled * weights.ring_bias.shape[1], dtype=np.float32),
        np.empty((angular + 2) * of_ring, dtype=np.float32),
        np.empty(rows * angular * code_width, dtype=np.float32),
        np.empty(rows * angular * mixed_width, dtype=np.float32),
        np.empty(rows * angular * hit_width, dtype=np.float32),
        np.empty(rows * angular * own_width, dtype=np.float32),
    )
    sticks = Sticks(
        np.empty(rows),
        np.empty(rows),
        np.empty(rows),
        np.empty((rows, 3)),
        np.empty((rows, radial), dtype=np.int64),
        np.empty(rows, dtype=np.int64),
        logarithms(voxels),
        np.zeros(tiled * STICK_VALUES, dtype=np.float32),
        np.zeros(tiled * own_width, dtype=np.float32),
        np.zeros(tiled * LANES, dtype=np.float32),
        np.zeros(LAW * whole_lanes(rows), dtype=np.float32),
        np.zeros(whole_lanes(rows), dtype=np.float32),
        np.empty(whole_lanes(rows), dtype=np.float32),
    )
    told_energy = np.empty(rows * ENERGY_FEATURES, dtype=np.float32)
    base, amplitude = np.empty(own_width, dtype=np.float32), np.empty(WAVES * of_field, dtype=np.float32)
    keys, found_hits = np.empty(voxels, dtype=np.float32), np.empty(voxels + 1, dtype=np.int32)
    hits, begins = np.empty(rows * voxels, dtype=np.int32), np.empty(radial + 1, dtype=np.int32)
    values = np.empty(rows * voxels, dtype=np.float32)
    active, found = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    firsts = np.empty(rows, dtype=np.int64)
    # What the last layer gave, and the one before it; in turn.
    last = np.zeros(rows * angular * of_field, dtype=np.float32)
    before = np.zeros(rows * angular * of_field, dtype=np.float32)
    memory = np.zeros(rows * angular * of_voxel, dtype=np.float32)
    for layer in range(layers):
        busy = 0
        for row in range(rows):
            if counts[row, layer] > 0:
                at = busy * inputs
                tell_bits(bits, row, layer, BITS_WINDOW, share_bits, buffers.told, at)
                at += (2 * BITS_WINDOW + 1) * (bits.shape[2] - share_bits)
                for c in range(ENERGY_FEATURES):
                    buffers.told[at + c] = told_energy[busy * ENERGY_FEATURES + c] = energy[row, c]
                buffers.told[at + ENERGY_FEATURES] = log_response[row] * _f(RESPONSE_SCALE / 2)
                at += ENERGY_FEATURES + 1
                tell_near_layers(log_shares[row], counts[row], layer, NEIGHBOUR_LAYERS, buffers.told, at)
                active[busy] = row
                busy += 1
        for place in range(rows * angular):
            for c in range(of_voxel):
                given = last[place * of_field + 2 * of_voxel + c]
                memory[place * of_voxel + c] = _f(1 - FORGET) * memory[place * of_voxel + c] + _f(FORGET) * given
        _ring_codes(told_energy, busy, layer, of_ring, weights, buffers)
        for own in range(busy):
            for angle in range(angular):
                to = (own * angular + angle) * code_width
                place = active[own] * angular + angle
                for c in range(of_voxel):
                    seen = last[place * of_field + c] + before[place * of_field + of_voxel + c]
                    value = buffers.code[to + c] + (seen + memory[place * of_voxel + c])
                    buffers.code[to + c] = hardswish(value)
        before[:] = 0
        last, before = before, last
        if busy == 0:
            continue
        add_products(buffers.code, 0, code_width, busy * angular, weights.mix, weights.mix_bias, 0, 0, buffers.mixed, 0)
        for i in range(busy * angular * mixed_width):
            buffers.mixed[i] = hardswish(buffers.mixed[i])
        add_products(
            buffers.mixed,
            0,
            mixed_width,
            busy * angular,
            weights.hit,
            weights.hit_bias[layer],
            0,
            0,
            buffers.logits,
            0,
        )
        for own in range(busy):
            row = active[own]
            first = row * uniforms.shape[1] + start + layer * voxels
            at, count = own * angular * hit_width, int(counts[row, layer])
            found[own] = draw_hits(
                buffers.logits, at, hit_width, angular, radial, flat_uniforms, first, count, keys, found_hits
            )
            firsts[own] = first + layers * voxels
            _by_ring(found_hits, found[own], angular, radial, begins, hits, own * voxels)
            _stick_codes(hits, own * voxels, found[own], own, layer, base, weights, buffers)
            sticks.rest[own] = max(
                float(energies[row, layer]) - found[own] * float(threshold), found[own] * LEAST_EXCESS_MEV
            )
        break_sticks(hits, found, busy, firsts, flat_uniforms, threshold, weights.sticks, buffers.own, sticks, values)
        for own in range(busy):
            row, at = active[own], own * voxels
            for hit in range(at, at + found[own]):
                ring, angle = hits[hit] // angular, hits[hit] % angular
                flat_showers[((row * layers + layer) * angular + angle) * radial + ring] = values[hit]
            _fields_of(values, hits, at, found[own], weights, amplitude, last, row * angular * of_field)
    return showers
