"""``qshower export``: what other programs read is the showers that were written."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import showerdata

from qshower.model.geometry import GEOMETRIES, Geometry, named_geometry
from qshower.model.showers_file import read_showers
from qshower.model.showers_writer import write_showers

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=list(GEOMETRIES))
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return named_geometry(request.param)


@pytest.fixture
def source(geometry: Geometry, toy_showers: Any, tmp_path: Path) -> Path:
    path = tmp_path / "showers.hdf5"
    energies, showers = toy_showers(geometry, 5, seed=1)
    showers[3] = 0
    write_showers(path, energies, showers, attributes={"provenance": '{"sampler": "gibbs"}'})
    return path


def export(qshower: Run, source: Path, to: str, name: str, *more: str) -> Path:
    target = source.parent / name
    code, out, err = qshower("export", source, "--to", to, "-o", target, *more)
    assert (code, out) == (0, ""), err
    assert str(target) in err.replace("\n", "")
    return target


def test_the_commands_of_the_page(qshower: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    commands = re.findall(r"^qshower (.*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        code, _, err = qshower(*command.replace("-n 100", "-n 3").split())
        assert code == 0, err
    assert showerdata.load("clouds.h5").points.shape[0] == 3


def test_showerdata_reads_the_point_clouds(qshower: Run, source: Path, geometry: Geometry) -> None:
    """Its own reader: every hit is a point at its voxel's centre, in mm and GeV."""
    clouds = showerdata.load(export(qshower, source, "showerdata", "clouds.h5"))
    energies, showers = read_showers(source)
    assert clouds.energies[:, 0] == pytest.approx(energies / 1000)
    assert set(clouds.pdg.tolist()) == {geometry.pid}
    layers = np.repeat(np.arange(geometry.layer_count), [layer.voxel_count for layer in geometry.layers])
    for points, shower in zip(clouds.points, showers, strict=True):
        hit = shower > 0
        expected = np.stack([geometry.x_mm(), geometry.y_mm(), layers, shower / 1000], axis=1)[hit]
        assert points[: hit.sum()] == pytest.approx(expected, rel=1e-6, abs=1e-5)
        assert not points[hit.sum() :].any()
    again = source.parent / "again.h5"
    showerdata.save(clouds, again)
    assert showerdata.load(again) == clouds


def test_layers_keep_the_energy_of_each_layer_and_its_place(qshower: Run, source: Path, geometry: Geometry) -> None:
    wide = max(layer.r_edges_mm[-1] for layer in geometry.layers)
    cell_mm = wide / 12
    target = export(qshower, source, "layers", "library.h5", "--cell-mm", str(cell_mm))
    energies, showers = read_showers(source)
    with h5py.File(target) as file:
        library = file["layers"][:]
        assert file["events"] == file["layers"]
        assert file["incident_energies"][:, 0] == pytest.approx(energies)
        assert file.attrs["provenance"] == '{"sampler": "gibbs"}'
    assert library.shape == (5, 24, 24, geometry.layer_count)
    centres = (np.arange(24) - 11.5) * cell_mm
    for layer, voxels in enumerate(geometry.layer_slices()):
        total = showers[:, voxels].sum(axis=1)
        assert library[..., layer].sum(axis=(1, 2)) == pytest.approx(total, rel=1e-5)
        for axis, places in ((2, geometry.x_mm()), (1, geometry.y_mm())):
            mean = library[..., layer].sum(axis=axis) @ centres
            assert np.abs(mean - showers[:, voxels] @ places[voxels]).max() <= (cell_mm / 2 + 1e-3) * total.max()


def test_centres_are_those_of_the_geometry(qshower: Run, source: Path, geometry: Geometry) -> None:
    with export(qshower, source, "centres", "voxels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == geometry.voxel_count
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert columns["x_mm"] == pytest.approx(columns["r_mm"] * np.cos(columns["alpha_rad"]))
    assert np.array_equal(columns["y_mm"], geometry.y_mm())
    assert columns["layer_id"].tolist() == [layer.id for layer in geometry.layers for _ in range(layer.voxel_count)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "parquet"], "--to: 'parquet' is not allowed; allowed: showerdata, layers, centres"),
        (["--to", "centres", "--cell-mm", "5"], "--cell-mm"),
        (["--to", "layers", "--cell-mm", "0.001"], "cell_mm"),
        (["--to", "layers", "--geometry", "3"], "expected: shape (N, 40500) of geometry 3"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    fails: Any, toy_showers: Any, tmp_path: Path, arguments: list[str], said: str
) -> None:
    source = tmp_path / "showers.hdf5"
    write_showers(source, *toy_showers(named_geometry("1-photons"), 3, 0))
    assert said in fails(2, "export", source, "-o", tmp_path / "out.h5", *arguments)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".h5"] == []


def test_a_target_that_cannot_be_written_is_one_line(fails: Any, toy_showers: Any, tmp_path: Path) -> None:
    source = tmp_path / "showers.hdf5"
    write_showers(source, *toy_showers(named_geometry("1-photons"), 3, 0))
    for to in ("showerdata", "layers", "centres"):
        said = fails(2, "export", source, "--to", to, "-o", tmp_path / "nowhere" / "out.h5")
        assert "its folder does not exist" in said
