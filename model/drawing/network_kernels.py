"""Compiled parts that the draws of several decoders share: energy features, the trunk, what a layer is told.

The same maps as those of ``model.layers``. Buffers are flat; their rows are filled to whole panels of ``products``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import ENERGY_FEATURES
from qshower.model.drawing.fast_math import exp, gelu, log, log_64, sine
from qshower.model.drawing.products import add_products
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]
Spins = NDArray[np.int8]

_f = np.float32
_ONE = np.float32(1)


class TrunkWeights(NamedTuple):
    """Weights in panels and biases of ``model.layers.Trunk``."""

    first: Floats
    first_bias: Floats
    second: Floats
    second_bias: Floats
    layer_code: Floats
    layer_code_bias: Floats


@kernel(error_model="numpy")
def energy_features(energies: Floats, low: float, high: float) -> Floats:
    """Smooth functions of ln E, (rows, ENERGY_FEATURES), of energies (rows,) in MeV; low and high of the domain."""
    features = np.empty((energies.shape[0], ENERGY_FEATURES), dtype=np.float32)
    span = log_64(high / low)
    for row in range(energies.shape[0]):
        t = _f(log_64(float(energies[row]) / low) / span * 2.0 - 1.0)
        wide = float(t)
        features[row, 0] = t
        features[row, 1] = t * t - _f(0.5)
        features[row, 2] = _f(sine(wide))
        features[row, 3] = _f(sine(wide + 0.5))
        features[row, 4] = _f(sine(2.0 * wide))
        features[row, 5] = exp(_f(-2) * (t + _ONE))
    return features


@kernel(error_model="numpy")
def apply_gelu(values: Floats, count: int) -> None:
    """gelu of the first ``count`` of ``values`` (·,), in place."""
    for i in range(count):
        values[i] = gelu(values[i])


@kernel(error_model="numpy")
def trunk(latents: Spins, energy: Floats, weights: TrunkWeights) -> tuple[Floats, Floats]:
    """Latents (rows, bits), energy features (rows, ENERGY_FEATURES): shower codes and layer codes, (rows, panels)."""
    rows, bits = latents.shape
    inputs = np.empty((rows, weights.first.shape[1]), dtype=np.float32)
    inputs[:, :bits] = latents
    inputs[:, bits:] = energy
    hidden = np.empty((rows, weights.first_bias.shape[0]), dtype=np.float32)
    add_products(
        inputs.reshape(-1), 0, inputs.shape[1], rows, weights.first, weights.first_bias, 0, 0, hidden.reshape(-1), 0
    )
    apply_gelu(hidden.reshape(-1), hidden.size)
    width = weights.second.shape[1] - energy.shape[1]
    inputs = np.empty((rows, weights.second.shape[1]), dtype=np.float32)
    inputs[:, :width] = hidden[:, :width]
    inputs[:, width:] = energy
    code = np.empty((rows, weights.second_bias.shape[0]), dtype=np.float32)
    add_products(
        inputs.reshape(-1), 0, inputs.shape[1], rows, weights.second, weights.second_bias, 0, 0, code.reshape(-1), 0
    )
    apply_gelu(code.reshape(-1), code.size)
    layers = np.empty((rows, weights.layer_code_bias.shape[0]), dtype=np.float32)
    add_products(
        code.reshape(-1),
        0,
        code.shape[1],
        rows,
        weights.layer_code,
        weights.layer_code_bias,
        0,
        0,
        layers.reshape(-1),
        0,
    )
    apply_gelu(layers.reshape(-1), layers.size)
    return code, layers


@kernel(error_model="numpy")
def tell_near_layers(log_shares: Floats, counts: Floats, layer: int, reach: int, told: Floats, at: int) -> None:
    """Write to ``told`` (·,) from ``at`` on what a layer is told of itself and its neighbours' hits and energies.

    (2 reach + 1) times ``model.decoder.layer_values``, 0 beyond the ends. ``log_shares`` and ``counts`` (L,).
    """
    for place in range(2 * reach + 1):
        near, own = layer + place - reach, at + 3 * place
        if near < 0 or near >= counts.shape[0]:
            told[own], told[own + 1], told[own + 2] = _f(0), _f(0), _f(0)
            continue
        filled = counts[near] > 0
        told[own] = _ONE if filled else _f(0)
        told[own + 1] = log_shares[near] / _f(4) + _ONE if filled else _f(0)
        told[own + 2] = log(_ONE + counts[near]) - _f(2)


@kernel(error_model="numpy")
def round_the_circle(ring: Floats, at: int, angular: int, channels: int, circle: Floats) -> None:
    """``circle`` ((A + 2) channels,) = the codes of the last bin, of all bins and of the first, of ``ring`` (·,)."""
    for c in range(channels):
        circle[c] = ring[at + (angular - 1) * channels + c]
        circle[(angular + 1) * channels + c] = ring[at + c]
    for i in range(angular * channels):
        circle[channels + i] = ring[at + i]
