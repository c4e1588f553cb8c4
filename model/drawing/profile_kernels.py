"""Compiled draws of a shower's profile: its energy, and the energy and the number of hits of each layer.

The same maps as those of ``model.decoder.Profile``, layer after layer, for all rows of a tile at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import EMPTY_LOG_SHARE, LEAST_REMAINING, RESPONSE_SCALE
from qshower.model.drawing.fast_math import exp, hardswish, log
from qshower.model.drawing.inverse_transforms import LAW, bounded_mixture, mixture_values, put_law, whole_lanes
from qshower.model.drawing.products import LANES, add_products
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

_f = np.float32
_ONE = np.float32(1)
LEAST_TOTAL = 1e-6
HIGHEST_LOG_COUNT = 12


class ProfileWeights(NamedTuple):
    """``highest`` (L,) voxels; weights in panels and biases, those of each layer (L, ·)."""

    highest: Floats
    response: Floats
    response_bias: Floats
    hidden: Floats
    hidden_bias: Floats
    energy: Floats
    energy_bias: Floats
    count_hidden: Floats
    count_hidden_bias: Floats
    hit_count: Floats
    hit_count_bias: Floats


@kernel(error_model="numpy")
def draw_response(code: Floats, width: int, energy: Floats, uniforms: Floats, weights: ProfileWeights) -> Floats:
    """ln(E_tot/E_inc) (rows,) of shower codes (rows, ≥ width), energy features and one uniform (rows, ·) each."""
    rows = code.shape[0]
    inputs = np.empty((rows, width + energy.shape[1]), dtype=np.float32)
    inputs[:, :width] = code[:, :width]
    inputs[:, width:] = energy
    laws = np.empty((rows, weights.response_bias.shape[0]), dtype=np.float32)
    add_products(
        inputs.reshape(-1), 0, inputs.shape[1], rows, weights.response, weights.response_bias, 0, 0, laws.reshape(-1), 0
    )
    size = whole_lanes(rows)
    values, chosen = np.empty(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    blocks = np.zeros(size * LAW, dtype=np.float32)
    for row in range(rows):
        put_law(laws.reshape(-1), row * laws.shape[1], blocks, row)
        chosen[row] = uniforms[row, 0]
    mixture_values(blocks, chosen, values, rows)
    for row in range(rows):
        values[row] /= _f(RESPONSE_SCALE)
    return values[:rows]


@kernel(error_model="numpy")
def draw_layers(
    log_response: Floats,
    layer_code: Floats,
    codes: int,
    energy: Floats,
    uniforms: Floats,
    weights: ProfileWeights,
    memory: int,
    low: Floats,
    high: Floats,
) -> tuple[Floats, Floats]:
    """Layers drawn in order of depth: ln shares of the total energy, and numbers of hits, (rows, L) each.

    The shares are as drawn: they sum to 1 only as nearly as the chain has learned.

    Args:
        log_response: (rows,) ln(E_tot/E_inc).
        layer_code: (rows, ≥ L · codes).
        codes: numbers of a layer's code.
        energy: (rows, ENERGY_FEATURES).
        uniforms: (rows, ≥ 1 + 3 L), of each layer, from the second on: hit at all, energy, number of hits.
        weights: see there.
        memory: how many layers before a layer are seen.
        low: (rows, L) least ln share of what is left, or no rows: unbounded.
        high: the most, likewise.
    """
    bounded = low.shape[0] > 0
    rows, layers = layer_code.shape[0], weights.hidden.shape[0]
    told, width = weights.hidden.shape[2], weights.energy.shape[2]
    fixed = codes + energy.shape[1] + 1
    inputs = np.zeros((rows, told), dtype=np.float32)
    inputs[:, codes : fixed - 1] = energy
    inputs[:, fixed - 1] = log_response * _f(RESPONSE_SCALE / 2)
    hidden = np.empty((rows, weights.hidden_bias.shape[1]), dtype=np.float32)
    known = np.empty((rows, width + 2), dtype=np.float32)
    known[:, width + 1] = inputs[:, fixed - 1]
    counted = np.empty((rows, weights.count_hidden_bias.shape[1]), dtype=np.float32)
    law = np.empty((rows, LANES), dtype=np.float32)
    present = np.empty(rows, dtype=np.float32)
    size = whole_lanes(rows)
    laws = np.zeros(size * LAW, dtype=np.float32)
    chosen = np.zeros(size, dtype=np.float32)
    filled = np.empty(rows, dtype=np.bool_)
    spent = np.zeros(rows, dtype=np.float32)
    shares, drawn = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    log_shares = np.empty((rows, layers), dtype=np.float32)
    counts = np.empty((rows, layers), dtype=np.float32)
    flat_inputs, flat_hidden, flat_known = inputs.reshape(-1), hidden.reshape(-1), known.reshape(-1)
    flat_counted, flat_law = counted.reshape(-1), law.reshape(-1)
    for layer in range(layers):
        for row in range(rows):
            for c in range(codes):
                inputs[row, c] = layer_code[row, layer * codes + c]
            if memory > 0:
                inputs[row, fixed] = log(max(_ONE - spent[row], _f(0)) + _f(LEAST_REMAINING))
        add_products(
            flat_inputs, 0, told, rows, weights.hidden[layer], weights.hidden_bias[layer], 0, 0, flat_hidden, 0
        )
        for i in range(hidden.size):
            flat_hidden[i] = hardswish(flat_hidden[i])
        add_products(
            flat_hidden, 0, hidden.shape[1], rows, weights.energy[layer], weights.energy_bias[layer], 0, 0, flat_law, 0
        )
        for row in range(rows):
            present[row], chosen[row] = law[row, 0], uniforms[row, 2 + 3 * layer]
            put_law(flat_law, row * LANES + 1, laws, row)
        if bounded:
            for row in range(rows):
                left = log(max(_ONE - spent[row], _f(0)) + _f(LEAST_REMAINING))
                least = max(low[row, layer] + left, _f(EMPTY_LOG_SHARE + 1))
                most = max(min(high[row, layer], _f(0)) + left, least)
                shares[row] = bounded_mixture(law[row, 1 : 1 + LAW], chosen[row], least, most)
        else:
            mixture_values(laws, chosen, shares, rows)
        for row in range(rows):
            filled[row] = uniforms[row, 1 + 3 * layer] * (_ONE + exp(-present[row])) < _ONE
            shares[row] = min(max(shares[row], _f(EMPTY_LOG_SHARE + 1)), _f(0))
            for w in range(width):
                known[row, w] = hidden[row, w]
            known[row, width] = shares[row] / _f(4) + _ONE
            chosen[row] = uniforms[row, 3 + 3 * layer]
        add_products(
            flat_known,
            0,
            width + 2,
            rows,
            weights.count_hidden[layer],
            weights.count_hidden_bias[layer],
            0,
            0,
            flat_counted,
            0,
        )
        for i in range(counted.size):
            flat_counted[i] = hardswish(flat_counted[i])
        add_products(
            flat_counted,
            0,
            counted.shape[1],
            rows,
            weights.hit_count[layer],
            weights.hit_count_bias[layer],
            0,
            0,
            flat_law,
            0,
        )
        for row in range(rows):
            put_law(flat_law, row * LANES, laws, row)
        mixture_values(laws, chosen, drawn, rows)
        for row in range(rows):
            share, count = _f(EMPTY_LOG_SHARE), _f(0)
            if filled[row]:
                share = shares[row]
                value = exp(min(max(drawn[row], _f(-1)), _f(HIGHEST_LOG_COUNT)))
                count = min(max(_f(math.floor(value + _f(0.5))), _ONE), weights.highest[layer])
                spent[row] += exp(share)
            log_shares[row, layer] = share
            counts[row, layer] = count
            if memory > 0:
                for place in range(told - 1, fixed + 3, -1):
                    inputs[row, place] = inputs[row, place - 3]
                inputs[row, fixed + 1] = _ONE if filled[row] else _f(0)
                inputs[row, fixed + 2] = share / _f(4) + _ONE if filled[row] else _f(0)
                inputs[row, fixed + 3] = log(_ONE + count) - _f(2)
    return log_shares, counts


@kernel(error_model="numpy")
def layer_energies(log_response: Floats, log_shares: Floats, counts: Floats, energies: Floats, least: float) -> Floats:
    """Energies (rows, L) in MeV of layers, whose ln shares are brought to the sum 1, in place.

    Where ``least`` (MeV) is above 0, no filled layer has less, and no layer more hits than it could give ``least``
    each: ``counts`` are cut to that, in place.
    """
    rows, layers = counts.shape
    shared = np.zeros((rows, layers), dtype=np.float32)
    for row in range(rows):
        total = _f(0)
        for layer in range(layers):
            if counts[row, layer] > 0:
                total += exp(log_shares[row, layer])
        excess = log(max(total, _f(LEAST_TOTAL)))
        for layer in range(layers):
            if counts[row, layer] <= 0:
                continue
            log_shares[row, layer] -= excess
            value = exp(log_shares[row, layer] + log_response[row]) * energies[row]
            if least > 0:
                value = max(value, _f(1.001 * least))
                counts[row, layer] = min(counts[row, layer], _f(math.floor(value / _f(least))))
            shared[row, layer] = value
    return shared
