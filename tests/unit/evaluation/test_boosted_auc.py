"""AUC of gradient boosting on feature vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.boosted_auc import two_sample_auc
from qshower.evaluation.features import compute_features
from qshower.model.geometry import Geometry, Layer
from qshower.sampler.errors import InvalidInputError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]

TOY = Geometry("toy", "electron", 11, tuple(Layer(i, (0.0, 2.0, 5.0, 9.0), 6) for i in range(4)), 0.1)


def test_a_dropped_layer_is_found_and_equal_laws_are_not_told_apart(toy_showers: Toy) -> None:
    (first_energies, first), (energies, second) = toy_showers(TOY, 500, 1), toy_showers(TOY, 400, 2)
    reference = compute_features(TOY, first_energies, first).matrix()
    same = two_sample_auc(reference, compute_features(TOY, energies, second).matrix(), iterations=30)
    assert abs(same.auc - 0.5) < 5 * same.error
    assert (same.train_rows, same.test_rows) == (200, 200)
    broken = second.copy()
    broken[:, 18:36] = 0
    assert two_sample_auc(reference, compute_features(TOY, energies, broken).matrix(), iterations=30).auc > 0.95
    with pytest.raises(InvalidInputError, match="at least 20"):
        two_sample_auc(np.ones((10, 2)), np.ones((30, 2)))
