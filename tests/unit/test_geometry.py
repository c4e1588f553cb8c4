"""The voxel layouts: sizes, order of voxels and centres."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qshower.model.geometry import (
    GEOMETRIES,
    Geometry,
    Layer,
    geometry_from_dict,
    geometry_of_voxel_count,
    named_geometry,
)
from qshower.sampler.errors import InvalidInputError

PUBLISHED = {
    "1-photons": (368, [0, 1, 2, 3, 12], 22),
    "1-pions": (533, [0, 1, 2, 3, 12, 13, 14], 211),
    "2": (6480, list(range(45)), 11),
    "3": (40500, list(range(45)), 11),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(name: str) -> None:
    voxels, ids, pid = PUBLISHED[name]
    geometry = named_geometry(name)
    assert geometry.voxel_count == voxels
    assert [layer.id for layer in geometry.layers] == ids
    assert geometry.pid == pid
    assert geometry_of_voxel_count(voxels) is geometry


def test_published_thresholds_and_edges() -> None:
    assert [GEOMETRIES[name].threshold_mev for name in PUBLISHED] == [1.0, 1.0, 0.01515, 0.01515]
    assert named_geometry("2").layers[44].r_edges_mm == (0, 4.65, 9.3, 13.95, 18.6, 23.25, 27.9, 32.55, 37.2, 41.85)
    assert named_geometry("3").layers[0].r_edges_mm[-1] == 41.85
    assert named_geometry("2").block_shape == (45, 16, 9)
    assert named_geometry("3").block_shape == (45, 50, 18)


@pytest.mark.parametrize("name", PUBLISHED)
def test_voxels_are_ordered_by_layer_then_angle_then_radius(name: str) -> None:
    geometry = named_geometry(name)
    x, y, r = geometry.x_mm(), geometry.y_mm(), geometry.r_mm()
    voxel = 0
    for layer, voxels in zip(geometry.layers, geometry.layer_slices(), strict=True):
        assert voxels.start == voxel
        for angle in range(layer.angular_bins):
            alpha = -math.pi + (angle + 0.5) * 2 * math.pi / layer.angular_bins
            for ring in range(layer.radial_bins):
                radius = (layer.r_edges_mm[ring] + layer.r_edges_mm[ring + 1]) / 2
                assert r[voxel] == pytest.approx(radius)
                assert x[voxel] == pytest.approx(radius * math.cos(alpha), abs=1e-9)
                assert y[voxel] == pytest.approx(radius * math.sin(alpha), abs=1e-9)
                voxel += 1
        assert voxels.stop == voxel
    assert voxel == geometry.voxel_count


@pytest.mark.parametrize("name", PUBLISHED)
def test_description_round_trip(name: str) -> None:
    geometry = named_geometry(name)
    assert geometry_from_dict(geometry.as_dict()) == geometry


def test_bad_descriptions_are_refused() -> None:
    description = named_geometry("1-photons").as_dict()
    with pytest.raises(InvalidInputError, match=r"voxel_count: 7"):
        geometry_from_dict(description | {"voxel_count": 7})
    del description["layers"]
    with pytest.raises(InvalidInputError, match=r"layers"):
        geometry_from_dict(description)


def test_unknown_names_say_what_exists() -> None:
    with pytest.raises(
        InvalidInputError, match=r"geometry: '4' is not allowed; allowed: one of 1-photons, 1-pions, 2, 3"
    ):
        named_geometry("4")
    with pytest.raises(InvalidInputError, match=r"368 \(1-photons\)"):
        geometry_of_voxel_count(5)


def test_block_shape_needs_equal_layers() -> None:
    with pytest.raises(InvalidInputError, match=r"1-pions"):
        _ = named_geometry("1-pions").block_shape


@pytest.mark.parametrize(
    ("layers", "threshold"),
    [((), 0.0), ((Layer(1, (0, 1), 1), Layer(0, (0, 1), 1)), 0.0), ((Layer(0, (0, 1), 1),), math.nan)],
)
def test_impossible_geometries_are_refused(layers: tuple[Layer, ...], threshold: float) -> None:
    with pytest.raises(InvalidInputError):
        Geometry("x", "electron", 11, layers, threshold)


def test_a_rotation_by_one_angular_bin_rotates_the_centres() -> None:
    geometry = named_geometry("2")
    shape = geometry.block_shape
    z = (geometry.x_mm() + 1j * geometry.y_mm()).reshape(shape)
    turned = np.roll(z, -1, axis=1)
    assert np.allclose(turned, z * np.exp(2j * np.pi / 16))
