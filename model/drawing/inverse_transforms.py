"""Draws from the decoder's distributions by inverse transforms of given uniforms, compiled.

A draw depends on its own parameters and uniforms alone, so that a shower is a deterministic function of (latent,
incident energy, uniforms), in any batch. The laws are those of ``qshower.model.likelihood``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.drawing.fast_math import below, exp, log_64, normal_quantile, scale
from qshower.model.drawing.products import LANES
from qshower.sampler.jit.kernel import kernel

Floats = NDArray[np.float32]

LAW = 9
"""Raw outputs of a mixture of three: logits of the weights, means, raw scales."""
LOWEST_UNIFORM = np.float32(1e-7)
LEAST_MASS = 1e-100
DEEP_TAIL = 1e-6
_ONE = np.float32(1)


@kernel(error_model="numpy")
def put_law(outputs: Floats, at: int, laws: Floats, place: int) -> None:
    """Write the law that stands in ``outputs`` (·,) from ``at`` on, LAW numbers, to its place in ``laws``."""
    to = place // LANES * LAW * LANES + place % LANES
    for k in range(LAW):
        laws[to + k * LANES] = outputs[at + k]


@kernel(error_model="numpy")
def mixture_values(laws: Floats, uniforms: Floats, values: Floats, count: int) -> None:
    """Fill the first ``count`` of ``values`` with draws from mixtures of three components.

    Law number i has the raw outputs ``laws[i // LANES, k, i % LANES]``, k < LAW, of a flat array: so the compiler can
    draw LANES at once. ``uniforms`` and ``values`` are filled to whole LANES as well. The uniform picks the component,
    and what is left of it the component's quantile.
    """
    for block in range((count + LANES - 1) // LANES):
        at, to = block * LAW * LANES, block * LANES
        for lane in range(LANES):
            own = at + lane
            # All are read before one is chosen: a choice of numbers is a vector instruction, one of addresses is not.
            first, second, third = laws[own], laws[own + LANES], laws[own + 2 * LANES]
            mean, mean_2, mean_3 = laws[own + 3 * LANES], laws[own + 4 * LANES], laws[own + 5 * LANES]
            raw, raw_2, raw_3 = laws[own + 6 * LANES], laws[own + 7 * LANES], laws[own + 8 * LANES]
            highest = max(max(first, second), third)
            weight, second, third = exp(first - highest), exp(second - highest), exp(third - highest)
            both = weight + second
            left, before = (both + third) * uniforms[to + lane], np.float32(0)
            if left >= weight:
                before, weight, mean, raw = weight, second, mean_2, raw_2
            if left >= both:
                before, weight, mean, raw = both, third, mean_3, raw_3
            within = min(max((left - before) / weight, LOWEST_UNIFORM), _ONE - LOWEST_UNIFORM)
            values[to + lane] = mean + scale(raw) * normal_quantile(within)


@kernel(error_model="numpy")
def whole_lanes(count: int) -> int:
    """``count``, and what fills it to whole LANES."""
    return (count + LANES - 1) // LANES * LANES


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
        masses[k] = float(exp(outputs[k] - highest)) * (below(last[k]) - below(first[k]))
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
    probability = below(a) + within * (below(b) - below(a))
    if probability > DEEP_TAIL:
        z = float(normal_quantile(np.float32(min(probability, 1.0 - float(LOWEST_UNIFORM)))))
    else:
        z = b + log_64(within) / abs(b)
    z = min(max(z, a), b)
    mean, deviation = outputs[components + chosen], float(scale(outputs[2 * components + chosen]))
    upper = low > mean
    value = np.float32(mean - deviation * z if upper else mean + deviation * z)
    return min(max(value, low), high)


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
