"""The README's section "Your own model": train it, name its folder, and get showers of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from qshower.model.geometry import named_geometry
from qshower.model.manifest import update_manifest
from qshower.model.showers_writer import write_showers
from qshower.service.catalogue import load_catalogue
from qshower.service.service_errors import SettingsError
from qshower.service.settings import load_settings

SECTION = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split("## Your own model")[1]


@pytest.fixture
def copies(environment: pytest.MonkeyPatch, untrained_bundles: Path, tmp_path: Path) -> Path:
    """A folder of the user's with two models, neither marked default, and no default named."""
    for name in ("test-zephyr", "test-pegasus"):
        shutil.copytree(untrained_bundles / name, tmp_path / "models" / name)
        update_manifest(tmp_path / "models" / name, default=False)
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "models"))
    environment.delenv("QSHOWER_DEFAULT_MODEL")
    return tmp_path / "models"


def test_what_one_trains_is_what_one_gets(
    qshower: Any, toy_showers: Any, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    block = re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    config = yaml.safe_load(block[1])
    # As the README has it, but small.
    config["latent"] = {"nodes_per_partition": 20, "levels": 8}
    config["network"] = {"trunk": 8, "layer_code": 4, "layer_hidden": 8, "encoder_hidden": 8, "level_hidden": 8}
    config["schedule"] = {"batch": 8, "autoencoder_steps": 1, "prior_steps": 1, "chains": 16, "prior_batch": 8}
    environment.chdir(tmp_path)
    environment.delenv("QSHOWER_DEFAULT_MODEL")
    environment.setattr("qshower.sampler.tempering.MOST_REPLICAS", 1)  # the sweeps are not measured
    write_showers(Path("geant4.hdf5"), *toy_showers(named_geometry("2"), 40, 1))
    Path("mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "qshower train mine.yaml" in SECTION
    code, _, err = qshower("train", "mine.yaml")
    assert code == 0, err
    named = re.search(r"QSHOWER_MODEL_FOLDER=(\S+)", SECTION)
    assert named is not None
    environment.setenv("QSHOWER_MODEL_FOLDER", named[1])
    code, _, err = qshower("generate", "--like", "geant4.hdf5", "-n", 2, "--sampler", "gibbs", "-o", "out.hdf5")
    assert code == 0, err
    with h5py.File("out.hdf5") as file:
        assert json.loads(file.attrs["provenance"])["model"] == "mine"


def test_the_one_marked_default_is_the_default(copies: Path) -> None:
    update_manifest(copies / "test-pegasus", default=True)
    assert load_catalogue(load_settings()).default_name == "test-pegasus"


def test_of_several_none_is_picked_in_silence(copies: Path) -> None:
    with pytest.raises(SettingsError, match="test-pegasus, test-zephyr"):
        load_catalogue(load_settings())
    update_manifest(copies / "test-zephyr", default=True)
    update_manifest(copies / "test-pegasus", default=True)
    with pytest.raises(SettingsError, match="QSHOWER_DEFAULT_MODEL"):
        load_catalogue(load_settings())
