"""Compiled codes of a depth decoder's profile, from energies and the bits of layers (``model.depth_decoder``)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import ENERGY_FEATURES, PROFILE_BITS_WINDOW
from qshower.model.drawing.fast_math import gelu
from qshower.model.drawing.network_kernels import apply_gelu
from qshower.model.drawing.products import add_products
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]
Spins = NDArray[np.int8]

_f = np.float32


class CodeWeights(NamedTuple):
    """What makes the profile's codes of energies and bits: weights in panels (of each layer (L, ·)) and biases."""

    shower_code: Floats
    shower_code_bias: Floats
    profile_bits: Floats
    profile_energy: Floats
    profile_bias: Floats


@kernel(error_model="numpy")
def tell_bits(bits: Spins, row: int, layer: int, reach: int, first: int, told: Floats, at: int) -> None:
    """Write to ``told`` from ``at`` on the bits from ``first`` on of a layer and its neighbours, 0 beyond the ends."""
    layers, count = bits.shape[1], bits.shape[2] - first
    for place in range(2 * reach + 1):
        near = layer + place - reach
        for bit in range(count):
            inside = near >= 0 and near < layers
            told[at + place * count + bit] = _f(bits[row, near, first + bit]) if inside else _f(0)


@kernel(error_model="numpy")
def profile_codes(bits: Spins, energy: Floats, codes: int, weights: CodeWeights) -> tuple[Floats, Floats]:
    """Shower codes (rows, panels) and layer codes (rows, L · codes) of bits (rows, L, ·) and energy features."""
    rows, layers, count = bits.shape
    inputs = (2 * PROFILE_BITS_WINDOW + 1) * count
    flat_energy = energy.reshape(-1)
    code = np.empty((rows, weights.shower_code_bias.size), dtype=np.float32)
    add_products(
        flat_energy,
        0,
        ENERGY_FEATURES,
        rows,
        weights.shower_code,
        weights.shower_code_bias,
        0,
        0,
        code.reshape(-1),
        0,
    )
    apply_gelu(code.reshape(-1), code.size)
    width = weights.profile_bias.shape[1]
    told = np.empty((rows, inputs), dtype=np.float32)
    flat_told = told.reshape(-1)
    own = np.empty((rows, width), dtype=np.float32)
    flat_own = own.reshape(-1)
    layer_code = np.empty((rows, layers * codes), dtype=np.float32)
    for layer in range(layers):
        for row in range(rows):
            tell_bits(bits, row, layer, PROFILE_BITS_WINDOW, 0, flat_told, row * inputs)
        add_products(flat_told, 0, inputs, rows, weights.profile_bits, weights.profile_bias[layer], 0, 0, flat_own, 0)
        add_products(
            flat_energy, 0, ENERGY_FEATURES, rows, weights.profile_energy[layer], flat_own, 0, width, flat_own, 0
        )
        for row in range(rows):
            for c in range(codes):
                layer_code[row, layer * codes + c] = gelu(own[row, c])
    return code, layer_code
