"""Training runs end to end on small toy showers: it learns, it resumes to the same result, it refuses bad input."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from qshower.model.binning_xml import write_binning_xml
from qshower.model.bundle import load_bundle, load_encoder_tensors
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.model.training.run import train
from qshower.sampler.errors import InvalidInputError

VOXELS = named_geometry("1-photons").voxel_count


def toy_file(path: Path, rows: int = 120, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), rows))
    profile = rng.gamma(0.5, size=VOXELS)
    profile /= profile.sum()
    showers = rng.gamma(2.0, size=(rows, VOXELS)) * profile * energies[:, None] / 2
    showers[rng.random(showers.shape) < 0.5] = 0
    write_showers(path, energies, showers.astype(np.float32))
    return path


def write_config(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "name": "toy",
        "output": "out",
        "data": {"files": [{"path": "toy.hdf5"}], "geometry": "1-photons", "domain_mev": [1000, 100000]},
        "latent": {"topology": "zephyr", "nodes_per_partition": 20, "levels": 8},
        "network": {
            "symmetry": "none",
            "trunk": 24,
            "layer_code": 8,
            "layer_hidden": 16,
            "encoder_hidden": 24,
            "level_hidden": 16,
            "profile_memory": 2,
        },
        "schedule": {
            "seed": 3,
            "batch": 16,
            "autoencoder_steps": 10,
            "prior_steps": 6,
            "chains": 16,
            "chain_sweeps": 1,
            "prior_batch": 16,
            "checkpoint_every": 3,
        },
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section] = {**values[section], name: value}
        else:
            values[section] = value
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values))
    if not (folder / "toy.hdf5").exists():
        toy_file(folder / "toy.hdf5")
    return path


def tensors(folder: Path) -> dict[str, np.ndarray]:
    bundle = load_bundle(folder)
    return {
        **bundle.decoder_tensors(),
        **{f"encoder.{k}": v for k, v in load_encoder_tensors(folder).items()},
        "h": bundle.machine.h,
        "j": bundle.machine.j,
    }


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_at", [5, 11, 15])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, killed_at: int) -> None:
    whole = train(write_config(tmp_path / "whole"))

    def kill(step: int, figures: dict[str, float]) -> None:
        if step == killed_at:
            raise KilledError

    config = write_config(tmp_path / "killed")
    with pytest.raises(KilledError):
        train(config, report=kill)
    assert not (tmp_path / "killed" / "out" / "toy").exists()
    steps: list[int] = []
    resumed = train(config, report=lambda step, figures: steps.append(step))
    assert steps[0] == killed_at // 3 * 3 + 1 if killed_at != 11 else steps[0] == 11
    expected, found = tensors(whole), tensors(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensor, found[name], err_msg=name)


def test_training_raises_the_likelihood_and_the_bundle_generates(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    config = write_config(tmp_path, schedule__autoencoder_steps=60, schedule__batch=32, schedule__checkpoint_every=30)
    bundle = load_bundle(train(config, report=lambda step, figures: seen.append(figures)))
    assert np.mean([f["loss"] for f in seen[50:60]]) < np.mean([f["loss"] for f in seen[:10]]) - 30
    assert "validation_hits" in seen[29]
    assert "energy_gap" in seen[-1]
    training = bundle.manifest.training
    assert training["files"][0]["showers"] == 120
    assert training["showers_trained_on"] + training["showers_validated_on"] == 120
    energies = np.array([1e3, 5e4])
    spins = np.ones((2, bundle.machine.node_count), dtype=np.int8)
    spins[:, bundle.machine.condition_nodes] = bundle.conditions(energies)
    showers = bundle.decode(spins, energies, np.array([[1, 0], [1, 1]], dtype=np.uint64), 1.0)
    assert showers.shape == (2, VOXELS)


def test_a_prior_is_trained_for_another_lattice(tmp_path: Path) -> None:
    first = train(write_config(tmp_path / "first"))
    config = write_config(
        tmp_path / "second", start_from=str(first), latent__topology="pegasus", schedule__autoencoder_steps=0
    )
    second = load_bundle(train(config))
    assert second.machine.topology == "pegasus:16"
    start = load_bundle(first)
    kept = second.decoder_tensors()
    for name, tensor in start.decoder_tensors().items():
        np.testing.assert_array_equal(tensor, kept[name], err_msg=name)
    assert np.abs(second.machine.h).sum() > 0


@pytest.mark.parametrize(
    "network",
    [{"likelihood": "squared_error"}, {"likelihood": "squared_error", "scaling": "logit", "high": 0.7, "low": 0.2}],
)
def test_the_references_losses_train(tmp_path: Path, network: dict[str, object]) -> None:
    config = write_config(
        tmp_path,
        network={"symmetry": "none", "trunk": 24, **network},
        latent__energy_code="bits",
        latent__nodes_per_partition=60,
        schedule__hard=False,
        schedule__relaxation_start=5.0,
        schedule__relaxation_end=500.0,
    )
    bundle = load_bundle(train(config))
    assert bundle.manifest.likelihood == "squared_error"
    assert bundle.manifest.energy_code.levels is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__batch": "many"}, r"toy\.yaml: schedule\.batch"),
        ({"data__domain_mev": [1000, 2000]}, r"data\.domain_mev: .* MeV in row \d+ of toy\.hdf5"),
        ({"data__domain_mev": [2000, 1000]}, "0 < low < high"),
        ({"network__high": 0.5}, "network.high and network.low"),
        ({"surprise": 1}, "surprise"),
        ({"data__geometry": "9"}, r"data\.geometry: '9'"),
        ({"data__files": [{"path": "absent.hdf5"}]}, r"absent\.hdf5"),
    ],
)
def test_bad_configurations_name_the_key(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(write_config(tmp_path, **changes))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(write_config(tmp_path))
    with pytest.raises(InvalidInputError, match="another configuration"):
        train(write_config(tmp_path, schedule__seed=4))


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidInputError, match="readable checkpoint"):
        train(config)


def test_nan_in_the_data_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with h5py.File(tmp_path / "toy.hdf5", "a") as file:
        file["showers"][17, 3] = np.nan
    with pytest.raises(InvalidInputError, match="17"):
        train(config)


def test_a_binning_file_beside_the_configuration_is_a_geometry(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_binning_xml(tmp_path / "binning.xml", named_geometry("1-photons"))
    config = write_config(tmp_path, data__geometry="binning.xml", data__particle="photon", data__threshold_mev=2.0)
    bundle = load_bundle(train(config))
    assert bundle.geometry.voxel_count == VOXELS
    assert bundle.geometry.threshold_mev == 2.0
