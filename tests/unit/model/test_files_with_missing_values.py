"""Files whose values are not all there, or not yet: refused by name, where HDF5 would read zeros."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from qshower.model.geometry import Geometry, Layer
from qshower.model.showers_file import open_showers, read_showers
from qshower.model.showers_writer import write_showers
from qshower.sampler.bank_file import open_bank
from qshower.sampler.errors import InvalidInputError, ShowerFileError

VOXELS = 4
SMALL = Geometry("small", "electron", 11, (Layer(0, (0.0, 1.0, 2.0), 2),), 0.1)
ROWS = 300


def part(path: Path, rows: int, voxels: int = VOXELS) -> None:
    write_showers(path, np.full(rows, 1e3), np.ones((rows, voxels), np.float32))


def joined(path: Path, sources: list[tuple[str, int]], rows: int = ROWS) -> None:
    """A file whose showers are a virtual dataset of other files' showers, (name, rows) each."""
    layout = h5py.VirtualLayout((rows, VOXELS), np.float32)
    first = 0
    for name, count in sources:
        layout[first : first + count] = h5py.VirtualSource(name, "showers", (count, VOXELS))
        first += count
    with h5py.File(path, "w") as file:
        file["incident_energies"] = np.full((rows, 1), 1e3)
        file.create_virtual_dataset("showers", layout)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    for name in ("a.hdf5", "b.hdf5"):
        part(tmp_path / name, ROWS // 2)
    joined(tmp_path / "all.hdf5", [("a.hdf5", ROWS // 2), ("b.hdf5", ROWS // 2)])
    return tmp_path / "all.hdf5"


def test_reading_a_virtual_dataset_whose_sources_are_there(halves: Path) -> None:
    assert (read_showers(halves, SMALL)[1] == 1).all()


def test_reading_a_virtual_dataset_after_one_source_was_moved_away(halves: Path) -> None:
    (halves.parent / "b.hdf5").unlink()
    with pytest.raises(ShowerFileError, match=r"all.hdf5: dataset showers: its source b.hdf5 is missing"):
        open_showers(halves, SMALL)


def test_reading_a_virtual_dataset_after_one_source_became_shorter(halves: Path) -> None:
    part(halves.parent / "b.hdf5", 10)
    with pytest.raises(ShowerFileError, match=r"showers in its source b.hdf5 has shape \(10, 4\), too small"):
        open_showers(halves, SMALL)


def test_reading_a_virtual_dataset_whose_source_has_other_names(halves: Path) -> None:
    with h5py.File(halves.parent / "b.hdf5", "r+") as file:
        file.move("showers", "voxels")
    with pytest.raises(ShowerFileError, match=r"showers in its source b.hdf5 is missing"):
        open_showers(halves, SMALL)


def test_reading_a_virtual_dataset_whose_source_is_no_hdf5(halves: Path) -> None:
    (halves.parent / "b.hdf5").write_text("moved to tape")
    with pytest.raises(ShowerFileError, match=r"its source b.hdf5 is unreadable"):
        open_showers(halves, SMALL)


def test_reading_a_virtual_dataset_of_virtual_datasets(halves: Path) -> None:
    joined(halves.parent / "outer.hdf5", [("all.hdf5", ROWS)])
    assert (read_showers(halves.parent / "outer.hdf5", SMALL)[1] == 1).all()
    (halves.parent / "a.hdf5").unlink()
    with pytest.raises(ShowerFileError, match=r"showers in its source all.hdf5: its source a.hdf5 is missing"):
        open_showers(halves.parent / "outer.hdf5", SMALL)


def test_reading_a_virtual_dataset_with_rows_that_have_no_source(halves: Path) -> None:
    joined(halves, [("a.hdf5", ROWS // 2)])
    with pytest.raises(ShowerFileError, match=r"row 150 has no source"):
        open_showers(halves, SMALL)


def link_to_another_file(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        file["showers"] = h5py.ExternalLink("gone.hdf5", "/showers")


def link_inside(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        file["showers"] = h5py.SoftLink("/raw/showers")


def values_in_another_file(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        outside = path.with_name("raw.bin")
        file.create_dataset("showers", (ROWS, VOXELS), np.float32, external=[(str(outside), 0, ROWS * VOXELS * 4)])[
            :
        ] = 1
    with outside.open("r+b") as stream:
        stream.truncate(100)


def killed_while_it_was_written(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        file.create_dataset("showers", (ROWS, VOXELS), np.float32, chunks=(100, VOXELS))[:150] = 1


def only_declared(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        file.create_dataset("showers", (ROWS, VOXELS), np.float32)


def filter_of_another_machine(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["showers"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((ROWS, VOXELS))
        properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((ROWS, VOXELS))
        dataset = h5py.h5d.create(file.id, b"showers", h5py.h5t.IEEE_F32LE, space, properties)
        dataset.write_direct_chunk((0, 0), b"blosc" * 100, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_to_another_file, r"a link to /showers in gone.hdf5, which is missing"),
        (link_inside, r"a link to /raw/showers, which the file does not hold"),
        (values_in_another_file, r"raw.bin, which ends before them"),
        (killed_while_it_was_written, r"1 of its 3 chunks were never written"),
        (only_declared, r"its values were never written"),
        (filter_of_another_machine, r"HDF5 filter 32001 .*not installed.*h5repack"),
    ],
)
def test_reading_a_file_whose_values_are_elsewhere(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "showers.hdf5"
    part(path, ROWS)
    change(path)
    for geometry in (SMALL, None):
        with pytest.raises(ShowerFileError, match=message if geometry or "link" in message else "dataset showers"):
            open_showers(path, geometry)


WRITER = """
import h5py, os, sys
file = h5py.File(sys.argv[1], "w", libver=sys.argv[2])
file["showers"] = 1
file.flush()
print("open", flush=True)
if sys.argv[3] == "killed":
    os._exit(9)
sys.stdin.read()
"""


@pytest.mark.parametrize("read", [lambda path: open_showers(path, SMALL), open_bank])
def test_reading_a_file_that_another_process_is_writing(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "busy.hdf5"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "latest", "writing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(InvalidInputError, match=r"busy.hdf5: is being written by another process") as caught:
            read(path)
    assert "download" not in str(caught.value)


def test_reading_a_file_whose_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "left.hdf5"
    subprocess.run([sys.executable, "-c", WRITER, str(path), "latest", "killed"], check=False, capture_output=True)
    with pytest.raises(ShowerFileError, match=r"or its writer was killed.*h5clear"):
        open_showers(path, SMALL)


def test_reading_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match=r": a folder; expected: "):
        open_showers(tmp_path, SMALL)
