"""High-level features against plain loops written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation import features
from qshower.evaluation.features import compute_features, join_features
from qshower.model.geometry import Geometry, named_geometry
from qshower.sampler.errors import InvalidInputError

DIMENSIONS = {"1-photons": 30, "1-pions": 46, "2": 362, "3": 362}
TOY_COUNTS = {"1-photons": 6, "1-pions": 6, "2": 4, "3": 2}

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


def feature_names(geometry: Geometry) -> tuple[str, ...]:
    """Of the columns of ``FeatureSet.matrix``."""
    ids = [layer.id for layer in geometry.layers]
    angular = [layer.id for layer in geometry.layers if layer.angular_bins > 1]
    groups = [("log10_e_layer", ids), ("centre_eta", angular), ("centre_phi", angular), ("width_eta", angular)]
    groups += [("width_phi", angular), ("log10_e_tot", [-1]), ("sparsity", ids), ("centre_r", ids), ("width_r", ids)]
    return "log10_e_inc", *(name if number < 0 else f"{name}_{number}" for name, rows in groups for number in rows)


def spread(total: float, square: float, mean: float) -> float:
    return math.sqrt(max(0.0, square / (total + 1e-16) - mean**2))


def plain_features(geometry: Geometry, energy: float, shower: NDArray[np.float32]) -> list[float]:
    """The published vector of one shower, voxel by voxel."""
    layers: list[dict[str, float]] = []
    voxel = 0
    for layer in geometry.layers:
        sums = dict.fromkeys(("e", "x", "y", "r", "xx", "yy", "rr", "hit"), 0.0)
        for angle in range(layer.angular_bins):
            alpha = -math.pi + 2 * math.pi * (angle + 0.5) / layer.angular_bins
            for ring in range(layer.radial_bins):
                r = 0.5 * (layer.r_edges_mm[ring] + layer.r_edges_mm[ring + 1])
                x, y, e = r * math.cos(alpha), r * math.sin(alpha), float(shower[voxel])
                for key, weight in (
                    ("e", 1),
                    ("x", x),
                    ("y", y),
                    ("r", r),
                    ("xx", x * x),
                    ("yy", y * y),
                    ("rr", r * r),
                ):
                    sums[key] += weight * e
                sums["hit"] += e > 0
                voxel += 1
        means = {key: sums[key] / (sums["e"] + 1e-16) for key in "xyr"}
        layers.append(
            {
                "e": sums["e"],
                **means,
                "wx": spread(sums["e"], sums["xx"], means["x"]),
                "wy": spread(sums["e"], sums["yy"], means["y"]),
                "wr": spread(sums["e"], sums["rr"], means["r"]),
                "sparsity": 1 - sums["hit"] / (layer.radial_bins * layer.angular_bins),
            }
        )
    assert voxel == len(shower)
    angular = [values for layer, values in zip(geometry.layers, layers, strict=True) if layer.angular_bins > 1]
    vector = [math.log10(energy)] + [math.log10(values["e"] + 1e-8) for values in layers]
    for key in ("x", "y", "wx", "wy"):
        vector += [values[key] / 100 for values in angular]
    vector.append(math.log10(sum(values["e"] for values in layers) + 1e-8))
    vector += [values["sparsity"] for values in layers]
    vector += [values["r"] / 100 for values in layers]
    vector += [values["wr"] / 100 for values in layers]
    return vector


@pytest.mark.parametrize("name", DIMENSIONS)
def test_plain_loops_agree(name: str, toy_showers: Toy) -> None:
    geometry = named_geometry(name)
    energies, showers = toy_showers(geometry, TOY_COUNTS[name], 3)
    showers[0, geometry.layer_slices()[1]] = 0  # an empty layer
    matrix = compute_features(geometry, energies, showers).matrix()
    assert matrix.shape == (TOY_COUNTS[name], DIMENSIONS[name])
    expected = [plain_features(geometry, energy, shower) for energy, shower in zip(energies, showers, strict=True)]
    np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_names_match_columns(name: str, toy_showers: Toy) -> None:
    geometry = named_geometry(name)
    names = feature_names(geometry)
    assert len(names) == len(set(names)) == DIMENSIONS[name]
    energies, showers = toy_showers(geometry, 2, 4)
    one = compute_features(geometry, energies, showers)
    matrix = one.matrix()
    last = geometry.layers[-1].id
    np.testing.assert_array_equal(matrix[:, names.index(f"sparsity_{last}")], one.sparsity[:, -1])
    np.testing.assert_array_equal(matrix[:, names.index(f"width_r_{last}")], one.width_r_mm[:, -1] / 100)
    np.testing.assert_allclose(10 ** matrix[:, names.index("log10_e_tot")], showers.sum(axis=1), rtol=1e-5)


def test_the_research_set_is_the_first_226_columns(toy_showers: Toy) -> None:
    geometry = named_geometry("2")
    one = compute_features(geometry, *toy_showers(geometry, 3, 5))
    assert one.research_matrix().shape == (3, 226)
    np.testing.assert_array_equal(one.research_matrix(), one.matrix()[:, :226])


def test_chunks_do_not_matter(toy_showers: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = named_geometry("1-pions")
    energies, showers = toy_showers(geometry, 30, 6)
    whole = compute_features(geometry, energies, showers).matrix()
    monkeypatch.setattr(features, "CHUNK_BYTES", 1)
    parts = [compute_features(geometry, energies[i : i + 7], showers[i : i + 7]) for i in range(0, 30, 7)]
    np.testing.assert_allclose(join_features(parts).matrix(), whole, rtol=1e-9, atol=1e-12)


def test_an_empty_shower_has_finite_features() -> None:
    geometry = named_geometry("1-photons")
    matrix = compute_features(geometry, np.array([1e3]), np.zeros((1, 368), np.float32)).matrix()
    assert np.isfinite(matrix).all()
    assert matrix[0, 1] == pytest.approx(-8)


def test_take_picks_rows(toy_showers: Toy) -> None:
    geometry = named_geometry("1-photons")
    one = compute_features(geometry, *toy_showers(geometry, 9, 7))
    mask = np.arange(9) % 2 == 0
    np.testing.assert_array_equal(one.take(mask).matrix(), one.matrix()[mask])
    assert len(one.take([3, 1])) == 2


def test_shapes_that_do_not_fit_are_refused() -> None:
    geometry = named_geometry("1-photons")
    with pytest.raises(InvalidInputError, match=r"showers_mev: .*\(N, 368\)"):
        compute_features(geometry, np.ones(2), np.ones((2, 367), np.float32)).matrix()
    with pytest.raises(InvalidInputError, match="incident_energies_mev"):
        compute_features(geometry, np.ones(3), np.ones((2, 368), np.float32)).matrix()
    with pytest.raises(InvalidInputError, match="parts"):
        join_features([])
