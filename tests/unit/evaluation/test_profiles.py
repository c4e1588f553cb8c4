"""Average showers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.profiles import profiles_of
from qshower.model.geometry import named_geometry

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


def test_profiles_conserve_energy(toy_showers: Toy) -> None:
    geometry = named_geometry("1-photons")
    _, showers = toy_showers(geometry, 20, 1)
    mean = showers.mean(axis=0).astype(np.float64)
    found = profiles_of(geometry, mean, 20)
    assert found.longitudinal.sum() == pytest.approx(mean.sum())
    assert found.radial.sum() == pytest.approx(mean.sum())
    for row, voxels in enumerate(geometry.layer_slices()):
        assert found.longitudinal[row] == pytest.approx(mean[voxels].sum())
    assert np.isnan(found.rings).sum() == found.rings.size - sum(layer.radial_bins for layer in geometry.layers)
    assert (np.diff(found.radii_mm) > 0).all()
