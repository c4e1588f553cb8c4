"""What is refused, what is warned of, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.energy_slices import energy_slices
from qshower.evaluation.shower_set import ShowerSet, load_shower_set, voxel_edges
from qshower.evaluation.submission_checks import check_reference, check_sample, voxel_orders
from qshower.model.geometry import Geometry, Layer, named_geometry
from qshower.sampler.errors import ShowerFileError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]
Showers = NDArray[np.float32]

TOY = Geometry("toy", "electron", 11, tuple(Layer(i, (0.0, 2.0, 5.0, 9.0, 14.0), 6) for i in range(8)), 0.1)
PIONS = named_geometry("1-pions")


class Desk:
    """A reference, and a way to hand in samples."""

    def __init__(self, geometry: Geometry, toy_showers: Toy, folder: Path) -> None:
        self.geometry, self.folder, self.numbers = geometry, folder, count()
        self.energies, self.showers = toy_showers(geometry, 400, 11)
        self.reference_energies, self.reference_showers = toy_showers(geometry, 400, 12)
        self.slices = energy_slices(geometry, self.reference_energies)
        self.reference = self.load(self.reference_energies, self.reference_showers)

    def load(self, energies: NDArray[np.float64], showers: Showers) -> ShowerSet:
        path = self.folder / f"sample{next(self.numbers)}.hdf5"
        with h5py.File(path, "w") as file:
            file["incident_energies"] = energies[:, None]
            file["showers"] = showers
        edges = voxel_edges(self.geometry.threshold_mev, float(self.reference_showers.max()))
        return load_shower_set(path, self.geometry, self.slices, name="sample", edges=edges, keep=10)

    def codes(self, energies: NDArray[np.float64], showers: Showers) -> dict[str, int]:
        return {finding.code: finding.count for finding in check_sample(self.reference, self.load(energies, showers))}


@pytest.fixture
def desk(toy_showers: Toy, tmp_path: Path) -> Desk:
    return Desk(TOY, toy_showers, tmp_path)


def test_a_good_sample_has_no_findings(desk: Desk) -> None:
    assert desk.codes(desk.energies, desk.showers) == {}
    assert check_reference(desk.reference) == ()


def test_rotated_showers_are_in_order(desk: Desk) -> None:
    turned = np.roll(desk.showers.reshape(-1, 8, 6, 4), 2, axis=2).reshape(400, -1)
    assert desk.codes(desk.energies, turned) == {}


def test_a_reference_in_gev_is_warned_of(desk: Desk) -> None:
    odd = desk.load(desk.reference_energies, desk.reference_showers / np.float32(1e3))
    first, *_ = check_reference(odd)
    assert (first.code, first.severe) == ("units", True)
    assert "showers are in GeV" in first.text


@pytest.mark.parametrize("factor", [1e-3, 1.0])
def test_gev_is_explained(desk: Desk, factor: float) -> None:
    with pytest.raises(ShowerFileError, match=r"incident_energies.*look like GeV: multiply incident_energies"):
        desk.codes(desk.energies / 1e3, (desk.showers * factor).astype(np.float32))


def test_gev_voxels_alone_are_explained(desk: Desk) -> None:
    with pytest.raises(ShowerFileError, match="voxels look like GeV: multiply showers by 1000"):
        desk.codes(desk.energies, desk.showers / np.float32(1e3))


def test_another_normalisation_is_refused_or_warned_of(desk: Desk) -> None:
    with pytest.raises(ShowerFileError, match="check the unit and the normalisation"):
        desk.codes(desk.energies, desk.showers * np.float32(100))
    assert set(desk.codes(desk.energies, desk.showers * np.float32(1.5))) == {"normalisation"}


def test_other_energies_are_refused_or_warned_of(desk: Desk) -> None:
    with pytest.raises(ShowerFileError, match="generate showers at the reference's energies"):
        desk.codes(desk.energies * 150, desk.showers * np.float32(150))
    low = desk.energies < 2e4
    found = desk.codes(desk.energies[low], desk.showers[low])
    assert set(found) == {"energy_law", "imbalance"}
    assert found["imbalance"] == 400 - low.sum()
    assert desk.codes(np.where(desk.energies > 9e4, 1.5e5, desk.energies), desk.showers)["energy_range"] > 0


def test_showers_out_of_order_are_refused(desk: Desk) -> None:
    with pytest.raises(ShowerFileError, match="shower i must belong to incident energy i"):
        desk.codes(desk.energies, desk.showers[np.random.default_rng(0).permutation(400)])


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("layer, radius, angle", (0, 1, 3, 2)),
        ("radius, angle, layer", (0, 3, 2, 1)),
        ("angle, layer, radius", (0, 2, 1, 3)),
        ("angle, radius, layer", (0, 2, 3, 1)),
        ("radius, layer, angle", (0, 3, 1, 2)),
    ],
)
def test_voxels_in_another_order_are_refused(desk: Desk, name: str, axes: tuple[int, ...]) -> None:
    wrong = desk.showers.reshape(-1, 8, 6, 4).transpose(axes).reshape(400, -1)
    with pytest.raises(ShowerFileError, match=f"as if written in the order {name}: .*layer slowest, then angle"):
        desk.codes(desk.energies, np.ascontiguousarray(wrong))


def test_reversed_layers_and_rings_are_refused(desk: Desk) -> None:
    block = desk.showers.reshape(-1, 8, 6, 4)
    with pytest.raises(ShowerFileError, match="last layer first"):
        desk.codes(desk.energies, block[:, ::-1].reshape(400, -1))
    with pytest.raises(ShowerFileError, match="outer radius first"):
        desk.codes(desk.energies, block[..., ::-1].reshape(400, -1))


def test_layouts_with_unequal_layers_are_checked_too(toy_showers: Toy, tmp_path: Path) -> None:
    desk = Desk(PIONS, toy_showers, tmp_path)
    assert desk.codes(desk.energies, desk.showers) == {}
    wrong = desk.showers.copy()
    for layer, voxels in zip(PIONS.layers, PIONS.layer_slices(), strict=True):
        block = desk.showers[:, voxels].reshape(-1, layer.angular_bins, layer.radial_bins)
        wrong[:, voxels] = block.transpose(0, 2, 1).reshape(400, -1)
    with pytest.raises(ShowerFileError, match="layer, radius, angle"):
        desk.codes(desk.energies, wrong)
    backwards = np.concatenate([desk.showers[:, voxels] for voxels in reversed(PIONS.layer_slices())], axis=1)
    with pytest.raises(ShowerFileError, match="last layer first"):
        desk.codes(desk.energies, backwards)


@pytest.mark.parametrize("geometry", [TOY, PIONS], ids=["regular", "pions"])
def test_orders_are_permutations(geometry: Geometry) -> None:
    names = [name for name, order in voxel_orders(geometry)]
    assert len(set(names)) == len(names)
    for _, order in voxel_orders(geometry):
        assert sorted(order) == list(range(geometry.voxel_count))


def test_negative_and_empty_samples_are_refused(desk: Desk) -> None:
    negative = desk.showers.copy()
    negative[[7, 9], 3] = -0.5
    with pytest.raises(ShowerFileError, match=r"row 7: negative voxel energies in 2 of 400 showers"):
        desk.codes(desk.energies, negative)
    with pytest.raises(ShowerFileError, match="no voxel above 0 in any shower"):
        desk.codes(desk.energies, np.zeros_like(desk.showers))


def test_blemishes_are_warned_of_with_counts(desk: Desk) -> None:
    showers = desk.showers.copy()
    showers[5] = showers[3]
    showers[8] = 0
    showers[11:14, :2] = 0.01
    showers[20:25] = desk.reference_showers[20:25]
    found = desk.codes(desk.energies, showers)
    assert found == {"duplicates": 1, "empty": 1, "below_threshold": 6, "copies": 5}


def test_gev_are_recognised_where_the_energies_span_three_decades(desk: Desk, toy_showers: Toy) -> None:
    energies = np.geomspace(1e3, 1e6, 400)
    scale = (energies / desk.reference_energies)[:, None].astype(np.float32)
    desk.reference = desk.load(energies, desk.reference_showers * scale)
    with pytest.raises(ShowerFileError, match=r"incident_energies.*look like GeV: multiply incident_energies"):
        desk.codes(energies / 1000, desk.reference_showers * scale / np.float32(1000))
