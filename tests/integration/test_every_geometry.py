"""The four geometries of the CaloChallenge and one of one's own, on the whole way from a file to a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qshower.client import Client
from qshower.evaluation import report
from qshower.evaluation.comparison import QUICK_SETTINGS
from qshower.evaluation.distances import FpdSettings, KpdSettings
from qshower.model.binning_xml import write_binning_xml
from qshower.model.bundle import load_bundle
from qshower.model.geometry import GEOMETRIES, Geometry, Layer
from qshower.model.showers_file import open_showers
from qshower.model.showers_writer import write_showers
from qshower.model.training import run as training
from qshower.sampler.errors import InvalidInputError

OWN = Geometry(
    "mine", "electron", 11,
    (Layer(0, (0.0, 1.0, 2.0, 4.0), 4), Layer(1, (0.0, 2.0, 4.0), 6), Layer(4, (0.0, 5.0), 1)), 0.5,
)  # fmt: skip
KINDS = {**GEOMETRIES, "mine": OWN}

ToyShowers = Callable[..., Any]


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _small(environment: pytest.MonkeyPatch) -> None:
    """Fewer repetitions of what is tested elsewhere: distances, and the sweeps that a bundle needs."""
    fpd, kpd = FpdSettings(repeats=2, points=4), KpdSettings(batches=2)
    tiny = replace(QUICK_SETTINGS, fpd=fpd, kpd=kpd, research_fpd=fpd, research_kpd=kpd)
    environment.setattr(report, "QUICK_SETTINGS", tiny)

    def not_measured(*_: Any, **__: Any) -> None:
        raise InvalidInputError("tolerance", 0, "a measurement, which is not what is tested here")

    environment.setattr(training, "measure_sweeps", not_measured)


def write_config(folder: Path, kind: str) -> Path:
    data = {
        "files": [{"path": "g4.hdf5"}],
        "geometry": kind if kind in GEOMETRIES else f"{kind}.xml",
        "domain_mev": [1000, 100000],
        "threshold_mev": KINDS[kind].threshold_mev,
    }
    sizes = {"trunk": 8, "layer_code": 4, "layer_hidden": 8, "encoder_hidden": 8, "level_hidden": 8}
    sizes |= {"angular_channels": 2, "voxel_channels": 4, "profile_hidden": 4}
    schedule = {"batch": 4, "autoencoder_steps": 2, "prior_steps": 1, "chains": 8, "chain_sweeps": 1, "prior_batch": 4}
    values = {
        "name": f"toy-{kind}",
        "output": "runs",
        "data": data,
        "latent": {"nodes_per_partition": 20, "levels": 4},
        "network": sizes,
        "schedule": {**schedule, "checkpoint_every": 1},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_file_to_a_report(
    qshower: Any,
    serve: Any,
    environment: pytest.MonkeyPatch,
    toy_showers: ToyShowers,
    tmp_path: Path,
    kind: str,
) -> None:
    def succeeds(*arguments: object) -> tuple[str, str]:
        code, out, err = qshower(*arguments)
        assert code == 0, err
        return out, err

    geometry = KINDS[kind]
    write_binning_xml(tmp_path / "mine.xml", OWN)
    g4 = tmp_path / "g4.hdf5"
    write_showers(g4, *toy_showers(geometry, 16, 3))
    flags = () if kind in GEOMETRIES else ("--geometry", tmp_path / "mine.xml")
    out, _ = succeeds("inspect", g4, *flags)
    assert f"{geometry.voxel_count} voxels" in out

    config = write_config(tmp_path, kind)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        training.train(config, report=stop)
    _, err = succeeds("train", config)
    assert "continues from step 2 of 3" in err
    bundle = load_bundle(tmp_path / "runs" / f"toy-{kind}")
    assert bundle.geometry.layers == geometry.layers
    assert bundle.manifest.symmetry == ("none" if kind == "mine" else "dihedral")
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "runs"))
    environment.delenv("QSHOWER_DEFAULT_MODEL")
    out, _ = succeeds("inspect", f"toy-{kind}")
    assert f"{geometry.voxel_count} voxels" in out

    first, second = tmp_path / "first.hdf5", tmp_path / "second.hdf5"
    wish = ("--sampler", "gibbs", "--sweeps", 8)
    succeeds("generate", "--like", g4, "--seed", 1, *wish, "-o", first)
    with serve() as url:
        succeeds("generate", "--like", g4, "--seed", 2, *wish, "--url", url, "-o", second)
        with Client(url) as client:
            answer = client.generate([2000.0], sampler="gibbs", seed=1, options={"sweeps": 8})
    assert answer.showers_mev.shape == (1, geometry.voxel_count)
    assert answer.geometry["layers"] == geometry.as_dict()["layers"]
    for path in (first, second):
        with open_showers(path) as file:
            assert file.geometry == bundle.geometry
        assert f"{geometry.name}: {geometry.particle}" in succeeds("inspect", path)[0]

    quick = ("--quick", "--no-classifiers", "-o", tmp_path / "report")
    succeeds("evaluate", first, second, *quick)
    assert (tmp_path / "report" / "index.html").exists()


def test_a_file_of_a_geometry_of_ones_own(
    qshower: Any, fails: Any, toy_showers: ToyShowers, untrained_bundles: Path, tmp_path: Path
) -> None:
    write_binning_xml(tmp_path / "mine.xml", OWN)
    path = tmp_path / "mine.hdf5"
    write_showers(path, *toy_showers(OWN, 16, 3))
    assert "25 voxels; expected: 368 (1-photons)" in (error := fails(2, "inspect", path))
    assert "--geometry FILE.xml" in error
    for choice in ("mine.xml", "mine.xml:electron"):
        assert qshower("inspect", path, "--geometry", tmp_path / choice)[0] == 0
    assert "particle: 'muon'" in fails(2, "inspect", path, "--geometry", tmp_path / "mine.xml:muon")
    assert "shape (16, 25); expected: shape (N, 6480)" in fails(
        2, "inspect", path, "--geometry", untrained_bundles / "test-zephyr"
    )
    assert "geometry: 'theirs'" in fails(2, "inspect", path, "--geometry", "theirs")
    write_showers(path, *toy_showers(OWN, 16, 3), attributes={"geometry": "{not JSON"})
    assert "25 voxels" in fails(2, "inspect", path)


def test_a_symmetry_that_the_geometry_does_not_have_is_refused(
    fails: Any, toy_showers: ToyShowers, tmp_path: Path
) -> None:
    write_binning_xml(tmp_path / "mine.xml", OWN)
    write_showers(tmp_path / "g4.hdf5", *toy_showers(OWN, 16, 3))
    config = write_config(tmp_path, "mine")
    config.write_text(config.read_text().replace("network:", "network:\n  symmetry: dihedral"))
    assert "symmetry" in fails(2, "train", config)
    assert not np.any([path.suffix == ".pt" for path in tmp_path.rglob("*")])
