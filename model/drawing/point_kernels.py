"""Compiled draws of the reference's decoder heads: Bernoulli hits, and one activation for each voxel.

The same maps as those of ``model.point_decoder``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import ENERGY_FEATURES, LOG1P_REGULATOR, LOGIT_REGULATOR
from qshower.model.drawing.fast_math import exp_64, log_64
from qshower.model.drawing.products import add_products
from qshower.model.drawing.sampled_kernels import angular_codes
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]


class PointWeights(NamedTuple):
    """``mask`` (L, A, R): there is a voxel; weights in panels and biases, those of each layer (L, ·)."""

    mask: NDArray[np.bool_]
    hidden: Floats
    hidden_bias: Floats
    ring: Floats
    ring_bias: Floats
    around: Floats
    around_bias: Floats
    heads: Floats
    heads_bias: Floats


@kernel(error_model="numpy")
def fraction_of_logit(scaled: float) -> float:
    """The fraction ε of a ``model.scaling.LogitScaling``."""
    offset = log_64(LOGIT_REGULATOR / (1.0 - LOGIT_REGULATOR))
    x = 1.0 / (1.0 + exp_64(-(scaled + offset)))
    return max((x - LOGIT_REGULATOR) / (1.0 - 2.0 * LOGIT_REGULATOR), 0.0)


@kernel(error_model="numpy")
def fraction_of_log1p(scaled: float) -> float:
    """The fraction ε of a ``model.scaling.Log1pScaling``."""
    return (exp_64(scaled) - 1.0) * LOG1P_REGULATOR


@kernel(error_model="numpy")
def point_voxels(
    layer_code: Floats,
    codes: int,
    energy: Floats,
    energies: Floats,
    uniforms: Floats,
    channels: int,
    logarithmic: bool,  # noqa: FBT001 - a compiled function has no keywords
    highest: float,
    weights: PointWeights,
) -> Floats:
    """Voxel energies (rows, L, A, R) in MeV.

    Args:
        layer_code: (rows, ≥ L · codes).
        codes: numbers of a layer's code.
        energy: (rows, ENERGY_FEATURES).
        energies: (rows,) incident energies, MeV.
        uniforms: (rows, ≥ L · A · R).
        channels: of a ring.
        logarithmic: scaling of the voxels, log1p or logit.
        highest: the largest scaled activation.
        weights: see there.
    """
    rows = layer_code.shape[0]
    layers, angular, radial = weights.mask.shape
    inputs = codes + ENERGY_FEATURES
    width, step = weights.around_bias.size, weights.heads_bias.shape[1]
    showers = np.zeros((rows, layers, angular, radial), dtype=np.float32)
    told = np.empty((rows, inputs), dtype=np.float32)
    told[:, codes:] = energy
    buffers = (
        np.empty(rows * weights.hidden_bias.shape[1], dtype=np.float32),
        np.empty(rows * weights.ring_bias.shape[1], dtype=np.float32),
        np.empty((angular + 2) * channels, dtype=np.float32),
    )
    code = np.empty(rows * angular * width, dtype=np.float32)
    outputs = np.empty(rows * angular * step, dtype=np.float32)
    for layer in range(layers):
        told[:, :codes] = layer_code[:, layer * codes : (layer + 1) * codes]
        maps = (
            weights.hidden[layer],
            weights.hidden_bias[layer],
            weights.ring[layer],
            weights.ring_bias[layer],
            weights.around,
            weights.around_bias,
        )
        angular_codes(told.reshape(-1), rows, maps, channels, buffers, code)
        add_products(code, 0, width, rows * angular, weights.heads, weights.heads_bias[layer], 0, 0, outputs, 0)
        for row in range(rows):
            for angle in range(angular):
                for ring in range(radial):
                    at = (row * angular + angle) * step + 2 * ring
                    u = uniforms[row, (layer * angular + angle) * radial + ring]
                    hit = float(u) * (1.0 + exp_64(-float(outputs[at]))) < 1.0
                    if hit and weights.mask[layer, angle, ring]:
                        scaled = highest / (1.0 + exp_64(-float(outputs[at + 1])))
                        fraction = fraction_of_log1p(scaled) if logarithmic else fraction_of_logit(scaled)
                        showers[row, layer, angle, ring] = np.float32(fraction * float(energies[row]))
    return showers
