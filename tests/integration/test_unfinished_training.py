"""A training that is watched in a log, stopped late, and gone on with; what is left in between serves nobody."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qshower.model.bundle import find_bundles, load_bundle
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.model.training import run as training
from qshower.service.catalogue import load_catalogue
from qshower.service.commands import terminal
from qshower.service.service_errors import SettingsError
from qshower.service.settings import load_settings


@pytest.fixture
def config(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 60))
    voxels = named_geometry("1-photons").voxel_count
    showers = rng.gamma(0.5, size=(60, voxels)) * energies[:, None] / 200
    write_showers(tmp_path / "a.hdf5", energies, np.where(showers < 1, 0, showers).astype(np.float32))
    (tmp_path / "toy.yaml").write_text(
        "{name: toy, output: runs, data: {files: [{path: a.hdf5}], geometry: 1-photons, domain_mev: [1000, 100000]},"
        " latent: {nodes_per_partition: 20, levels: 8}, network: {symmetry: none, trunk: 8, layer_code: 4,"
        " layer_hidden: 8, encoder_hidden: 8, level_hidden: 8},"
        " schedule: {batch: 16, autoencoder_steps: 2, prior_steps: 2, chains: 16, chain_sweeps: 1, prior_batch: 16,"
        " checkpoint_every: 1}}"
    )
    return tmp_path / "toy.yaml"


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_training_stopped_while_its_sweeps_are_measured(
    qshower: Any, fails: Any, environment: pytest.MonkeyPatch, config: Path
) -> None:
    runs = config.parent / "runs"
    with environment.context() as stopped:
        stopped.setattr(training, "measure_sweeps", stop)
        assert qshower("train", config)[0] == 130
    assert [path.name for path in runs.iterdir()] == ["checkpoint.pt"]
    unfinished = "its training has not finished"
    for path in (runs, runs / "toy"):
        assert unfinished in fails(2, "inspect", path)
    arguments = (config.parent / "a.hdf5", "--bundle", runs / "toy", "--no-classifiers", "-o", config.parent / "report")
    assert unfinished in fails(2, "evaluate", *arguments)
    environment.setenv("QSHOWER_MODEL_FOLDER", str(runs))
    environment.delenv("QSHOWER_DEFAULT_MODEL")
    with pytest.raises(SettingsError, match=r"runs: the training in it has not finished"):
        load_catalogue(load_settings())
    energies = ("--energies-mev", 2000, "-o", config.parent / "out.hdf5")
    assert "has not finished" in fails(2, "generate", *energies)

    environment.setattr(terminal, "LINE_INTERVAL_S", 0.0)
    code, _, err = qshower("train", config)
    assert code == 0, err
    assert "continues from step 4 of 4" in err
    bundle = load_bundle(runs / "toy")
    assert bundle.sweeps_measured
    assert bundle.manifest.sweeps_measurement["tolerance_sigma"] == 0.5
    assert load_catalogue(load_settings()).default_name == "toy"
    assert sorted(path.name for path in runs.iterdir()) == ["checkpoint.pt", "toy"]


def test_a_training_whose_output_goes_to_a_file(qshower: Any, environment: pytest.MonkeyPatch, config: Path) -> None:
    environment.setattr(training, "measure_sweeps", stop)
    environment.setattr(terminal, "LINE_INTERVAL_S", 0.0)
    code, out, err = qshower("train", config)
    assert (code, out) == (130, "")
    lines = err.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [f"{step} of 4 steps" for step in (1, 2, 3, 4)]
    assert lines[0].startswith("training loss ")
    environment.setattr(terminal, "LINE_INTERVAL_S", 3600.0)
    assert qshower("train", config, "--no-resume") == (130, "", "")


def test_a_bundle_that_is_being_written_is_not_found(untrained_bundles: Path, tmp_path: Path) -> None:
    (tmp_path / ".toy.part").symlink_to(untrained_bundles / "test-zephyr")
    assert find_bundles(tmp_path) == {}
