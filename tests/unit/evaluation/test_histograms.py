"""Separation power, χ², floors and the published binnings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.energy_slices import energy_slices
from qshower.evaluation.features import compute_features
from qshower.evaluation.histograms import (
    chi_squared,
    histogram_specs,
    quantity,
    separation_floor,
    separation_power,
)
from qshower.model.geometry import named_geometry

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


def test_separation_by_plain_loops(rng: np.random.Generator) -> None:
    n, m = rng.integers(0, 50, 30).astype(float), rng.integers(0, 90, 30).astype(float)
    expected = 0.0
    for a, b in zip(n, m, strict=True):
        p, q = a / n.sum(), b / m.sum()
        expected += 0.5 * (p - q) ** 2 / (p + q + 1e-16)
    assert separation_power(n, m) == pytest.approx(expected)


def test_separation_ends() -> None:
    one, other = np.array([3.0, 0.0, 5.0, 0.0]), np.array([0.0, 2.0, 0.0, 1.0])
    assert separation_power(one, 7 * one) == pytest.approx(0)
    assert separation_power(one, other) == pytest.approx(1)
    assert separation_power(one, np.zeros(4)) == 1
    assert separation_power(np.zeros(4), np.zeros(4)) == 0


def test_separation_is_chi_squared_at_equal_size(rng: np.random.Generator) -> None:
    n, m = (rng.multinomial(1000, np.full(20, 0.05)).astype(float) for _ in range(2))
    chi2, ndf = chi_squared(n, m)
    assert ndf == 19
    assert separation_power(n, m) == pytest.approx(chi2 * (2 / 1000) / 4)


def test_chi_squared_of_an_empty_histogram() -> None:
    assert chi_squared(np.zeros(3), np.ones(3)) == (0.0, 0)
    assert separation_floor(np.zeros(3), np.ones(3)) == (0.0, 0.0)


@pytest.mark.parametrize(("n", "m"), [(2000, 2000), (1000, 5000)])
def test_floor_is_what_equal_laws_give(n: int, m: int, rng: np.random.Generator) -> None:
    # 400 independent pairs: the mean of the separation has a relative error of sqrt(2/29/400) = 1.3 %; 5 sigma are
    # 6.6 %, a false alarm in 2 million runs. The law of unequal sizes is approximate to a few per cent.
    law = rng.dirichlet(np.full(30, 5.0))
    pairs = [(rng.multinomial(n, law).astype(float), rng.multinomial(m, law).astype(float)) for _ in range(400)]
    found = np.array([separation_power(*pair) for pair in pairs])
    mean, spread = separation_floor(*pairs[0])
    assert found.mean() == pytest.approx(mean, rel=0.1)
    assert found.std() == pytest.approx(spread, rel=0.3)


def test_published_binnings_of_dataset_2(toy_showers: Toy) -> None:
    geometry = named_geometry("2")
    energies, showers = toy_showers(geometry, 60, 1, 1e3, 1e6)
    features = compute_features(geometry, energies, showers)
    slices = energy_slices(geometry, energies)
    specs = {spec.key: spec for spec in histogram_specs(features, slices, float(showers.max()))}
    assert len(specs) == 1 + len(slices) + 45 * 8 + 1
    np.testing.assert_allclose(specs["response"].edges, np.linspace(0.5, 1.5, 101))
    layer = specs["e_layer_7"]
    assert (len(layer.edges), layer.scale) == (40, "log")
    assert layer.edges[0] == pytest.approx(0.01515)
    assert layer.edges[-1] == pytest.approx(features.e_layer_mev[:, 7].max())
    assert len(specs["e_voxel"].edges) == 50
    assert specs["e_voxel"].edges[-1] == pytest.approx(float(showers.max()))
    for key, low, high, bins in (
        ("centre_eta_3", -30, 30, 100),
        ("width_phi_3", 0, 30, 100),
        ("sparsity_3", 0, 1, 20),
        ("centre_r_3", 0, 42, 100),
        ("width_r_3", 0, 20, 100),
    ):
        edges = specs[key].edges
        assert (edges[0], edges[-1], len(edges) - 1) == (low, high, bins)


def test_published_binnings_of_dataset_1(toy_showers: Toy) -> None:
    rng = np.random.default_rng(0)
    for name, narrow in (("1-photons", True), ("1-pions", False)):
        geometry = named_geometry(name)
        energies = 2.0 ** rng.integers(8, 16, 400).astype(np.float64)
        _, showers = toy_showers(geometry, 400, 1)
        features = compute_features(geometry, energies, showers)
        slices = energy_slices(geometry, energies)
        assert [part.label for part in slices][:3] == ["256 MeV", "512 MeV", "1.02 GeV"]
        specs = {spec.key: spec for spec in histogram_specs(features, slices, float(showers.max()))}
        first, late = specs["response_slice_0"].edges, specs["response_slice_5"].edges
        assert (first[0], first[-1], len(first)) == (0.4, 1.4, 21)
        assert (late[0], late[-1]) == ((0.9, 1.1) if narrow else (0.4, 1.4))
        fourth = specs["response_slice_4"].edges  # 2^12 MeV
        assert fourth[0] == (0.9 if narrow else 0.4)
        assert specs["response_slice_3"].edges[0] == 0.4
        assert specs["centre_r_12"].edges[-1] == 1500
        assert specs["centre_r_0"].edges[-1] == 500
        assert specs["centre_eta_1"].edges[-1] == 100
        assert "centre_eta_0" not in specs
        if name == "1-pions":
            assert specs["centre_eta_13"].edges[-1] == 500
            assert specs["width_eta_12"].edges[-1] == 400


def test_slices_select_their_showers(toy_showers: Toy) -> None:
    geometry = named_geometry("1-pions")
    energies, showers = toy_showers(geometry, 200, 2, 256.0, 4000.0)
    features = compute_features(geometry, energies, showers)
    slices = energy_slices(geometry, energies)
    specs = [spec for spec in histogram_specs(features, slices, 1.0) if spec.group == "response_slices"]
    assert sum(len(quantity(features, spec)) for spec in specs) == 200
    decades = energy_slices(named_geometry("2"), np.geomspace(1e3, 1e6, 300))
    assert [part.label for part in decades] == ["1 GeV to 10 GeV", "10 GeV to 100 GeV", "100 GeV to 1 TeV"]
    assert sum(int(part.contains(np.geomspace(1e3, 1e6, 300)).sum()) for part in decades) == 300
