"""The fixed code: halves, missing bits, windows, and what it refuses."""

import numpy as np
import pytest

from qshower.model.grid import Grid
from qshower.model.share_cells import ShareCells, log_of_rest
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
    energies = np.geomspace(1e3, 1e6, len(data))
    code = ShowerCode.fitted(OBSERVABLES, GRID, energies, data, np.ones(len(data)))
    bits = code.bits(GRID, energies, data)
    assert bits.shape == (400, 5, 6)
    empty = (data > 0).sum(axis=(2, 3)) == 0
    np.testing.assert_array_equal(bits == 0, np.repeat(empty[:, :, None], 6, axis=2))
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


def test_first_bits_name_the_quarter_of_a_layers_share_at_its_energy() -> None:
    rng = np.random.default_rng(1)
    data = showers(4000)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), len(data)))
    # The first layer's share of the energy grows with the incident energy, a lot.
    data[:, 0] *= ((energies / 1e4) ** 0.5)[:, None, None]
    code = ShowerCode.fitted(("radius",), GRID, energies, data, np.ones(len(data)), share_cells=4)
    bits = code.bits(GRID, energies, data)
    assert (code.share_bits, code.bits_per_layer) == (3, 4)
    filled = data[:, 0].sum(axis=(1, 2)) > 0
    for few in (energies < 3e3, energies > 3e4):
        cell = (bits[few & filled, 0, :3] > 0).sum(axis=1)
        # 4000 showers, a quarter of them here: 5 % are four standard errors.
        np.testing.assert_allclose(np.bincount(cell, minlength=4) / len(cell), 0.25, atol=0.05)
    layer = data.sum(axis=(2, 3), dtype=np.float64)
    x = log_of_rest(layer / layer.sum(axis=1)[:, None])
    rest = layer[:, 2:].sum(axis=1) + 1e-3 * layer.sum(axis=1)
    hit = layer[:, 2] > 0
    np.testing.assert_allclose(x[hit, 2], np.log(layer[hit, 2] / rest[hit]), atol=1e-9)
    assert code.share is not None
    low, high = code.share.limits(bits[:, :, :3], energies)
    assert ((low < x) & (x <= high))[layer > 0].all()
    # In whatever order: bits of a machine that are not as any shower's name a cell too.
    turned = code.share.limits(bits[:, :, 2::-1], energies)
    np.testing.assert_array_equal(turned[0], low)
    np.testing.assert_array_equal(turned[1], high)
    assert (bits[~filled, 0] == 0).all()


def test_cells_that_are_only_partly_given_the_energy_say_something_of_it() -> None:
    data = showers(4000)
    energies = np.exp(np.random.default_rng(1).uniform(np.log(1e3), np.log(1e5), len(data)))
    data[:, 0] *= ((energies / 1e4) ** 0.5)[:, None, None]
    code = ShowerCode.fitted((), GRID, energies, data, np.ones(len(data)), share_cells=2, share_given_energy=0.5)
    up = code.bits(GRID, energies, data)[:, 0, 0]
    assert (up[(energies > 3e4) & (up != 0)] > 0).mean() - (up[(energies < 3e3) & (up != 0)] > 0).mean() > 0.1


def test_cells_must_fit_the_layers() -> None:
    with pytest.raises(InvalidInputError, match="terms"):
        ShareCells(np.zeros((5, 2, 3)), np.zeros((5, 2)))
    with pytest.raises(InvalidInputError, match="span"):
        ShareCells(np.zeros((5, 2, 4)), np.zeros((4, 2)))
    with pytest.raises(InvalidInputError, match="share"):
        ShowerCode(("share",), np.zeros((5, 1, 3)), 0, ShareCells(np.zeros((4, 3, 4)), np.zeros((4, 2))))
