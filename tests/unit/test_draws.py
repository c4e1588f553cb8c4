"""The compiled draws follow the laws whose densities the networks are trained with."""

import numpy as np
import pytest
import torch
from scipy import stats

from model.draws import mixture_values, normal_quantile, nth_largest, voxel_energies
from model.likelihood import NormalMixture, count_log_probability

# Kolmogorov-Smirnov and chi-squared tests below have a false-alarm rate of 1e-6 each.
FALSE_ALARM = 1e-6


def test_normal_quantile_matches_scipy() -> None:
    p = np.concatenate([np.geomspace(1e-7, 0.5, 400), 1 - np.geomspace(1e-7, 0.5, 400)])
    ours = np.array([normal_quantile(value) for value in p])
    np.testing.assert_allclose(ours, stats.norm.ppf(p), rtol=3e-8, atol=1e-8)


def test_mixture_values_follow_the_density(rng: np.random.Generator) -> None:
    outputs = np.array([0.3, -0.5, 1.0, -1.0, 0.5, 2.0, -0.7, -1.5, 0.2], dtype=np.float32)
    mixture = NormalMixture.from_outputs(torch.from_numpy(outputs))
    values = mixture_values(np.tile(outputs, (20_000, 1)), rng.random(20_000).astype(np.float32))
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
        np.exp(rng.normal(size=shape)).astype(np.float32),
        rng.normal(size=(rows, layers, angular, channels)).astype(np.float32),
        rng.normal(size=(channels, radial * 9)).astype(np.float32) * 0.1,
        rng.normal(size=(layers, 1, radial * 9)).astype(np.float32),
        rng.uniform(1e-6, 1 - 1e-6, (rows, 2, layers, angular, radial)).astype(np.float32),
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
        np.tile(np.exp(logits).astype(np.float32), (rows, 1)).reshape(rows, 1, 4, 6),
        np.zeros((rows, 1, 4, 4), dtype=np.float32),
        np.zeros((4, 54), dtype=np.float32),
        np.zeros((1, 1, 54), dtype=np.float32),
        rng.uniform(1e-6, 1 - 1e-6, (rows, 2, 1, 4, 6)).astype(np.float32),
        np.full((rows, 1), 9, dtype=np.float32),
        np.ones((rows, 1), dtype=np.float32),
    )
    np.testing.assert_allclose((outputs > 0).mean(axis=0).ravel(), 1 / (1 + np.exp(-logits)), atol=0.015)


@pytest.mark.parametrize("distinct", [3, 1000])
def test_nth_largest_is_that_of_the_sorted_values(rng: np.random.Generator, distinct: int) -> None:
    values = rng.integers(0, distinct, 144).astype(np.float32)
    scratch = np.empty_like(values)
    ordered = np.sort(values)[::-1]
    assert [nth_largest(values, count, scratch) for count in range(1, 145)] == ordered.tolist()
