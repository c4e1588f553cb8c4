"""The compiled draws follow the laws whose densities the networks are trained with."""

import numpy as np
import pytest
import torch
from scipy import stats

from qshower.model.drawing.inverse_transforms import bounded_mixture, threshold_of_largest
from qshower.model.likelihood import NormalMixture, count_log_probability
from tests.mixtures import mixture_draws

# Kolmogorov-Smirnov and chi-squared tests below have a false-alarm rate of 1e-6 each.
FALSE_ALARM = 1e-6


def test_mixture_values_follow_the_density(rng: np.random.Generator) -> None:
    outputs = np.array([0.3, -0.5, 1.0, -1.0, 0.5, 2.0, -0.7, -1.5, 0.2], dtype=np.float32)
    mixture = NormalMixture.from_outputs(torch.from_numpy(outputs))
    values = mixture_draws(np.tile(outputs, (20_000, 1)), rng.random(20_000).astype(np.float32))
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


@pytest.mark.parametrize(("low", "high"), [(-1.6, -1.2), (-11.0, -4.0), (-0.2, 0.0), (3.0, 5.0), (-11.0, 0.0)])
def test_a_bounded_draw_has_the_law_of_the_mixture_between_its_bounds(low: float, high: float) -> None:
    outputs = np.array([0, 0.5, -1, -2, -1.5, -0.3, -1.0, -2, -0.5], dtype=np.float32)
    uniforms = (np.arange(4000, dtype=np.float32) + np.float32(0.5)) / 4000
    drawn = np.sort([bounded_mixture(outputs, u, np.float32(low), np.float32(high)) for u in uniforms])
    assert (drawn[0] >= low, drawn[-1] <= high) == (True, True)
    x = torch.linspace(low, high, 4001)
    density = NormalMixture.from_outputs(torch.from_numpy(outputs)).log_density(x).double().exp()
    below = (density.cumsum(0) / density.sum()).numpy()
    # In the far tails the law is taken as exponential.
    np.testing.assert_allclose(np.searchsorted(drawn, x.numpy()) / 4000, below, atol=0.03)


def test_a_cell_where_the_mixture_has_nothing_gives_its_nearer_bound() -> None:
    outputs = np.array([0, -9, -9, -2, -2, -2, -9, -9, -9], dtype=np.float32)
    assert bounded_mixture(outputs, np.float32(0.5), np.float32(0.5), np.float32(1)) == np.float32(0.5)
    assert bounded_mixture(outputs, np.float32(0.5), np.float32(-9), np.float32(-5)) == np.float32(-5)
