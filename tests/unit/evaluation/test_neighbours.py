"""Precision, recall, density and coverage against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.evaluation import neighbours
from qshower.evaluation.neighbours import log_voxels, prdc
from qshower.sampler.errors import InvalidInputError


def plain_prdc(x: np.ndarray, y: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def radius(points: np.ndarray, index: int) -> float:
        return sorted(float(np.sum((points[index] - other) ** 2)) for i, other in enumerate(points) if i != index)[
            k - 1
        ]

    x_radii, y_radii = [radius(x, i) for i in range(len(x))], [radius(y, i) for i in range(len(y))]
    inside = np.array([[np.sum((a - b) ** 2) < r for b in y] for a, r in zip(x, x_radii, strict=True)])
    recalled = [any(np.sum((a - b) ** 2) < r for b, r in zip(y, y_radii, strict=True)) for a in x]
    return (
        float(inside.any(axis=0).mean()),
        float(np.mean(recalled)),
        float(inside.sum() / (k * len(y))),
        float(inside.any(axis=1).mean()),
    )


def test_plain_loops_agree(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 16)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    y = rng.normal(loc=0.7, size=(50, 4)).astype(np.float32)
    found = prdc(x, y, neighbours=3)
    expected = plain_prdc(x.astype(np.float64), y.astype(np.float64), 3)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)
    assert found.count == 50


def test_equal_laws_have_density_one(rng: np.random.Generator) -> None:
    x, y = (rng.normal(size=(2000, 3)).astype(np.float32) for _ in range(2))
    found = prdc(x, y)
    # The density of equal laws is 1 up to the balls' own fluctuations, a few per cent here; 0.15 is more than 5 sigma.
    assert found.density == pytest.approx(1, abs=0.15)
    assert found.coverage > 0.9
    assert min(found.precision, found.recall) > 0.9


def test_other_places_and_missing_modes_are_told_apart(rng: np.random.Generator) -> None:
    x = rng.normal(size=(400, 3)).astype(np.float32)
    x[200:] += 20
    away = prdc(x, x + 100)
    assert (away.precision, away.recall, away.density, away.coverage) == (0, 0, 0, 0)
    one_mode = prdc(x, rng.normal(size=(400, 3)).astype(np.float32))
    assert one_mode.precision > 0.9
    assert one_mode.recall < 0.6
    assert one_mode.coverage < 0.6


def test_a_point_is_not_its_own_neighbour() -> None:
    x = np.arange(12, dtype=np.float32)[:, None]
    y = x + np.float32(0.9)
    assert prdc(x, y, neighbours=1).precision == 1  # balls reach to the neighbour at distance 1
    assert prdc(x, x + np.float32(100), neighbours=1).precision == 0


def test_log_voxels_put_empty_voxels_at_the_threshold() -> None:
    points = log_voxels(np.array([[0.0, 0.05, 0.1, 10.0]], np.float32), 0.1)
    np.testing.assert_allclose(points, [[0, 0, 0, 2]], atol=1e-6)


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 6"):
        prdc(np.ones((5, 2), np.float32), np.ones((9, 2), np.float32))
