"""The compiled draws follow the laws whose densities the networks are trained with."""

from collections.abc import Callable

import numba
import numpy as np
import pytest
import torch
from scipy import stats

from qshower.model import fast_math
from qshower.model.inverse_transforms import mixture_values, threshold_of_largest, voxel_energies
from qshower.model.likelihood import NormalMixture, count_log_probability

# Kolmogorov-Smirnov and chi-squared tests below have a false-alarm rate of 1e-6 each.
FALSE_ALARM = 1e-6


def applied(function: Callable[[np.float32], np.float32], values: np.ndarray) -> np.ndarray:
    """``function`` of every element, compiled as the draws are."""

    @numba.njit(error_model="numpy")
    def every(values: np.ndarray, results: np.ndarray) -> None:
        for i in range(values.shape[0]):
            results[i] = function(values[i])

    results = np.empty_like(values)
    every(values, results)
    return results.astype(np.float64)


def test_elementary_functions_match_double_precision() -> None:
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


def test_mixture_values_follow_the_density(rng: np.random.Generator) -> None:
    outputs = np.array([0.3, -0.5, 1.0, -1.0, 0.5, 2.0, -0.7, -1.5, 0.2], dtype=np.float32)
    mixture = NormalMixture.from_outputs(torch.from_numpy(outputs))
    values = np.empty(20_000, dtype=np.float32)
    mixture_values(np.tile(outputs[:, None], (1, 20_000)), rng.random(20_000).astype(np.float32), values)
    law = lambda x: mixture.cumulative(torch.tensor(x, dtype=torch.float32)).double().numpy()  # noqa: E731
    assert stats.kstest(values, law).pvalue > FALSE_ALARM
    grid = torch.linspace(-15, 15, 30_001)
    mass = torch.trapezoid(mixture.log_density(grid).exp(), grid)
    assert mass.item() == pytest.approx(1.0, abs=1e-4)
    density = mixture.cumulative(grid).diff() / grid.diff()
    torch.testing.assert_close(
        density[5::1000], mixture.log_density((grid[1:] + grid[:-1]) / 2).exp()[5::1000], rtol=0.05, atol=1e-3
    )


def test_count_probabilities_sum_to_one() -> None:
    mixture = NormalMixture.from_outputs(torch.tensor([[0.0, 1.0, 0.7, 2.5, -0.3, 0.2]]))
    counts = torch.arange(1.0, 145.0)
    log_probability = count_log_probability(mixture, counts, torch.tensor(144.0))
    assert log_probability.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_hits_number_as_asked_and_layers_sum_to_their_energy(rng: np.random.Generator) -> None:
    rows, layers, angular, radial, channels = 40, 3, 16, 9, 8
    shape = (rows, layers, angular, radial)
    counts = rng.integers(0, 145, (rows, layers)).astype(np.float32)
    energies = rng.gamma(2.0, 100.0, (rows, layers)).astype(np.float32)
    showers = voxel_energies(
        rng.normal(size=shape).astype(np.float32),
        rng.normal(size=(rows, layers, angular, channels)).astype(np.float32),
        rng.normal(size=(channels, radial * 9)).astype(np.float32) * 0.1,
        rng.normal(size=(layers, 1, radial * 9)).astype(np.float32),
        rng.uniform(1e-6, 1 - 1e-6, (rows, 3 + 2 * layers * angular * radial)).astype(np.float32),
        3,
        counts,
        energies,
    )
    np.testing.assert_array_equal((showers > 0).sum(axis=(2, 3)), counts)
    np.testing.assert_allclose(showers.sum(axis=(2, 3)), np.where(counts > 0, energies, 0), rtol=1e-5)


def test_hits_come_with_the_probability_of_their_logits(rng: np.random.Generator) -> None:
    """Pareto sampling keeps inclusion probabilities that sum to the count: 24 voxels, 9 hits, tolerance 0.015.

    Five standard deviations of a frequency over 40,000 rows are 0.0125 at most.
    """
    probability = rng.beta(0.7, 1.0, 24)
    logits = np.log(probability / (1 - probability))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).sum() < 9 else (low, middle)
    logits += low
    rows = 40_000
    outputs = voxel_energies(
        np.tile(logits.astype(np.float32), (rows, 1)).reshape(rows, 1, 4, 6),
        np.zeros((rows, 1, 4, 4), dtype=np.float32),
        np.zeros((4, 54), dtype=np.float32),
        np.zeros((1, 1, 54), dtype=np.float32),
        rng.uniform(1e-6, 1 - 1e-6, (rows, 48)).astype(np.float32),
        0,
        np.full((rows, 1), 9, dtype=np.float32),
        np.ones((rows, 1), dtype=np.float32),
    )
    np.testing.assert_allclose((outputs > 0).mean(axis=0).ravel(), 1 / (1 + np.exp(-logits)), atol=0.015)


@pytest.mark.parametrize("top", [1e-6, 1.0, 1e30])
def test_the_largest_values_reach_their_threshold(rng: np.random.Generator, top: float) -> None:
    values = (top * rng.random(144) ** 4).astype(np.float32)
    assert len(np.unique(values)) == 144
    for count in range(1, 145):
        assert np.count_nonzero(values >= threshold_of_largest(values, count)) == count


def test_equal_values_reach_their_threshold_together(rng: np.random.Generator) -> None:
    values = rng.integers(0, 3, 144).astype(np.float32)
    ordered = np.sort(values)[::-1]
    for count in range(1, 145):
        reached = values >= threshold_of_largest(values, count)
        np.testing.assert_array_equal(reached, values >= ordered[count - 1])
