"""Draws from the decoder's distributions by inverse transforms of given uniforms, compiled, one shower after another.

A draw depends on its own parameters and uniforms alone, so that a shower is a deterministic function of (latent,
incident energy, uniforms), in any batch. The laws are those of ``model.likelihood``.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from model.likelihood import SCALE_CENTRE, SCALE_HALF

Floats = NDArray[np.float32]

LOWEST_UNIFORM = 1e-7
LOWEST_LOG, HIGHEST_LOG = -12.0, 8.0
LEAST_REMAINING = 1e-3


@numba.njit(cache=True, nogil=True)
def normal_quantile(p: float) -> float:
    """z with Φ(z) = p for 0 < p < 1, relative error below 1.2e−9 (P. J. Acklam's rational approximation, 2003)."""
    if p < 0.02425 or p > 1 - 0.02425:
        tail = p if p < 0.5 else 1 - p
        q = math.sqrt(-2 * math.log(tail))
        top = (
            (((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838) * q - 2.549732539343734) * q
            + 4.374664141464968
        ) * q + 2.938163982698783
        bottom = (
            ((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996) * q + 3.754408661907416
        ) * q + 1
        z = top / bottom
        return z if p < 0.5 else -z
    q = p - 0.5
    r = q * q
    top = (
        (
            (((-3.969683028665376e01 * r + 2.209460984245205e02) * r - 2.759285104469687e02) * r + 1.383577518672690e02)
            * r
            - 3.066479806614716e01
        )
        * r
        + 2.506628277459239
    ) * q
    bottom = (
        (((-5.447609879822406e01 * r + 1.615858368580409e02) * r - 1.556989798598866e02) * r + 6.680131188771972e01) * r
        - 1.328068155288572e01
    ) * r + 1
    return top / bottom


@numba.njit(cache=True, nogil=True)
def mixture_value(outputs: Floats, uniform: float) -> float:
    """A value of the mixture with raw outputs (3K,): the uniform picks the component, its remainder the quantile."""
    components = outputs.shape[0] // 3
    highest = outputs[0]
    for k in range(1, components):
        highest = max(highest, outputs[k])
    total = 0.0
    for k in range(components):
        total += math.exp(outputs[k] - highest)
    left = uniform * total
    chosen = 0
    weight = math.exp(outputs[0] - highest)
    while left >= weight and chosen < components - 1:
        left -= weight
        chosen += 1
        weight = math.exp(outputs[chosen] - highest)
    within = min(max(left / weight, LOWEST_UNIFORM), 1 - LOWEST_UNIFORM)
    log_scale = SCALE_CENTRE + SCALE_HALF * math.tanh((outputs[2 * components + chosen] - SCALE_CENTRE) / SCALE_HALF)
    return float(outputs[components + chosen] + math.exp(log_scale) * normal_quantile(within))


@numba.njit(cache=True, nogil=True)
def mixture_values(outputs: Floats, uniforms: Floats) -> Floats:
    """Values (rows,) of mixtures with raw outputs (rows, 3K)."""
    values = np.empty(outputs.shape[0], dtype=np.float32)
    for row in range(outputs.shape[0]):
        values[row] = mixture_value(outputs[row], uniforms[row])
    return values


@numba.njit(cache=True, nogil=True)
def _affine(weight: Floats, bias: Floats, values: Floats, outputs: Floats) -> None:
    """outputs (o,) = values (i,) @ weight (i, o) + bias (o,)."""
    for o in range(outputs.shape[0]):
        outputs[o] = bias[o]
    for i in range(values.shape[0]):
        value = values[i]
        for o in range(outputs.shape[0]):
            outputs[o] += value * weight[i, o]


@numba.njit(cache=True, nogil=True)
def _hardswish(values: Floats) -> None:
    """x · min(max(x + 3, 0), 6) / 6, in place."""
    for i in range(values.shape[0]):
        x = values[i]
        values[i] = x * min(max(x + np.float32(3), np.float32(0)), np.float32(6)) * np.float32(1 / 6)


@numba.njit(cache=True, nogil=True)
def profile_chain(
    layer_code: Floats,
    shared: Floats,
    hidden_weight: Floats,
    hidden_bias: Floats,
    energy_weight: Floats,
    energy_bias: Floats,
    count_hidden_weight: Floats,
    count_hidden_bias: Floats,
    count_weight: Floats,
    count_bias: Floats,
    highest: Floats,
    uniforms: Floats,
    memory: int,
    empty: float,
) -> tuple[Floats, Floats]:
    """Layers drawn in order of depth: ln shares of the total energy, and numbers of hits, (rows, L) each.

    The same maps as ``model.decoder.Profile.log_likelihood``, one layer after another: ``layer_code`` (rows, L, code),
    ``shared`` (rows, energy features and scaled response), weights (L, inputs, outputs), biases (L, 1, outputs),
    ``highest`` (L,), ``uniforms`` (rows, L, 3): hit at all, energy, number of hits.
    """
    rows, layers, codes = layer_code.shape
    fixed = codes + shared.shape[1]
    inputs = np.zeros(hidden_weight.shape[1], dtype=np.float32)
    hidden = np.empty(hidden_weight.shape[2], dtype=np.float32)
    energy_law = np.empty(energy_weight.shape[2], dtype=np.float32)
    count_inputs = np.empty(count_hidden_weight.shape[1], dtype=np.float32)
    counted = np.empty(count_hidden_weight.shape[2], dtype=np.float32)
    count_law = np.empty(count_weight.shape[2], dtype=np.float32)
    log_shares = np.full((rows, layers), empty, dtype=np.float32)
    counts = np.zeros((rows, layers), dtype=np.float32)
    for row in range(rows):
        spent = 0.0
        inputs[:] = 0.0
        inputs[codes:fixed] = shared[row]
        for layer in range(layers):
            inputs[:codes] = layer_code[row, layer]
            if memory > 0:
                inputs[fixed] = math.log(max(1.0 - spent, 0.0) + LEAST_REMAINING)
            _affine(hidden_weight[layer], hidden_bias[layer, 0], inputs, hidden)
            _hardswish(hidden)
            _affine(energy_weight[layer], energy_bias[layer, 0], hidden, energy_law)
            filled = uniforms[row, layer, 0] * (1 + math.exp(-energy_law[0])) < 1
            share = 0.0
            count = 0.0
            if filled:
                share = min(max(mixture_value(energy_law[1:], uniforms[row, layer, 1]), empty + 1), 0.0)
                count_inputs[: hidden.shape[0]] = hidden
                count_inputs[hidden.shape[0]] = share / 4 + 1
                count_inputs[hidden.shape[0] + 1] = shared[row, -1]
                _affine(count_hidden_weight[layer], count_hidden_bias[layer, 0], count_inputs, counted)
                _hardswish(counted)
                _affine(count_weight[layer], count_bias[layer, 0], counted, count_law)
                value = math.exp(min(max(mixture_value(count_law, uniforms[row, layer, 2]), -1.0), 12.0))
                count = min(max(math.floor(value + 0.5), 1.0), highest[layer])
                spent += math.exp(share)
                log_shares[row, layer] = share
                counts[row, layer] = count
            if memory > 0:
                for place in range(inputs.shape[0] - 1, fixed + 3, -1):
                    inputs[place] = inputs[place - 3]
                inputs[fixed + 1] = 1.0 if filled else 0.0
                inputs[fixed + 2] = share / 4 + 1 if filled else 0.0
                inputs[fixed + 3] = math.log(1.0 + count) - 2.0
    return log_shares, counts


@numba.njit(cache=True, nogil=True)
def nth_largest(values: Floats, count: int, scratch: Floats) -> float:
    """The ``count``-th largest of ``values`` (n,), 1 ≤ count ≤ n (Hoare; ``scratch`` (n,) is overwritten)."""
    for i in range(values.shape[0]):
        scratch[i] = values[i]
    low, high, wanted = 0, values.shape[0] - 1, count - 1
    while low < high:
        pivot = scratch[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while scratch[i] > pivot:
                i += 1
            while scratch[j] < pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return float(scratch[wanted])


@numba.njit(cache=True, nogil=True)
def voxel_energies(
    odds: Floats,
    codes: Floats,
    weight: Floats,
    bias: Floats,
    uniforms: Floats,
    counts: Floats,
    energies: Floats,
) -> Floats:
    """Voxel energies (rows, L, A, R) that sum to ``energies`` (rows, L) over ``counts`` (rows, L) hits of each layer.

    The hits are a Pareto sample (Rosén, J. Stat. Plan. Inference 62, 1997): the voxels of largest ``odds``
    (rows, L, A, R) · u/(1 − u), so that each is hit with nearly the probability of its odds when these probabilities
    sum to the count, as those of a trained decoder do, which sees the count. The hits' energies are values of mixtures
    with raw outputs ``codes`` (rows, L, A, C) · ``weight`` (C, R·3K) + ``bias`` (L, 1, R·3K), scaled to the layer's
    energy. ``uniforms`` (rows, 2, L, A, R).
    """
    rows, layers, angular, radial = odds.shape
    channels, outputs = weight.shape
    width = outputs // radial
    one = np.float32(1)
    showers = np.zeros((rows, layers, angular, radial), dtype=np.float32)
    keys = np.empty(angular * radial, dtype=np.float32)
    scratch = np.empty(angular * radial, dtype=np.float32)
    laws = np.empty(outputs, dtype=np.float32)
    for row in range(rows):
        for layer in range(layers):
            count = int(counts[row, layer])
            if count == 0:
                continue
            for angle in range(angular):
                for ring in range(radial):
                    u = uniforms[row, 0, layer, angle, ring]
                    keys[angle * radial + ring] = odds[row, layer, angle, ring] * u / (one - u)
            lowest = nth_largest(keys, count, scratch)
            total = 0.0
            for angle in range(angular):
                known = False
                for ring in range(radial):
                    if keys[angle * radial + ring] < lowest:
                        continue
                    if not known:
                        known = True
                        for output in range(outputs):
                            laws[output] = bias[layer, 0, output]
                        for channel in range(channels):
                            code = codes[row, layer, angle, channel]
                            for output in range(outputs):
                                laws[output] += code * weight[channel, output]
                    law = laws[ring * width : (ring + 1) * width]
                    value = mixture_value(law, uniforms[row, 1, layer, angle, ring])
                    energy = math.exp(min(max(value, LOWEST_LOG), HIGHEST_LOG))
                    showers[row, layer, angle, ring] = energy
                    total += energy
            scale = energies[row, layer] / total
            for angle in range(angular):
                for ring in range(radial):
                    showers[row, layer, angle, ring] *= scale
    return showers
