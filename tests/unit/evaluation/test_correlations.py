"""Correlations between layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.correlations import compare_correlations, pearson
from qshower.evaluation.features import compute_features
from qshower.model.geometry import named_geometry

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


def test_pearson_is_numpys(rng: np.random.Generator) -> None:
    values = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    np.testing.assert_allclose(pearson(values), np.corrcoef(values, rowvar=False), atol=1e-12)
    constant = np.column_stack([values[:, 0], np.full(200, 3.0)])
    np.testing.assert_allclose(pearson(constant), np.eye(2), atol=1e-12)


def test_broken_correlations_are_seen(toy_showers: Toy, rng: np.random.Generator) -> None:
    geometry = named_geometry("1-pions")
    energies, showers = toy_showers(geometry, 1200, 1)
    features = compute_features(geometry, energies, showers)
    broken = showers.copy()
    for voxels in geometry.layer_slices():  # each layer from another shower of like energy
        broken[:, voxels] = broken[rng.permutation(1200)][:, voxels]
    same = compare_correlations(features.take(np.arange(0, 1200, 2)), features.take(np.arange(1, 1200, 2)))
    other = compare_correlations(features, compute_features(geometry, energies, broken))
    assert same.rms_difference < 3 * same.expected_rms
    assert other.rms_difference > 5 * other.expected_rms
    assert other.largest_difference > other.rms_difference
