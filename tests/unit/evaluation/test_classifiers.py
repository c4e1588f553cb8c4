"""Classifiers: inputs, networks, training, and what they say of equal and of different showers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qshower.evaluation.classifiers import (
    KINDS,
    PUBLISHED_CLASSIFIER,
    ClassifierSettings,
    inputs_of,
    kinds_for,
    two_sample_classifier,
)
from qshower.evaluation.energy_slices import energy_slices
from qshower.evaluation.multiclass import multiclass_classifier
from qshower.evaluation.networks import PeriodicConvolution, ShowerResNet, dense_network
from qshower.evaluation.shower_set import ShowerSet, load_shower_set, voxel_edges
from qshower.model.geometry import Geometry, Layer, named_geometry
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import InvalidInputError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]
MakeSet = Callable[..., ShowerSet]

TOY = Geometry("toy", "electron", 11, tuple(Layer(i, (0.0, 2.0, 5.0, 9.0), 6) for i in range(4)), 0.1)
TINY = ClassifierSettings(
    hidden=32, layers=2, cnn_width=4, epochs=6, cnn_epochs=3, batch_size=100, cnn_batch_size=100, learning_rate=2e-3,
    repeats=2,
)  # fmt: skip
SLICES = energy_slices(TOY, np.geomspace(1e3, 1e5, 100))


@pytest.fixture
def make_set(toy_showers: Toy, tmp_path: Path) -> MakeSet:
    def make(seed: int, count: int = 600, scale: float = 1.0, *, drop_layer: bool = False) -> ShowerSet:
        energies, showers = toy_showers(TOY, count, seed)
        if drop_layer:
            showers[:, 18:36] = 0
        path = tmp_path / f"{seed}.hdf5"
        write_showers(path, energies, showers * np.float32(scale))
        return load_shower_set(path, TOY, SLICES, name=f"s{seed}", edges=voxel_edges(0.1, 1e5), keep=count)

    return make


def test_inputs_by_plain_arithmetic(make_set: MakeSet) -> None:
    showers = make_set(1, 30)
    rows = np.array([4, 17])
    e_inc, voxels = showers.features.e_inc_mev[rows], showers.kept_mev[rows].astype(float)
    low = inputs_of("low", showers, rows)
    np.testing.assert_allclose(low, np.column_stack([np.log10(e_inc), 100 * voxels / e_inc[:, None]]), rtol=1e-5)
    normalised = inputs_of("low_normalised", showers, rows)
    layers = voxels.reshape(2, 4, 18)
    e_layer = layers.sum(axis=2)
    shares = (layers / (e_layer[:, :, None] + 1e-16)).reshape(2, -1)
    np.testing.assert_allclose(normalised[:, 1:73], shares, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(normalised[:, 73:], np.log10(e_layer + 1e-8), rtol=1e-4)
    np.testing.assert_allclose(inputs_of("high", showers, rows), showers.features.matrix()[rows], rtol=1e-5)
    assert inputs_of("cnn", showers, rows).shape == (2, 73)


def test_the_published_setting() -> None:
    assert (PUBLISHED_CLASSIFIER.hidden, PUBLISHED_CLASSIFIER.layers) == (2048, 3)
    assert (PUBLISHED_CLASSIFIER.epochs, PUBLISHED_CLASSIFIER.batch_size, PUBLISHED_CLASSIFIER.repeats) == (
        50,
        1000,
        10,
    )
    assert PUBLISHED_CLASSIFIER.learning_rate == 2e-4
    assert kinds_for(named_geometry("2")) == KINDS
    assert "cnn" not in kinds_for(named_geometry("1-pions"))
    widths = [part.out_features for part in dense_network(10, 2048, 3, 1) if isinstance(part, torch.nn.Linear)]
    assert widths == [2048, 2048, 2048, 1]


def test_equal_laws_cannot_be_told_apart(make_set: MakeSet) -> None:
    # AUC of 120 against 120 test rows has a standard error of 0.037, mean of 2 trainings; 5 sigma on one training.
    found = two_sample_classifier("high", make_set(1), make_set(2), TINY, slices=SLICES)
    assert abs(found.auc - 0.5) < 5 * found.auc_error
    assert abs(found.jsd) < 0.3
    assert (found.rows, found.test_rows, len(found.trainings)) == (600, 120, 2)
    assert [part.label for part in found.slices] == ["1 GeV to 10 GeV", "10 GeV to 100 GeV"]
    assert sum(part.rows for part in found.slices) == pytest.approx(120, abs=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_layer_is_found(kind: str, make_set: MakeSet) -> None:
    found = two_sample_classifier(kind, make_set(1), make_set(2, drop_layer=True), TINY, slices=SLICES)  # type: ignore[arg-type]
    assert found.auc > 0.9
    assert found.jsd > 0.4
    assert all(part.auc > 0.8 for part in found.slices)


def test_the_same_seed_gives_the_same_answer(make_set: MakeSet) -> None:
    first, second = make_set(1, 200), make_set(2, 200)
    settings = ClassifierSettings(hidden=8, layers=1, epochs=2, batch_size=50, repeats=1)
    state = torch.random.get_rng_state()
    answers = [two_sample_classifier("high", first, second, settings, seed=5).auc for _ in range(2)]
    assert answers[0] == answers[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_too_few_showers_are_refused(make_set: MakeSet) -> None:
    with pytest.raises(InvalidInputError, match="at least 50"):
        two_sample_classifier("high", make_set(1, 40), make_set(2, 200), TINY)
    with pytest.raises(InvalidInputError, match="at least two submissions"):
        multiclass_classifier(make_set(1, 60), [make_set(2, 60)], TINY)


def test_convolutions_are_periodic_in_angle() -> None:
    torch.manual_seed(0)
    layer = PeriodicConvolution(2, 3, 3, 1)
    block = torch.randn(2, 2, 4, 6, 3)
    with torch.no_grad():
        turned = layer(torch.roll(block, 2, dims=3))
        torch.testing.assert_close(turned, torch.roll(layer(block), 2, dims=3))
        assert layer(block).shape == (2, 3, 4, 6, 3)
        assert ShowerResNet((4, 6, 3), 4).eval()(torch.randn(5, 73)).shape == (5, 1)


def test_the_residual_network_has_eighteen_weighted_layers() -> None:
    network = ShowerResNet((45, 16, 9), 4)
    main_path = [
        module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv3d | torch.nn.Linear) and "shortcut" not in name
    ]
    assert len(main_path) == 18


def test_the_multi_class_score_finds_the_sample_that_is_like_the_reference(make_set: MakeSet) -> None:
    reference = make_set(1, 400)
    samples = [make_set(2, 400), make_set(3, 400, drop_layer=True), make_set(4, 400, scale=0.5)]
    found = multiclass_classifier(reference, samples, TINY)
    assert int(np.argmax(found.scores)) == 0
    assert found.scores[0] > found.uniform + 0.3
    assert found.names == ("s2", "s3", "s4")
    assert int(np.argmin(np.diag(found.confusion))) >= 0
    assert (np.argmax(found.confusion, axis=1) == [0, 1, 2]).all()
    np.testing.assert_allclose(found.reference_histograms.sum(axis=1), 1)
    assert found.accuracy > 0.6


def test_equal_samples_score_like_a_guess(make_set: MakeSet) -> None:
    found = multiclass_classifier(make_set(1, 400), [make_set(2, 400), make_set(3, 400)], TINY)
    assert found.uniform == pytest.approx(-np.log(2))
    np.testing.assert_allclose(found.scores, found.uniform, atol=0.25)
