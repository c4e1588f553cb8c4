"""One pass over a file against plain computations on the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation import features
from qshower.evaluation.energy_slices import energy_slices
from qshower.evaluation.features import compute_features
from qshower.evaluation.shower_set import ShowerSet, load_shower_set, voxel_edges
from qshower.model.geometry import Geometry, Layer
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import ShowerFileError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]

TOY = Geometry("toy", "electron", 11, tuple(Layer(i, (0.0, 2.0, 5.0, 9.0), 6) for i in range(5)), 0.1)


@pytest.fixture
def source(toy_showers: Toy, tmp_path: Path) -> tuple[Path, NDArray[np.float64], NDArray[np.float32]]:
    energies, showers = toy_showers(TOY, 203, 1)
    path = tmp_path / "toy.hdf5"
    write_showers(path, energies, showers, attributes={"provenance": '{"qpu_access_time_us": 12.5}'})
    return path, energies, showers


def load(
    path: Path, energies: NDArray[np.float64], keep: int = 50, edges: NDArray[np.float64] | None = None
) -> ShowerSet:
    return load_shower_set(path, TOY, energy_slices(TOY, energies), name="toy", edges=edges, keep=keep, seed=3)


def test_summaries_are_those_of_the_whole_file(
    source: tuple[Path, NDArray[np.float64], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, energies, showers = source
    monkeypatch.setattr(features, "CHUNK_BYTES", 8 * TOY.voxel_count * 13)  # 13 rows at a time
    found = load(path, energies)
    np.testing.assert_allclose(found.features.matrix(), compute_features(TOY, energies, showers).matrix(), rtol=1e-7)
    for index, part in enumerate(energy_slices(TOY, energies)):
        rows = part.contains(energies)
        assert found.slice_counts[index] == rows.sum()
        np.testing.assert_allclose(found.mean_showers_mev[index], showers[rows].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.kept_mev, showers[found.kept])
    assert len(found.kept) == 50
    edges = voxel_edges(0.1, float(showers.max()))
    counts = np.histogram(showers[showers >= 0.1].astype(np.float64), bins=edges)[0]
    assert found.voxel_counts.sum() == np.count_nonzero(showers)  # the largest voxel is inside
    assert np.abs(found.voxel_counts.sum(axis=0) - counts).sum() <= 2
    group = np.arange(203) % 20 == 4
    assert found.voxel_counts[4].sum() == np.count_nonzero(showers[group])
    assert found.tallies.hit_voxels == np.count_nonzero(showers)
    assert found.provenance["qpu_access_time_us"] == 12.5


def test_halves_share_the_rows(source: tuple[Path, NDArray[np.float64], NDArray[np.float32]]) -> None:
    path, energies, showers = source
    whole = load(path, energies)
    even, odd = whole.half(0), whole.half(1)
    assert (len(even), len(odd)) == (102, 101)
    np.testing.assert_array_equal(even.features.e_inc_mev, energies[::2])
    np.testing.assert_array_equal(odd.features.e_inc_mev, energies[1::2])
    np.testing.assert_array_equal(even.voxel_counts + odd.voxel_counts, whole.voxel_counts)
    assert even.voxel_counts.sum() == np.count_nonzero(showers[::2])
    assert len(even.kept) + len(odd.kept) == len(whole.kept)
    for half in (even, odd):
        np.testing.assert_allclose(half.kept_mev.sum(axis=1), half.features.e_tot_mev[half.kept], rtol=1e-5)


def test_defects_are_counted(source: tuple[Path, NDArray[np.float64], NDArray[np.float32]]) -> None:
    path, energies, showers = source
    showers[10] = showers[4]
    showers[150] = showers[4]
    showers[20] = 0
    showers[21] = 0
    showers[30, :7] = 0.05
    showers[40, 3] = -1
    with h5py.File(path, "r+") as file:
        file["showers"][:] = showers
    tallies = load(path, energies).tallies
    assert tallies.duplicate_showers == 2
    assert tallies.first_duplicate_rows == (4, 10)
    assert tallies.empty_showers == 2
    assert (tallies.below_threshold_voxels, tallies.below_threshold_showers) == (7, 1)
    assert (tallies.negative_showers, tallies.first_negative_row) == (1, 40)


def test_a_voxel_at_the_threshold_is_not_below_it(toy_showers: Toy, tmp_path: Path) -> None:
    showers = np.full((30, TOY.voxel_count), 0.1, np.float32)
    write_showers(tmp_path / "x.hdf5", np.linspace(1e3, 2e3, 30), showers)
    assert load(tmp_path / "x.hdf5", np.linspace(1e3, 2e3, 30)).tallies.below_threshold_voxels == 0


def test_nan_is_named_by_row(source: tuple[Path, NDArray[np.float64], NDArray[np.float32]]) -> None:
    path, energies, _ = source
    with h5py.File(path, "r+") as file:
        file["showers"][77, 5] = np.nan
    with pytest.raises(ShowerFileError, match="dataset showers, row 77: nan"):
        load(path, energies)


def test_keeping_more_than_there_is_keeps_all(
    source: tuple[Path, NDArray[np.float64], NDArray[np.float32]],
) -> None:
    path, energies, showers = source
    np.testing.assert_array_equal(load(path, energies, keep=10_000).kept_mev, showers)
