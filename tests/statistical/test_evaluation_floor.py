"""Figures of equal laws lie at their floors, and every figure that should move does.

All numbers of a run derive from fixed seeds; each limit is at least five standard errors from what is expected, so a
false alarm needs a change of the code (or of a library's random numbers) and then has odds below one in a million.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.classifiers import ClassifierSettings
from qshower.evaluation.comparison import QUICK_SETTINGS, Comparison
from qshower.evaluation.distances import FpdSettings, KpdSettings
from qshower.evaluation.report import Choices, run_evaluation
from qshower.model.geometry import Geometry, Layer
from qshower.model.showers_writer import write_showers

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]

LAYERS, ANGLES, RINGS = 6, 8, 4
TOY = Geometry("toy", "electron", 11, tuple(Layer(i, (0.0, 2.0, 5.0, 9.0, 14.0), ANGLES) for i in range(LAYERS)), 0.1)
COUNT = 1500
SETTINGS = replace(
    QUICK_SETTINGS,
    classifier=ClassifierSettings(
        hidden=48,
        layers=2,
        cnn_width=4,
        epochs=6,
        cnn_epochs=2,
        batch_size=100,
        cnn_batch_size=100,
        learning_rate=2e-3,
        repeats=2,
        most_rows=1000,
        most_cnn_rows=500,
    ),
    fpd=FpdSettings(repeats=5, points=5),
    kpd=KpdSettings(batches=5),
    research_fpd=FpdSettings(repeats=5, points=5),
    research_kpd=KpdSettings(batches=5),
    neighbour_rows=1000,
)


def block(showers: NDArray[np.float32]) -> NDArray[np.float32]:
    return showers.reshape(-1, LAYERS, ANGLES, RINGS)


@pytest.fixture(scope="module")
def judged(toy_showers: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comparison]:
    """A reference of 1500 showers against: a rotated copy of other showers of its law, and three spoilt ones."""
    folder = tmp_path_factory.mktemp("judged")
    energies, showers = toy_showers(TOY, 2 * COUNT, 31)
    rng = np.random.default_rng(32)
    other_energies, other = energies[1::2], showers[1::2]
    shuffled = other.copy()
    for voxels in TOY.layer_slices():  # voxels of each layer change places, anew in each shower
        shuffled[:, voxels] = rng.permuted(shuffled[:, voxels], axis=1)
    dropped = block(other).copy()
    dropped[:, 2] = 0
    samples = {
        "rotated": np.roll(block(other), 3, axis=2),
        "scaled": other * np.float32(1.05),
        "shuffled": shuffled,
        "dropped": dropped,
    }
    write_showers(folder / "geant4.hdf5", energies[::2], showers[::2])
    for name, values in samples.items():
        write_showers(folder / f"{name}.hdf5", other_energies, values.reshape(COUNT, -1))
    result = run_evaluation(
        folder / "geant4.hdf5", [folder / f"{name}.hdf5" for name in samples], Choices(geometry=TOY, settings=SETTINGS)
    )
    assert result.floor is not None
    assert result.multiclass is not None
    assert result.multiclass.names[int(np.argmax(result.multiclass.scores))] in ("rotated", "scaled")
    return {comparison.name: comparison for comparison in result.comparisons} | {"floor": result.floor}


def pulls(comparison: Comparison, group: str | None = None) -> NDArray[np.float64]:
    """Separation powers in units of the spread that N and the binning imply, from what they imply."""
    return np.array(
        [
            (pair.separation - pair.expected_floor) / pair.expected_spread
            for pair in comparison.histograms
            if pair.expected_floor is not None and pair.expected_spread and (group is None or pair.spec.group == group)
        ]
    )


@pytest.mark.parametrize("name", ["rotated", "floor"])
def test_equal_laws_separate_as_much_as_their_size_implies(judged: dict[str, Comparison], name: str) -> None:
    found = pulls(judged[name])
    assert len(found) > 40
    # Histograms of one shower set are correlated; the mean of the pulls has a standard error below 0.25.
    assert abs(found.mean()) < 1.25
    assert found.max() < 7


@pytest.mark.parametrize("name", ["rotated", "floor"])
def test_equal_laws_cannot_be_told_apart(judged: dict[str, Comparison], name: str) -> None:
    comparison = judged[name]
    assert comparison.boosted is not None
    assert abs(comparison.boosted.auc - 0.5) < 5 * comparison.boosted.error
    for item in comparison.classifiers:
        assert abs(item.auc - 0.5) < 5 * item.auc_error, item.kind
    assert comparison.neighbours is not None
    assert comparison.neighbours.density == pytest.approx(1, abs=0.4)
    assert comparison.kpd is not None
    assert abs(comparison.kpd.value) < 5 * max(comparison.kpd.error, 1e-4)
    assert comparison.correlations.rms_difference < 3 * comparison.correlations.expected_rms


def test_the_rotated_half_is_at_the_floor(judged: dict[str, Comparison]) -> None:
    rotated, floor = judged["rotated"], judged["floor"]
    assert rotated.fpd_at_floor is not None
    assert floor.fpd is not None
    assert rotated.fpd is not None
    assert rotated.fpd_at_floor.count == floor.fpd.count == COUNT // 2
    # The floor itself fluctuates from one set of showers to another by some ten per cent.
    assert 0.5 < rotated.fpd_at_floor.value / floor.fpd.value < 2
    assert rotated.fpd.value < floor.fpd.value  # more showers, lower floor
    assert rotated.findings == ()
    assert rotated.neighbours is not None
    assert floor.neighbours is not None


def separation(comparison: Comparison, key: str) -> tuple[float, float]:
    pair = next(pair for pair in comparison.histograms if pair.spec.key == key)
    assert pair.expected_floor is not None
    assert pair.expected_spread is not None
    return pair.separation, pair.expected_floor + 5 * pair.expected_spread


def test_five_per_cent_more_energy_moves_the_energies(judged: dict[str, Comparison]) -> None:
    scaled, rotated = judged["scaled"], judged["rotated"]
    value, limit = separation(scaled, "response")
    assert value > limit
    for pair in scaled.histograms:
        if pair.spec.group == "response_slices" and pair.spec.key.endswith("1"):
            assert pair.expected_floor is not None
            assert pair.separation > 3 * pair.expected_floor
    assert scaled.fpd is not None
    assert rotated.fpd is not None
    assert scaled.boosted is not None
    # Centres, widths and sparsity hardly know the scale of the energy.
    assert abs(pulls(scaled, "centre_eta").mean()) < 3


def test_shuffled_voxels_move_all_but_the_layer_energies(judged: dict[str, Comparison]) -> None:
    shuffled, floor = judged["shuffled"], judged["floor"]
    for key in ("centre_r_1", "width_r_1", "width_eta_1", "width_phi_1"):
        value, limit = separation(shuffled, key)
        assert value > limit, key
    assert pulls(shuffled, "e_layer").max() < 7
    assert shuffled.fpd is not None
    assert floor.fpd is not None
    assert shuffled.fpd.value > 2 * floor.fpd.value
    assert shuffled.kpd is not None
    assert shuffled.kpd.value > 5 * shuffled.kpd.error
    assert shuffled.boosted is not None
    assert shuffled.boosted.auc > 0.9
    assert min(item.auc for item in shuffled.classifiers if item.kind != "cnn") > 0.8
    assert shuffled.neighbours is not None
    assert floor.neighbours is not None
    assert shuffled.neighbours.density < 0.5 * floor.neighbours.density


def test_a_dropped_layer_moves_everything(judged: dict[str, Comparison]) -> None:
    dropped, floor = judged["dropped"], judged["floor"]
    for key in ("response", "e_layer_2", "sparsity_2", "centre_r_2"):
        value, limit = separation(dropped, key)
        assert value > limit, key
    assert separation(dropped, "e_layer_2")[0] > 0.9
    assert pulls(dropped, "e_layer")[[0, 1]].max() < 7  # the layers before it are as they were
    assert dropped.fpd is not None
    assert floor.fpd is not None
    assert dropped.fpd.value > 5 * floor.fpd.value
    assert dropped.boosted is not None
    assert dropped.boosted.auc > 0.99
    assert all(item.auc > 0.9 for item in dropped.classifiers if item.kind != "cnn")  # two epochs are few for it
    assert dropped.correlations.rms_difference > 5 * dropped.correlations.expected_rms
    assert dropped.neighbours is not None
    assert floor.neighbours is not None
    assert dropped.neighbours.precision < floor.neighbours.precision
    assert {finding.code for finding in dropped.findings} <= {"normalisation"}


def test_more_energy_moves_the_voxel_spectrum_beyond_its_floor(judged: dict[str, Comparison]) -> None:
    def voxels(name: str) -> tuple[float, float]:
        pair = next(pair for pair in judged[name].histograms if pair.spec.key == "e_voxel")
        return pair.separation, pair.error

    assert voxels("dropped")[0] > voxels("floor")[0] + 5 * voxels("floor")[1]
