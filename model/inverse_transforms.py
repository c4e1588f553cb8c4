"""Draws from the decoder's distributions by inverse transforms of given uniforms, compiled.

A draw depends on its own parameters and uniforms alone, so that a shower is a deterministic function of (latent,
incident energy, uniforms), in any batch. The laws are those of ``qshower.model.likelihood``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qshower.model.fast_math import exp, log, normal_quantile, scale
from qshower.model.share_cells import LEAST_REMAINING
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

LOWEST_UNIFORM = np.float32(1e-7)
LOWEST_LOG, HIGHEST_LOG = np.float32(-12.0), np.float32(8.0)
HIGHEST_LOGIT = np.float32(60.0)
LEAST_MASS = 1e-100
DEEP_TAIL = 1e-6
_ONE = np.float32(1)


@kernel(error_model="numpy")
def mixture_values(outputs: Floats, uniforms: Floats, values: Floats) -> None:
    """Fill ``values`` (n,) with draws from mixtures with raw outputs (3K, ≥ n) and uniforms (≥ n,).

    The uniform picks the component, and what is left of it the component's quantile.
    """
    components, n = outputs.shape[0] // 3, values.shape[0]
    highest = outputs[0, :n].copy()
    for k in range(1, components):
        for i in range(n):
            highest[i] = max(highest[i], outputs[k, i])
    weights = np.empty((components, n), dtype=np.float32)
    left = np.zeros(n, dtype=np.float32)
    for k in range(components):
        for i in range(n):
            weights[k, i] = exp(outputs[k, i] - highest[i])
            left[i] += weights[k, i]
    below = np.zeros(n, dtype=np.float32)
    before = np.zeros(n, dtype=np.float32)
    weight = weights[0].copy()
    mean = outputs[components, :n].copy()
    raw_scale = outputs[2 * components, :n].copy()
    for i in range(n):
        left[i] *= uniforms[i]
    for k in range(1, components):
        for i in range(n):
            below[i] += weights[k - 1, i]
            beyond = left[i] >= below[i]
            before[i] = below[i] if beyond else before[i]
            weight[i] = weights[k, i] if beyond else weight[i]
            mean[i] = outputs[components + k, i] if beyond else mean[i]
            raw_scale[i] = outputs[2 * components + k, i] if beyond else raw_scale[i]
    for i in range(n):
        within = min(max((left[i] - before[i]) / weight[i], LOWEST_UNIFORM), _ONE - LOWEST_UNIFORM)
        values[i] = mean[i] + scale(raw_scale[i]) * normal_quantile(within)


@kernel(error_model="numpy")
def _below(z: float) -> float:
    """Standard normal probability of values below z, exact in the lower tail."""
    return 0.5 * math.erfc(-z * math.sqrt(0.5))


@kernel(error_model="numpy")
def bounded_mixture(outputs: Floats, uniform: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """One draw between ``low`` and ``high`` from a mixture with raw outputs (3K,).

    Where the mixture has nothing there, the bound that is nearer to its likeliest component.
    """
    components = outputs.shape[0] // 3
    highest = outputs[:components].max()
    first, last = np.empty(components), np.empty(components)
    masses = np.empty(components)
    whole = 0.0
    for k in range(components):
        deviation = float(scale(outputs[2 * components + k]))
        a, b = (low - outputs[components + k]) / deviation, (high - outputs[components + k]) / deviation
        # Signs of quantiles are turned where both bounds are in the upper tail.
        first[k], last[k] = (-b, -a) if a > 0 else (a, b)
        masses[k] = float(exp(outputs[k] - highest)) * (_below(last[k]) - _below(first[k]))
        whole += masses[k]
    if not whole > LEAST_MASS:
        middle = outputs[components + np.argmax(outputs[:components])]
        return low if abs(low - middle) < abs(high - middle) else high
    left, chosen = whole * uniform, 0
    while chosen < components - 1 and left >= masses[chosen]:
        left -= masses[chosen]
        chosen += 1
    within = min(max(left / max(masses[chosen], LEAST_MASS), float(LOWEST_UNIFORM)), 1.0 - float(LOWEST_UNIFORM))
    a, b = first[chosen], last[chosen]
    probability = _below(a) + within * (_below(b) - _below(a))
    if probability > DEEP_TAIL:
        z = float(normal_quantile(np.float32(min(probability, 1.0 - float(LOWEST_UNIFORM)))))
    else:
        z = b + math.log(within) / abs(b)
    z = min(max(z, a), b)
    mean, deviation = outputs[components + chosen], float(scale(outputs[2 * components + chosen]))
    upper = low > mean
    value = np.float32(mean - deviation * z if upper else mean + deviation * z)
    return min(max(value, low), high)


@kernel(error_model="numpy", fastmath={"contract"})
def _affine(weight: Floats, bias: Floats, values: Floats, outputs: Floats) -> None:
    """outputs (o,) = values (i,) @ weight (i, o) + bias (o,)."""
    inputs, width = values.shape[0], outputs.shape[0]
    for o in range(width):
        outputs[o] = bias[o]
    whole = inputs - inputs % 4
    for i in range(0, whole, 4):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        for o in range(width):
            outputs[o] += (a * weight[i, o] + b * weight[i + 1, o]) + (c * weight[i + 2, o] + d * weight[i + 3, o])
    for i in range(whole, inputs):
        a = values[i]
        for o in range(width):
            outputs[o] += a * weight[i, o]


@kernel(error_model="numpy")
def affine(values: Floats, weight: Floats, bias: Floats) -> Floats:
    """(rows, o) = values (rows, i) @ weight (i, o) + bias (o,), each row by the same operations wherever it stands.

    A BLAS may choose its kernels by a row's place in the matrix: MKL does on some processors where o is small.
    """
    outputs = np.empty((values.shape[0], bias.shape[0]), dtype=np.float32)
    for row in range(values.shape[0]):
        _affine(weight, bias, values[row], outputs[row])
    return outputs


@kernel(error_model="numpy")
def _hardswish(values: Floats) -> None:
    """x · min(max(x + 3, 0), 6) / 6, in place."""
    for i in range(values.shape[0]):
        x = values[i]
        values[i] = x * min(max(x + np.float32(3), np.float32(0)), np.float32(6)) * np.float32(1 / 6)


@kernel(error_model="numpy")
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
    low: Floats,
    high: Floats,
) -> tuple[Floats, Floats]:
    """Layers drawn in order of depth: ln shares of the total energy, and numbers of hits, (rows, L) each.

    The same maps as ``qshower.model.decoder.Profile.log_likelihood``, one layer after another: ``layer_code`` (rows, L,
    code), ``shared`` (rows, energy features and scaled response), weights (L, inputs, outputs), biases (L, 1, outputs),
    ``highest`` (L,), ``uniforms`` (rows, L, 3): hit at all, energy, number of hits. ``low`` and ``high`` (rows, L)
    bound the ln shares of what is left; without rows they are unbounded.
    """
    bounded = low.shape[0] > 0
    rows, layers, codes = layer_code.shape
    fixed, width = codes + shared.shape[1], hidden_weight.shape[2]
    inputs = np.zeros((rows, hidden_weight.shape[1]), dtype=np.float32)
    inputs[:, codes:fixed] = shared
    hidden = np.empty((rows, width), dtype=np.float32)
    law = np.empty(energy_weight.shape[2], dtype=np.float32)
    energy_laws = np.empty((law.size, rows), dtype=np.float32)
    count_inputs = np.empty(width + 2, dtype=np.float32)
    counted = np.empty(count_hidden_weight.shape[2], dtype=np.float32)
    count_law = np.empty(count_weight.shape[2], dtype=np.float32)
    count_laws = np.zeros((count_law.size, rows), dtype=np.float32)
    filled = np.empty(rows, dtype=np.bool_)
    spent = np.zeros(rows, dtype=np.float32)
    drawn_shares, drawn_counts = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.float32)
    log_shares = np.empty((rows, layers), dtype=np.float32)
    counts = np.empty((rows, layers), dtype=np.float32)
    for layer in range(layers):
        for row in range(rows):
            inputs[row, :codes] = layer_code[row, layer]
            if memory > 0:
                inputs[row, fixed] = log(max(_ONE - spent[row], np.float32(0)) + np.float32(LEAST_REMAINING))
            _affine(hidden_weight[layer], hidden_bias[layer, 0], inputs[row], hidden[row])
            _hardswish(hidden[row])
            _affine(energy_weight[layer], energy_bias[layer, 0], hidden[row], law)
            energy_laws[:, row] = law
        if bounded:
            for row in range(rows):
                left = log(max(_ONE - spent[row], np.float32(0)) + np.float32(LEAST_REMAINING))
                least = max(low[row, layer] + left, np.float32(empty + 1))
                most = max(min(high[row, layer], np.float32(0)) + left, least)
                drawn_shares[row] = bounded_mixture(energy_laws[1:, row], uniforms[row, layer, 1], least, most)
        else:
            mixture_values(energy_laws[1:], uniforms[:, layer, 1].copy(), drawn_shares)
        for row in range(rows):
            filled[row] = uniforms[row, layer, 0] * (_ONE + exp(-energy_laws[0, row])) < _ONE
            if filled[row]:
                drawn_shares[row] = min(max(drawn_shares[row], np.float32(empty + 1)), np.float32(0))
                count_inputs[:width] = hidden[row]
                count_inputs[width] = drawn_shares[row] / np.float32(4) + _ONE
                count_inputs[width + 1] = shared[row, -1]
                _affine(count_hidden_weight[layer], count_hidden_bias[layer, 0], count_inputs, counted)
                _hardswish(counted)
                _affine(count_weight[layer], count_bias[layer, 0], counted, count_law)
                count_laws[:, row] = count_law
        mixture_values(count_laws, uniforms[:, layer, 2].copy(), drawn_counts)
        for row in range(rows):
            share, count = np.float32(empty), np.float32(0)
            if filled[row]:
                share = drawn_shares[row]
                value = exp(min(max(drawn_counts[row], np.float32(-1)), np.float32(12)))
                count = min(max(np.float32(math.floor(value + np.float32(0.5))), _ONE), highest[layer])
                spent[row] += exp(share)
            log_shares[row, layer] = share
            counts[row, layer] = count
            if memory > 0:
                for place in range(inputs.shape[1] - 1, fixed + 3, -1):
                    inputs[row, place] = inputs[row, place - 3]
                inputs[row, fixed + 1] = _ONE if filled[row] else np.float32(0)
                inputs[row, fixed + 2] = share / np.float32(4) + _ONE if filled[row] else np.float32(0)
                inputs[row, fixed + 3] = log(_ONE + count) - np.float32(2)
    return log_shares, counts


@kernel(error_model="numpy")
def threshold_of_largest(values: Floats, count: int) -> np.float32:
    """A value that the ``count`` largest of ``values`` (n,), all ≥ 0, reach and no other does, equal ones apart."""
    # Floats that are not negative are in the order of their bits, which are halved until as many are above as wanted.
    bits = values.view(np.int32)
    low, high = bits.min(), bits.max() + 1
    while high - low > 1:
        middle = low + ((high - low) >> 1)
        above = np.int32(0)
        for i in range(bits.shape[0]):
            above += np.int32(bits[i] >= middle)
        if above >= count:
            low = middle
            if above == count:
                break
        else:
            high = middle
    return np.float32(np.int32(low).view(np.float32))


@kernel(error_model="numpy")
def voxel_energies(
    logits: Floats,
    codes: Floats,
    weight: Floats,
    bias: Floats,
    uniforms: Floats,
    start: int,
    counts: Floats,
    energies: Floats,
) -> Floats:
    """Voxel energies (rows, L, A, R) that sum to ``energies`` (rows, L) over ``counts`` (rows, L) hits of each layer.

    The hits are a Pareto sample (Rosén, J. Stat. Plan. Inference 62, 1997): the voxels of largest e^logit · u/(1 − u),
    ``logits`` (rows, L, A, R), so that each is hit with nearly the probability of its logit when these probabilities
    sum to the count, as those of a trained decoder do, which sees the count. The hits' energies are values of mixtures
    with raw outputs ``codes`` (rows, L, A, C) · ``weight`` (C, R·3K) + ``bias`` (L, 1, R·3K), scaled to the layer's
    energy. The numbers of ``uniforms`` (rows, ·) from ``start`` on are used, (L, A, R) for the hits and as many for the
    energies.
    """
    rows, layers, angular, radial = logits.shape
    width = weight.shape[1] // radial
    voxels = angular * radial
    showers = np.zeros((rows, layers * voxels), dtype=np.float32)
    keys = np.empty(voxels, dtype=np.float32)
    outputs = np.empty(weight.shape[1], dtype=np.float32)
    # The hits of one shower, layer by layer: their place, and what their energies are drawn from.
    places = np.empty(layers * voxels, dtype=np.int32)
    laws = np.empty((width, layers * voxels), dtype=np.float32)
    chosen = np.empty(layers * voxels, dtype=np.float32)
    values = np.empty(layers * voxels, dtype=np.float32)
    ends = np.zeros(layers + 1, dtype=np.int64)
    for row in range(rows):
        hits = 0
        for_hits = uniforms[row, start : start + layers * voxels]
        for_energies = uniforms[row, start + layers * voxels : start + 2 * layers * voxels]
        for layer in range(layers):
            count = int(counts[row, layer])
            if count > 0:
                logit, u = logits[row, layer].reshape(-1), for_hits[layer * voxels : (layer + 1) * voxels]
                for voxel in range(voxels):
                    keys[voxel] = exp(min(logit[voxel], HIGHEST_LOGIT)) * u[voxel] / (_ONE - u[voxel])
                lowest = threshold_of_largest(keys, count)
                for angle in range(angular):
                    begun = hits
                    for voxel in range(angle * radial, (angle + 1) * radial):
                        places[hits] = layer * voxels + voxel
                        hits += keys[voxel] >= lowest
                    if hits == begun:
                        continue
                    _affine(weight, bias[layer, 0], codes[row, layer, angle], outputs)
                    for hit in range(begun, hits):
                        ring = places[hit] - layer * voxels - angle * radial
                        for output in range(width):
                            laws[output, hit] = outputs[ring * width + output]
                        chosen[hit] = for_energies[places[hit]]
            ends[layer + 1] = hits
        mixture_values(laws, chosen, values[:hits])
        for hit in range(hits):
            values[hit] = exp(min(max(values[hit], LOWEST_LOG), HIGHEST_LOG))
        for layer in range(layers):
            total = 0.0
            for hit in range(ends[layer], ends[layer + 1]):
                total += values[hit]
            factor = np.float32(energies[row, layer] / total) if total > 0 else np.float32(0)
            for hit in range(ends[layer], ends[layer + 1]):
                showers[row, places[hit]] = values[hit] * factor
    return showers.reshape(rows, layers, angular, radial)
