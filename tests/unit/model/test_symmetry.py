import numpy as np
import pytest

from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.symmetry import canonical_elements, group_order, turn
from qshower.sampler.errors import InvalidInputError

GRID = Grid((16,) * 3, (9,) * 3)


def test_turning_moves_energy_by_whole_bins_and_mirrors() -> None:
    shower = np.zeros((1, 3, 16, 9), dtype=np.float32)
    shower[0, 1, 3, 2] = 1.0
    rotated = turn(shower, np.array([5]), GRID)
    mirrored = turn(shower, np.array([16 + 5]), GRID)
    assert np.argwhere(rotated).tolist() == [[0, 1, 8, 2]]
    assert np.argwhere(mirrored).tolist() == [[0, 1, 2, 2]]


def test_every_orientation_has_the_same_canonical_form() -> None:
    rng = np.random.default_rng(4)
    shower = rng.gamma(0.3, size=(1, 3, 16, 9)).astype(np.float32)
    orbit = turn(np.repeat(shower, 32, axis=0), np.arange(32), GRID)
    canonical = turn(orbit, canonical_elements(orbit, GRID), GRID)
    assert len(np.unique(orbit, axis=0)) == 32
    np.testing.assert_array_equal(canonical, np.repeat(canonical[:1], 32, axis=0))


def test_layers_with_one_angular_bin_stay() -> None:
    grid = Grid.of(named_geometry("1-photons"))
    assert group_order("dihedral", grid) == 20
    voxels = np.random.default_rng(1).random((4, 368)).astype(np.float32)
    turned = grid.to_voxels(turn(grid.from_voxels(voxels), np.array([0, 3, 11, 19]), grid))
    fixed = np.concatenate(
        [
            np.arange(368)[s]
            for s, n in zip(named_geometry("1-photons").layer_slices(), grid.angular_bins, strict=True)
            if n == 1
        ]
    )
    np.testing.assert_array_equal(turned[:, fixed], voxels[:, fixed])
    np.testing.assert_array_equal(np.sort(turned, axis=1), np.sort(voxels, axis=1))
    assert not np.array_equal(turned[1], voxels[1])


def test_symmetry_that_the_grid_lacks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="different angular bins"):
        group_order("dihedral", Grid((4, 6), (2, 2)))
    assert group_order("none", Grid((4, 6), (2, 2))) == 1


@pytest.mark.parametrize("name", ["1-photons", "1-pions", "2", "3"])
def test_voxels_survive_the_grid(name: str) -> None:
    geometry = named_geometry(name)
    grid = Grid.of(geometry)
    voxels = np.arange(2 * geometry.voxel_count, dtype=np.float32).reshape(2, -1)
    np.testing.assert_array_equal(grid.to_voxels(grid.from_voxels(voxels)), voxels)
    assert int(grid.mask().sum()) == geometry.voxel_count
