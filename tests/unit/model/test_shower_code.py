"""The fixed code: halves, missing bits, windows, and what it refuses."""

import numpy as np
import pytest

from qshower.model.grid import Grid
from qshower.model.shower_code import OBSERVABLES, ShowerCode, observe
from qshower.sampler.errors import InvalidInputError

GRID = Grid((4,) * 5, (3,) * 5)


def showers(rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, size=(rows, *GRID.shape)) * (rng.random((rows, *GRID.shape)) < 0.4)
    values[: rows // 4, 4] = 0
    return values.astype(np.float32)


def test_half_of_the_weight_is_up_and_empty_layers_are_missing() -> None:
    data = showers()
    code = ShowerCode.fitted(OBSERVABLES, GRID, data, np.ones(len(data)))
    bits = code.bits(GRID, data)
    assert bits.shape == (400, 5, 5)
    empty = (data > 0).sum(axis=(2, 3)) == 0
    np.testing.assert_array_equal(bits == 0, np.repeat(empty[:, :, None], 5, axis=2))
    up = (bits > 0).sum(axis=0) / (bits != 0).sum(axis=0)
    np.testing.assert_allclose(up, 0.5, atol=0.02)


def test_windows_hold_the_neighbouring_layers() -> None:
    data = showers(7)
    values, hits = observe(("share", "cos_1"), GRID, data, 1)
    layer = data.sum(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(values[:, 2, 0], np.log(layer[:, 1:4].sum(axis=1) / layer.sum(axis=1)))
    np.testing.assert_array_equal(hits[:, 0], (data[:, :2] > 0).sum(axis=(1, 2, 3)))
    arms = data[:, 1:4].astype(float) * (np.arange(3) + 0.5) * np.array([1, 0, -1, 0])[:, None]
    np.testing.assert_allclose(values[:, 2, 1], arms.sum(axis=(1, 2, 3)) / layer[:, 1:4].sum(axis=1), atol=1e-9)


def test_names_and_shapes_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="observables"):
        ShowerCode(("share", "share"), np.zeros((5, 2, 3)))
    with pytest.raises(InvalidInputError, match="terms"):
        ShowerCode(("share",), np.zeros((5, 2, 3)))
