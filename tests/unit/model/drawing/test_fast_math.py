"""Elementary functions against double precision."""

from typing import Any

import numba
import numpy as np
import torch
from scipy import special, stats

from qshower.model.drawing import fast_math
from qshower.model.likelihood import NormalMixture


def applied(function: Any, values: np.ndarray) -> np.ndarray:
    """``function`` of every element, compiled as the draws are."""

    @numba.njit(error_model="numpy")
    def every(values: np.ndarray, results: np.ndarray) -> None:
        for i in range(values.shape[0]):
            results[i] = function(values[i])

    results = np.empty_like(values)
    every(values, results)
    return results.astype(np.float64)


def test_functions_of_single_precision_match_double_precision() -> None:
    x = np.linspace(-86, 87, 100_001).astype(np.float32)
    np.testing.assert_allclose(applied(fast_math.exp, x), np.exp(x.astype(np.float64)), rtol=1e-7)
    beyond = np.array([-1e30, -88, 89, 1e30], dtype=np.float32)
    np.testing.assert_allclose(applied(fast_math.exp, beyond), np.exp([-87.0, -87.0, 88.0, 88.0]), rtol=1e-7)
    x = np.geomspace(1e-30, 1e30, 100_001).astype(np.float32)
    np.testing.assert_allclose(applied(fast_math.log, x), np.log(x.astype(np.float64)), rtol=1e-7, atol=1e-7)
    p = np.concatenate([np.geomspace(1e-7, 0.5, 50_000), 1 - np.geomspace(1e-7, 0.5, 50_000)]).astype(np.float32)
    exact = stats.norm.ppf(p.astype(np.float64))
    np.testing.assert_allclose(applied(fast_math.normal_quantile, p), exact, rtol=1e-6, atol=1e-8)
    raw = np.linspace(-30, 30, 1001).astype(np.float32)
    law = NormalMixture.from_outputs(torch.from_numpy(np.stack([raw, raw, raw], axis=1)).double())
    np.testing.assert_allclose(applied(fast_math.scale, raw), law.log_scales.exp().numpy().ravel(), rtol=1e-5)


def test_activations_are_those_of_torch() -> None:
    x = np.linspace(-30, 30, 100_001).astype(np.float32)
    wide = torch.from_numpy(x).double()
    error = np.abs(applied(fast_math.gelu, x) - torch.nn.functional.gelu(wide).numpy())
    assert (error <= 2e-7 * np.abs(x)).all()
    hardswish = torch.nn.functional.hardswish(wide).numpy()
    np.testing.assert_allclose(applied(fast_math.hardswish, x), hardswish, rtol=1e-6, atol=1e-6)


def test_functions_of_double_precision() -> None:
    x = np.geomspace(1e-300, 1e300, 20_001)
    np.testing.assert_allclose(applied(fast_math.log_64, x), np.log(x), rtol=1e-15, atol=1e-15)
    x = np.linspace(-700, 700, 20_001)
    np.testing.assert_allclose(applied(fast_math.exp_64, x), np.exp(x), rtol=1e-13)
    t = np.linspace(-4, 4, 20_001)
    np.testing.assert_allclose(applied(fast_math.sine, t), np.sin(np.pi * t), atol=1e-11)
    z = np.linspace(-37, 9, 20_001)
    np.testing.assert_allclose(applied(fast_math.below, z), special.ndtr(z), rtol=1e-12)


def test_a_fused_operation_is_rounded_once() -> None:
    @numba.njit
    def both(numbers: np.ndarray, results: np.ndarray) -> None:
        a, b, c = numbers[0], numbers[1], numbers[2]
        results[0], results[1] = fast_math.fma(a, b, c), a * b + c

    a, results = 1 + 2.0**-12, np.empty(2, dtype=np.float32)
    both(np.array([a, a, -1], dtype=np.float32), results)
    fused, apart = results
    assert fused == 2.0**-11 + 2.0**-24
    # Nor does the compiler fuse what is written apart.
    assert apart == 2.0**-11
