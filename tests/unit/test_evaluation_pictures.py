"""Correlations, profiles, small figures and numbers for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.correlations import compare_correlations, pearson
from qshower.evaluation.features import compute_features
from qshower.evaluation.profiles import profiles_of
from qshower.evaluation.serialise import summary_rows
from qshower.evaluation.slices import energy_slices, energy_text
from qshower.evaluation.svg import Axis, heat_figure, histogram_figure, line_figure
from qshower.model.geometry import named_geometry
from qshower.sampler.errors import BundleError

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


def test_slices_of_a_narrow_reference() -> None:
    geometry = named_geometry("2")
    thirds = energy_slices(geometry, np.geomspace(2e3, 8e3, 300))
    assert len(thirds) == 3
    assert sum(int(part.contains(np.geomspace(2e3, 8e3, 300)).sum()) for part in thirds) == 300
    single = energy_slices(geometry, np.full(50, 65536.0))
    assert [int(part.contains(np.full(50, 65536.0)).sum()) for part in single] == [50]
    grid = energy_slices(named_geometry("1-photons"), np.repeat(2.0 ** np.arange(8, 23), 30))
    assert [part.label for part in grid[::7]] == ["256 MeV", "32.8 GeV", "4.19 TeV"]
    assert len(grid) == 15


@pytest.mark.parametrize(("energy", "text"), [(256, "256 MeV"), (1e3, "1 GeV"), (65536, "65.5 GeV"), (1e6, "1 TeV")])
def test_energies_for_people(energy: float, text: str) -> None:
    assert energy_text(energy) == text


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("log_x", [False, True])
def test_histograms_are_well_formed_drawings(log_x: bool, log_y: bool, rng: np.random.Generator) -> None:
    edges = np.geomspace(0.01, 1e4, 40) if log_x else np.linspace(-3, 3, 40)
    reference, sample = rng.poisson(20.0, 39).astype(float), rng.poisson(20.0, 39).astype(float)
    reference[:3] = sample[5] = 0
    text = histogram_figure("a < b & c", "x [mm]", edges, reference, [sample, np.zeros(39)], log_x=log_x, log_y=log_y)
    root = ET.fromstring(text)  # noqa: S314  our own text
    assert root.attrib["aria-label"] == "a < b & c"
    assert "nan" not in text
    assert "inf" not in text
    paths = [element.attrib["d"] for element in root.iter() if element.tag.endswith("path") and "d" in element.attrib]
    assert len(paths) >= 6


def test_other_drawings_are_well_formed(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 4))
    values[0, 0] = np.nan
    for text in (
        heat_figure("h", values, -1, 1, diverging=True),
        heat_figure("h", np.zeros((2, 2)), 0, 0, diverging=False),
        line_figure("l", "x", np.arange(5.0), [np.arange(5.0), np.zeros(5)], log_y=True),
        line_figure("l", "x", np.array([2.0]), [np.array([1.0])]),
    ):
        ET.fromstring(text)  # noqa: S314  our own text
        assert "nan" not in text
    assert heat_figure("h", values, -1, 1, diverging=True).count("<rect") == 19


def test_axes_map_and_round() -> None:
    axis = Axis(0.5, 1.5, 0, 100)
    assert axis(np.array([0.5, 1.0, 1.5, 9.0])).tolist() == [0, 50, 100, 100]
    assert axis.ticks() == pytest.approx([0.6, 0.8, 1.0, 1.2, 1.4])
    assert Axis(0.01, 1e4, 0, 60, log=True)(np.array([1.0])).tolist() == pytest.approx([20])
    assert len(Axis(1e-8, 1e8, 0, 1, log=True).ticks()) <= 6


def test_summary_digits_follow_the_error() -> None:
    entry = {
        "name": "a", "count": 10, "reference_count": 12, "classifiers": {}, "neighbours": None, "boosted_auc": None,
        "separation": {key: {"mean": 0.01234, "error": 0.00031} for key in ("response", "e_layer", "e_voxel")},
        "fpd": {"value": 0.0246, "error": 0.0003}, "kpd": None,
    }  # fmt: skip
    _, row = summary_rows({"samples": [entry], "floor": None})
    assert row[:7] == ["a", "10 / 12", "0.0123 ± 0.0003", "0.0123 ± 0.0003", "0.0123 ± 0.0003", "24.6 ± 0.3", "–"]


def test_cost_of_a_bundle(untrained_bundles: Path) -> None:
    from qshower.evaluation.cost import measure_cost

    found = measure_cost(untrained_bundles / "test-zephyr", batches=(1, 20))
    assert found.bundle == "test-zephyr"
    assert found.decoder_parameters > 0
    assert found.machine_parameters > 100
    assert found.peak_memory_bytes > 50_000_000
    assert [row.batch for row in found.batches] == [1, 20]
    for row in found.batches:
        assert row.ms_per_shower > 0
        assert row.sample_ms_per_shower + row.decode_ms_per_shower == pytest.approx(row.ms_per_shower)


def test_cost_of_a_broken_bundle(tmp_path: Path) -> None:
    from qshower.evaluation.cost import measure_cost

    with pytest.raises(BundleError, match="none"):
        measure_cost(tmp_path / "none")
