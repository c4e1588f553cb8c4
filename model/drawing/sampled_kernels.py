"""Compiled draws of a sampled decoder's voxels, given the profile: layer after layer, all rows of a tile at once.

The same maps as those of ``model.decoder.VoxelHead``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import (
    ENERGY_FEATURES,
    LAYER_VALUES,
    NEIGHBOUR_LAYERS,
    RESPONSE_SCALE,
)
from qshower.model.drawing.fast_math import exp
from qshower.model.drawing.hits import draw_hits
from qshower.model.drawing.inverse_transforms import LAW, mixture_values, put_law, whole_lanes
from qshower.model.drawing.network_kernels import apply_gelu, round_the_circle, tell_near_layers
from qshower.model.drawing.products import add_products
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

_f = np.float32
LOWEST_LOG, HIGHEST_LOG = np.float32(-12.0), np.float32(8.0)
NOWHERE = np.float32(-1e4)
"""Logit of a hit where there is no voxel."""


class VoxelWeights(NamedTuple):
    """``mask`` (L, A, R): there is a voxel; weights in panels and biases, those of each layer (L, ·)."""

    mask: NDArray[np.bool_]
    hidden: Floats
    hidden_bias: Floats
    ring: Floats
    ring_bias: Floats
    around: Floats
    around_bias: Floats
    hit: Floats
    hit_bias: Floats
    activation: Floats
    activation_bias: Floats


@kernel(error_model="numpy")
def angular_codes(
    told: Floats,
    rows: int,
    weights: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    channels: int,
    buffers: tuple[Floats, Floats, Floats],
    codes: Floats,
) -> None:
    """Codes (rows, A, panels) of one layer's angular bins from what is known of it, ``told`` (rows, inputs), flat.

    ``model.layers.Rings`` of one layer: ``weights`` are its three maps with their biases.
    """
    hidden, ring, circle = buffers
    hidden_weight, hidden_bias, ring_weight, ring_bias, around, around_bias = weights
    angular = circle.size // channels - 2
    add_products(told, 0, hidden_weight.shape[1], rows, hidden_weight, hidden_bias, 0, 0, hidden, 0)
    apply_gelu(hidden, rows * hidden_bias.size)
    add_products(hidden, 0, hidden_bias.size, rows, ring_weight, ring_bias, 0, 0, ring, 0)
    apply_gelu(ring, rows * ring_bias.size)
    size = angular * around_bias.size
    for row in range(rows):
        round_the_circle(ring, row * ring_bias.size, angular, channels, circle)
        add_products(circle, 0, channels, angular, around, around_bias, 0, 0, codes, row * size)
    apply_gelu(codes, rows * size)


@kernel(error_model="numpy")
def sampled_voxels(
    layer_code: Floats,
    codes: int,
    energy: Floats,
    log_response: Floats,
    log_shares: Floats,
    counts: Floats,
    energies: Floats,
    uniforms: Floats,
    start: int,
    channels: int,
    weights: VoxelWeights,
) -> Floats:
    """Voxel energies (rows, L, A, R) in MeV: ``counts`` hits of each layer that sum to its energy.

    The hits' energies are values of the mixtures, scaled to the layer's energy.

    Args:
        layer_code: (rows, ≥ L · codes).
        codes: numbers of a layer's code.
        energy: (rows, ENERGY_FEATURES).
        log_response: (rows,) ln(E_tot/E_inc).
        log_shares: (rows, L) of the total energy, summing to 1.
        counts: (rows, L) hits.
        energies: (rows, L) MeV.
        uniforms: (rows, ·) of which those from ``start`` on are used, (L, A, R) for hits and as many for energies.
        start: see ``uniforms``.
        channels: of a ring.
        weights: see there.
    """
    rows = counts.shape[0]
    layers, angular, radial = weights.mask.shape
    voxels = angular * radial
    inputs = codes + ENERGY_FEATURES + 1 + LAYER_VALUES * (2 * NEIGHBOUR_LAYERS + 1)
    showers = np.zeros((rows, layers, angular, radial), dtype=np.float32)
    flat_showers, flat_uniforms = showers.reshape(-1), uniforms.reshape(-1)
    told = np.empty(rows * inputs, dtype=np.float32)
    width, step = weights.around_bias.size, weights.hit_bias.shape[1]
    buffers = (
        np.empty(rows * weights.hidden_bias.shape[1], dtype=np.float32),
        np.empty(rows * weights.ring_bias.shape[1], dtype=np.float32),
        np.empty((angular + 2) * channels, dtype=np.float32),
    )
    code = np.empty(rows * angular * width, dtype=np.float32)
    logits = np.empty(rows * angular * step, dtype=np.float32)
    keys = np.empty(voxels, dtype=np.float32)
    hits = np.empty(voxels + 1, dtype=np.int32)
    # Angular bins that hold a hit, of all rows of a layer: their codes, and the laws of their voxels.
    struck = np.empty(rows * angular * width, dtype=np.float32)
    outputs = np.empty(rows * angular * weights.activation_bias.shape[1], dtype=np.float32)
    active = np.empty(rows, dtype=np.int64)
    # The hits of one layer, row by row: where their energy goes, and what it is drawn from.
    places = np.empty(rows * voxels, dtype=np.int64)
    law_at = np.empty(rows * voxels, dtype=np.int64)
    size = whole_lanes(rows * voxels)
    laws = np.zeros(LAW * size, dtype=np.float32)
    chosen = np.zeros(size, dtype=np.float32)
    values = np.empty(size, dtype=np.float32)
    ends = np.zeros(rows + 1, dtype=np.int64)
    for layer in range(layers):
        busy = 0
        for row in range(rows):
            if counts[row, layer] > 0:
                at = busy * inputs
                for c in range(codes):
                    told[at + c] = layer_code[row, layer * codes + c]
                for c in range(ENERGY_FEATURES):
                    told[at + codes + c] = energy[row, c]
                told[at + codes + ENERGY_FEATURES] = log_response[row] * _f(RESPONSE_SCALE / 2)
                at += codes + ENERGY_FEATURES + 1
                tell_near_layers(log_shares[row], counts[row], layer, NEIGHBOUR_LAYERS, told, at)
                active[busy] = row
                busy += 1
        if busy == 0:
            continue
        maps = (
            weights.hidden[layer],
            weights.hidden_bias[layer],
            weights.ring[layer],
            weights.ring_bias[layer],
            weights.around,
            weights.around_bias,
        )
        angular_codes(told, busy, maps, channels, buffers, code)
        add_products(code, 0, width, busy * angular, weights.hit, weights.hit_bias[layer], 0, 0, logits, 0)
        activation, activation_bias = weights.activation, weights.activation_bias[layer]
        mask = weights.mask[layer]
        total, bins = 0, 0
        for own in range(busy):
            row = active[own]
            for angle in range(angular):
                for ring in range(radial):
                    if not mask[angle, ring]:
                        logits[(own * angular + angle) * step + ring] = NOWHERE
            first = row * uniforms.shape[1] + start + layer * voxels
            count = int(counts[row, layer])
            found = draw_hits(
                logits, own * angular * step, step, angular, radial, flat_uniforms, first, count, keys, hits
            )
            before = -1
            for hit in range(found):
                angle, ring = hits[hit] // radial, hits[hit] % radial
                if angle != before:
                    for c in range(width):
                        struck[bins * width + c] = code[(own * angular + angle) * width + c]
                    bins += 1
                    before = angle
                law_at[total] = (bins - 1) * activation_bias.size + ring * LAW
                chosen[total] = flat_uniforms[first + layers * voxels + hits[hit]]
                places[total] = (row * layers + layer) * voxels + hits[hit]
                total += 1
            ends[own + 1] = total
        add_products(struck, 0, width, bins, activation, activation_bias, 0, 0, outputs, 0)
        for hit in range(total):
            put_law(outputs, law_at[hit], laws, hit)
        mixture_values(laws, chosen, values, total)
        for hit in range(total):
            values[hit] = exp(min(max(values[hit], LOWEST_LOG), HIGHEST_LOG))
        for own in range(busy):
            whole = 0.0
            for hit in range(ends[own], ends[own + 1]):
                whole += values[hit]
            factor = _f(energies[active[own], layer] / whole) if whole > 0 else _f(0)
            for hit in range(ends[own], ends[own + 1]):
                flat_showers[places[hit]] = values[hit] * factor
    return showers
