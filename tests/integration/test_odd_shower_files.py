"""Files that can be read but hold no showers in MeV: ``inspect`` warns, ``train`` refuses unless it is told not to."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.model.geometry import named_geometry
from qshower.model.training.config import read_config
from qshower.model.training.data import load_training_showers

CONFIG = (
    "{name: toy, output: ., data: {files: [{path: odd.hdf5}], geometry: '2', domain_mev: [1.0e-9, 1.0e+12]},"
    " schedule: {autoencoder_steps: 1, prior_steps: 1}}"
)


def good(rows: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Showers of dataset 2's geometry that deposit 0.9 of their energy, thresholded."""
    geometry = named_geometry("2")
    rng = np.random.default_rng(4)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e6), rows))
    showers = rng.exponential(1.0, (rows, geometry.voxel_count)) * np.exp(-geometry.r_mm() / 4)
    showers *= 0.9 * energies[:, None] / showers.sum(axis=1, keepdims=True)
    return energies, np.where(showers < geometry.threshold_mev, 0, showers)


def store(path: Path, energies: NDArray[np.float64], showers: NDArray[np.float64]) -> Path:
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies[:, None]
        file.create_dataset("showers", data=showers.astype(np.float32), compression="gzip", compression_opts=1)
    return path


FAULTS = {
    "showers in GeV": (1.0, 1e-3, "0.0009.*showers are in GeV, or incident_energies in keV"),
    "incident energies in GeV": (1e-3, 1.0, "E_tot/E_inc is 900.*incident_energies are in GeV, or showers in keV"),
    "both in GeV": (1e-3, 1e-3, "Energies look like GeV"),
    "both in keV": (1e3, 1e3, "Energies look like keV"),
    "empty showers": (1.0, 0.0, "60 of 60 showers have no energy at all"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_in_another_unit_or_without_energy(qshower: Any, fails: Any, tmp_path: Path, fault: str) -> None:
    energy_factor, shower_factor, message = FAULTS[fault]
    energies, showers = good()
    path = store(tmp_path / "odd.hdf5", energies * energy_factor, showers * shower_factor)
    code, out, err = qshower("inspect", path)
    assert code == 0
    assert "showers" in out
    assert err.startswith("warning: ")
    assert re.search(message, err)
    config = tmp_path / "toy.yaml"
    config.write_text(CONFIG)
    error = fails(2, "train", config)
    assert "odd.hdf5" in error
    assert "--no-check-data" in error
    assert re.search(message, error)
    told: list[str] = []
    data = read_config(config).data
    loaded = load_training_showers(data, "none", 0, check=False, announce=told.append)
    assert len(loaded.energies) == 60
    assert told[0].startswith("odd.hdf5: warning: ")


def test_a_good_file_gives_no_warning(qshower: Any, tmp_path: Path) -> None:
    code, _, err = qshower("inspect", store(tmp_path / "good.hdf5", *good()))
    assert (code, err) == (0, "")


def test_a_few_odd_showers_are_warned_of_and_trained_on(qshower: Any, tmp_path: Path) -> None:
    energies, showers = good()
    showers[3] = 0
    showers[5] = showers[4]
    showers[7] = 0.01
    path = store(tmp_path / "odd.hdf5", energies, showers)
    code, _, err = qshower("inspect", path)
    assert code == 0
    assert "1 of 60 showers have no energy at all" in err
    assert "1 of 60 showers have no voxel above the threshold of 0.01515 MeV" in err
    assert "1 showers repeat an earlier one, voxel by voxel (first: rows 4 and 5)" in err
    (tmp_path / "toy.yaml").write_text(CONFIG)
    told: list[str] = []
    load_training_showers(read_config(tmp_path / "toy.yaml").data, "none", 0, announce=told.append)
    assert len(told) == 4


def test_negative_voxels_are_shown_by_inspect(qshower: Any, tmp_path: Path) -> None:
    energies, showers = good()
    showers[9, 100] = -3.0
    code, _, err = qshower("inspect", store(tmp_path / "odd.hdf5", energies, showers))
    assert code == 0
    assert "1 showers hold negative voxel energies (first: row 9)" in err


def test_a_file_given_twice_to_a_training_is_told(tmp_path: Path) -> None:
    store(tmp_path / "odd.hdf5", *good())
    (tmp_path / "toy.yaml").write_text(CONFIG.replace("{path: odd.hdf5}", "{path: odd.hdf5}, {path: odd.hdf5}"))
    told: list[str] = []
    load_training_showers(read_config(tmp_path / "toy.yaml").data, "none", 0, announce=told.append)
    assert told == ["odd.hdf5: warning: 60 showers are in an earlier file as well."]
