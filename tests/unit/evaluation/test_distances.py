"""FPD and KPD: the golden values, plain loops, and what must not change them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import sqrtm

from qshower.evaluation.distances import FpdSettings, KpdSettings, fpd, frechet_distance, kpd
from qshower.sampler.errors import InvalidInputError

SMALL_FPD = FpdSettings(min_samples=200, max_samples=1000, repeats=5, points=5)


@pytest.fixture(scope="module")
def golden() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(10_000, 50)), rng.normal(loc=0.05, size=(10_000, 50))


def test_fpd_golden_value(golden: tuple[np.ndarray, np.ndarray]) -> None:
    result = fpd(*golden, FpdSettings(min_samples=10_000))
    assert result.value == pytest.approx(0.0158036888, abs=1e-6)
    assert result.error == pytest.approx(0.000186031, abs=1e-6)
    assert result.count == 10_000


def test_kpd_golden_value(golden: tuple[np.ndarray, np.ndarray]) -> None:
    result = kpd(*golden, KpdSettings(batch_size=5000))
    assert result.value == pytest.approx(0.000697066977, abs=1e-6)
    assert result.error == pytest.approx(5.4117e-05, abs=1e-6)


def test_frechet_distance_of_gaussians_is_the_textbook_formula(rng: np.random.Generator) -> None:
    first, second = rng.normal(size=(60, 7)), rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    m1, m2 = first.mean(axis=0), second.mean(axis=0)
    expected = (m1 - m2) @ (m1 - m2) + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_of_singular_covariances() -> None:
    c1, c2 = np.diag([4.0, 0.0]), np.diag([1.0, 0.0])
    assert frechet_distance(np.zeros(2), c1, np.array([0.0, 3.0]), c2) == pytest.approx(9 + (2 - 1) ** 2)


@pytest.mark.parametrize("features", [7, 30, 200])
def test_fpd_of_few_rows_is_the_distance_of_their_covariances(rng: np.random.Generator, features: int) -> None:
    """Rows fewer than features or not; 30 features: more than the distinct rows of some draws, fewer than others'."""
    x, y = rng.normal(size=(40, features)), rng.normal(loc=0.5, size=(50, features))
    scale = np.abs(x).max(axis=0)
    settings = FpdSettings(min_samples=20, max_samples=120, repeats=2, points=3)
    draws = np.random.default_rng(settings.seed)
    sizes = [int(1 / share) for share in np.linspace(1 / 20, 1 / 120, 3)]
    means = []
    for size in sizes:
        values = []
        for _ in range(2):
            drawn = [(rows / scale)[draws.choice(len(rows), size=size)] for rows in (x, y)]
            moments = [moment for rows in drawn for moment in (rows.mean(axis=0), np.cov(rows, rowvar=False))]
            values.append(frechet_distance(*moments))
        means.append(np.mean(values))
    slope, expected = np.polyfit(1 / np.array(sizes), means, 1)
    assert slope > 0
    assert fpd(x, y, settings).value == pytest.approx(expected, rel=1e-6)


def test_kpd_is_the_unbiased_estimate_by_plain_loops(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 3)), rng.normal(loc=0.5, size=(50, 3))
    settings = KpdSettings(batch_size=30, batches=3)
    scale = np.abs(x).max(axis=0)
    values = []
    for batch in range(3):
        draw = np.random.default_rng(42 + 1000 * batch)
        first, second = (x / scale)[draw.choice(40, size=30)], (y / scale)[draw.choice(50, size=30)]

        def kernel(a: np.ndarray, b: np.ndarray) -> float:
            return float((a @ b / 3 + 1) ** 4)

        xx = sum(kernel(first[i], first[j]) for i in range(30) for j in range(30) if i != j) / (30 * 29)
        yy = sum(kernel(second[i], second[j]) for i in range(30) for j in range(30) if i != j) / (30 * 29)
        xy = sum(kernel(a, b) for a in first for b in second) / 900
        values.append(xx + yy - 2 * xy)
    result = kpd(x, y, settings)
    assert result.value == pytest.approx(float(np.median(values)), rel=1e-4)
    low, high = np.percentile(values, [16.275, 83.725])
    assert result.error == pytest.approx((high - low) / 2, rel=1e-4)
    assert result.count == 40


def test_larger_shifts_are_larger_distances(rng: np.random.Generator) -> None:
    x = rng.normal(size=(500, 10))
    values = [
        (fpd(x, x[::-1] + shift, SMALL_FPD).value, kpd(x, x[::-1] + shift, KpdSettings(batch_size=300)).value)
        for shift in (0.0, 0.3, 1.0)
    ]
    for smaller, larger in pairwise(values):
        assert smaller[0] < larger[0]
        assert smaller[1] < larger[1]


def test_scales_of_features_do_not_matter(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(300, 5)), rng.normal(loc=0.2, size=(300, 5))
    units = np.array([1.0, 2.0**20, 2.0**-20, 8.0, 2.0])
    assert fpd(x * units, y * units, SMALL_FPD).value == pytest.approx(fpd(x, y, SMALL_FPD).value, rel=1e-9)


def test_constant_features_are_harmless(rng: np.random.Generator) -> None:
    x = np.column_stack([rng.normal(size=200), np.zeros(200), np.full(200, 7.0)])
    y = np.column_stack([rng.normal(size=200), np.zeros(200), np.full(200, 7.0)])
    assert math.isfinite(fpd(x, y, SMALL_FPD).value)
    assert math.isfinite(kpd(x, y, KpdSettings(batch_size=100)).value)


def test_settings_shrink_with_the_number_of_rows() -> None:
    assert FpdSettings().fitted_to(10_000) == FpdSettings()
    assert FpdSettings().fitted_to(300) == FpdSettings(min_samples=300, max_samples=1500)
    assert KpdSettings().fitted_to(300).batch_size == 300
    assert KpdSettings().fitted_to(20_000) == KpdSettings()


def test_progress_reaches_the_end(rng: np.random.Generator) -> None:
    shares: list[float] = []
    x = rng.normal(size=(100, 3))
    fpd(x, x, SMALL_FPD, progress=shares.append)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.ones((1, 3)), np.ones((5, 3))),
        (np.ones((5, 3)), np.ones((5, 4))),
        (np.ones((5, 3)), np.full((5, 3), np.nan)),
        (np.ones(5), np.ones(5)),
    ],
)
def test_rows_that_have_no_distance_are_refused(first: np.ndarray, second: np.ndarray) -> None:
    for distance in (fpd, kpd):
        with pytest.raises(InvalidInputError):
            distance(first, second)
