"""CaloChallenge files: what is written, what is read, and how every defect is told."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.model.geometry import Geometry, Layer, named_geometry
from qshower.model.showers_file import open_showers, read_showers
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import InvalidInputError, ShowerFileError

SMALL = Geometry("small", "electron", 11, (Layer(0, (0.0, 1.0, 2.0), 4), Layer(1, (0.0, 1.0), 2)), 0.1)


def random_showers(count: int, voxels: int = 10, seed: int = 5) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    energies = rng.uniform(1e3, 1e6, count).astype(np.float32).astype(np.float64)
    showers = rng.exponential(3.0, (count, voxels)) * (rng.random((count, voxels)) < 0.4)
    return energies, showers.astype(np.float32)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.hdf5"
    energies, showers = random_showers(257)
    write_showers(path, energies, showers)
    return path


def test_files_have_the_layout_of_the_challenge(tmp_path: Path) -> None:
    geometry = named_geometry("2")
    energies, showers = random_showers(60, geometry.voxel_count)
    path = tmp_path / "out.hdf5"
    write_showers(path, energies, showers, attributes={"provenance": "{}"})
    with h5py.File(path) as file:
        assert set(file) == {"incident_energies", "showers"}
        assert file["incident_energies"].shape == (60, 1)
        assert file["showers"].shape == (60, 6480)
        for name in file:
            assert (file[name].dtype, file[name].compression) == (np.float32, "gzip")
        assert np.array_equal(file["showers"][:], showers)
        assert np.array_equal(file["incident_energies"][:, 0], energies)
        assert file.attrs["provenance"] == "{}"
    read_energies, read = read_showers(path)
    assert np.array_equal(read, showers)
    assert np.array_equal(read_energies, energies)
    assert (read.dtype, read_energies.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("sizes", [(1, 39, 41, 80, 7), (168,), (40, 40, 40, 40, 8), (3,) * 56])
def test_rows_come_back_whatever_the_chunks_they_were_written_in(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    energies, showers = random_showers(168, 6480)
    ends = np.cumsum(sizes)
    write_showers(tmp_path / "out.hdf5", energies, (showers[end - n : end] for n, end in zip(sizes, ends, strict=True)))
    with h5py.File(tmp_path / "out.hdf5") as file:
        np.testing.assert_array_equal(file["showers"][:], showers)
        np.testing.assert_array_equal(file["showers"][77:83], showers[77:83])


def test_chunks_of_any_size_join_to_the_whole(good: Path) -> None:
    energies, showers = read_showers(good, SMALL)
    for rows in (1, 7, 256, 257, 1000):
        with open_showers(good, SMALL) as file:
            parts = list(file.chunks(rows))
        assert max(len(part[1]) for part in parts) <= rows
        assert np.array_equal(np.concatenate([part[0] for part in parts]), energies)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), showers)
    with open_showers(good, SMALL) as file:
        ((part_energies, part),) = file.chunks(1000, start=3, stop=9)
    assert np.array_equal(part, showers[3:9])
    assert np.array_equal(part_energies, energies[3:9])


def test_limit_reads_the_first_rows(good: Path) -> None:
    energies, showers = read_showers(good, SMALL)
    few_energies, few = read_showers(good, SMALL, limit=5)
    assert np.array_equal(few, showers[:5])
    assert np.array_equal(few_energies, energies[:5])
    with pytest.raises(InvalidInputError, match=r"limit: 0"):
        read_showers(good, SMALL, limit=0)


def test_streaming_gives_the_same_bytes_as_writing_at_once(tmp_path: Path) -> None:
    energies, showers = random_showers(101)
    write_showers(tmp_path / "whole.hdf5", energies, showers)
    write_showers(tmp_path / "streamed.hdf5", energies[:, None], (showers[i : i + 7] for i in range(0, 101, 7)))
    assert (tmp_path / "whole.hdf5").read_bytes() == (tmp_path / "streamed.hdf5").read_bytes()


def test_a_binary_stream_is_a_target(tmp_path: Path) -> None:
    energies, showers = random_showers(11)
    buffer = io.BytesIO()
    write_showers(buffer, energies, showers)
    path = tmp_path / "from_bytes.hdf5"
    path.write_bytes(buffer.getvalue())
    assert np.array_equal(read_showers(path, SMALL)[1], showers)


def test_a_stream_that_cannot_seek_is_a_target(tmp_path: Path) -> None:
    energies, showers = random_showers(11)
    reader, writer = os.pipe()
    path = tmp_path / "piped.hdf5"
    target: BinaryIO
    with os.fdopen(writer, "wb") as target:
        write_showers(target, energies, showers)
    with os.fdopen(reader, "rb") as source:
        path.write_bytes(source.read())
    assert np.array_equal(read_showers(path, SMALL)[1], showers)


@pytest.mark.parametrize("deferred", [False, True])
def test_long_provenance_fits(tmp_path: Path, deferred: bool) -> None:
    energies, showers = random_showers(4)
    known = {"provenance": "x" * 500_000, "short": "y"}
    attributes = (lambda: known) if deferred else known
    path = tmp_path / "long.hdf5"
    write_showers(path, energies, showers, attributes=attributes)
    with open_showers(path, SMALL) as file:
        assert file.attributes == known


def test_float64_files_are_cast_when_read(tmp_path: Path) -> None:
    path = tmp_path / "float64.hdf5"
    energies, showers = random_showers(9)
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies[:, None]
        file["showers"] = showers.astype(np.float64) + 1e-9
    assert read_showers(path, SMALL)[1].dtype == np.float32


def test_new_files_obey_the_umask(good: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(good.stat().st_mode) == 0o666 & ~mask


def rewrite(source: Path, name: str, values: NDArray[np.generic]) -> None:
    with h5py.File(source, "r+") as file:
        del file[name]
        file[name] = values


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("showers", (257, 11), r"good.hdf5: dataset showers: shape \(257, 11\).*shape \(N, 10\) of geometry small"),
        ("showers", (257, 5, 2), r"dataset showers: shape \(257, 5, 2\)"),
        ("showers", (256, 10), r"dataset showers: 256 rows.*257 rows"),
        ("incident_energies", (257,), r"dataset incident_energies: shape \(257,\).*shape \(N, 1\)"),
        ("incident_energies", (257, 2), r"dataset incident_energies"),
    ],
)
def test_mis_shaped_files_are_refused(good: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    rewrite(good, name, np.ones(shape))
    with pytest.raises(ShowerFileError, match=message):
        open_showers(good, SMALL)


def test_empty_missing_and_foreign_datasets_are_refused(good: Path) -> None:
    rewrite(good, "incident_energies", np.array([[b"a"]]))
    with pytest.raises(ShowerFileError, match=r"dataset incident_energies: .*real numbers"):
        open_showers(good, SMALL)
    rewrite(good, "incident_energies", np.ones((0, 1)))
    rewrite(good, "showers", np.ones((0, 10)))
    with pytest.raises(ShowerFileError, match=r"0 rows"):
        open_showers(good, SMALL)
    with h5py.File(good, "r+") as file:
        file.move("showers", "voxels")
    with pytest.raises(ShowerFileError, match=r"dataset showers: missing; the file holds incident_energies, voxels"):
        open_showers(good, SMALL)
    with pytest.raises(ShowerFileError, match=r"dataset showers"):
        open_showers(good)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_bad_voxels_are_named_by_row(good: Path, value: float) -> None:
    with h5py.File(good, "r+") as file:
        file["showers"][200, 3] = value
    with pytest.raises(ShowerFileError, match=r"good.hdf5: dataset showers, row 200: -?(nan|inf|1)"):
        read_showers(good, SMALL)
    with open_showers(good, SMALL) as file, pytest.raises(ShowerFileError, match=r"row 200"):
        list(file.chunks(9))


def test_negative_voxels_pass_where_they_are_to_be_counted(good: Path) -> None:
    with h5py.File(good, "r+") as file:
        file["showers"][200, 3] = -1
    with open_showers(good, SMALL, allow_negative=True) as file:
        assert sum(int((chunk < 0).sum()) for _, chunk in file.chunks(50)) == 1


@pytest.mark.parametrize("value", [np.nan, 0.0, -5.0, np.inf])
def test_bad_energies_are_named_by_row(good: Path, value: float) -> None:
    with h5py.File(good, "r+") as file:
        file["incident_energies"][41] = value
    with pytest.raises(ShowerFileError, match=r"dataset incident_energies, row 41"):
        read_showers(good, SMALL)


def test_truncated_files_are_refused(good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"cut{size}.hdf5"
        path.write_bytes(whole[:size])
        with pytest.raises(ShowerFileError, match=rf"cut{size}.hdf5: unreadable") as caught:
            open_showers(path, SMALL)
        assert "\n" not in str(caught.value)


def test_damaged_data_is_named_by_row(tmp_path: Path) -> None:
    geometry = named_geometry("1-photons")
    energies, showers = random_showers(2000, geometry.voxel_count)
    path = tmp_path / "damaged.hdf5"
    write_showers(path, energies, showers)
    with h5py.File(path) as file:
        rows = file["showers"].chunks[0]
        info = file["showers"].id.get_chunk_info_by_coord((rows, 0))
    with path.open("r+b") as stream:
        stream.seek(info.byte_offset)
        stream.write(b"\x00" * 64)
    assert rows < 1000
    with pytest.raises(ShowerFileError, match=rf"damaged.hdf5: dataset showers, row {rows}: unreadable"):
        read_showers(path)


def test_missing_file_and_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match=r"none.hdf5: no such file"):
        open_showers(tmp_path / "none.hdf5")
    energies, showers = random_showers(5)
    write_showers(tmp_path / "odd.hdf5", energies, showers)
    with pytest.raises(ShowerFileError, match=r"odd.hdf5: dataset showers: 10 voxels.*6480 \(2\)"):
        open_showers(tmp_path / "odd.hdf5")


@pytest.mark.parametrize("rows", [[4, 4], [4, 4, 4], []])
def test_a_wrong_number_of_rows_leaves_the_old_file(good: Path, rows: list[int]) -> None:
    before = good.read_bytes()
    with pytest.raises(InvalidInputError, match=r"rows, one for each incident energy|10 rows"):
        write_showers(good, np.full(10, 1e3), (np.zeros((n, 10), np.float32) for n in rows))
    assert good.read_bytes() == before
    assert [entry.name for entry in good.parent.iterdir()] == ["good.hdf5"]


def test_a_failing_source_leaves_the_old_file(good: Path) -> None:
    def chunks() -> Iterator[NDArray[np.float32]]:
        yield np.zeros((4, 10), np.float32)
        raise KeyboardInterrupt

    before = good.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_showers(good, np.full(10, 1e3), chunks())
    assert good.read_bytes() == before
    assert [entry.name for entry in good.parent.iterdir()] == ["good.hdf5"]


INTERRUPTED = """
import io, os, signal
import numpy as np
from qshower.model.showers_writer import write_showers

class Target(io.BytesIO):
    writes = 0

    def write(self, data):
        self.writes += 1
        if self.writes == at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(data)

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupted = 0
for at in range(1, 100):
    target = Target()
    try:
        write_showers(target, np.full(9, 1e3), (np.full((3, 200_000), 1.0, np.float32) for _ in range(3)))
    except KeyboardInterrupt:
        interrupted += 1
    if target.writes < at:
        break
print(interrupted, at)
"""


def test_ctrl_c_in_any_write_is_a_keyboard_interrupt() -> None:
    # In a process of its own: HDF5 crashes one, at its end, if a file's method raises.
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    interrupted, writes = map(int, done.stdout.split())
    assert 5 < writes < 99
    assert interrupted == writes - 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_no_shower_has_are_not_written(tmp_path: Path, value: float) -> None:
    showers = np.ones((6, 10), np.float32)
    showers[4, 2] = value
    with pytest.raises(InvalidInputError, match=r"showers_mev\[4\]"):
        write_showers(tmp_path / "x.hdf5", np.ones(6), (showers[i : i + 2] for i in range(0, 6, 2)))
    with pytest.raises(InvalidInputError, match=r"incident_energies_mev\[1\]"):
        write_showers(tmp_path / "x.hdf5", np.array([1.0, value]), showers[:2])
    assert not list(tmp_path.iterdir())


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"incident_energies_mev"):
        write_showers(tmp_path / "x.hdf5", np.ones((3, 2)), np.ones((3, 10), np.float32))
    with pytest.raises(InvalidInputError, match=r"showers_mev: a chunk of shape \(3,\)"):
        write_showers(tmp_path / "x.hdf5", np.ones(3), np.ones(3, np.float32))
    with pytest.raises(InvalidInputError, match=r"\(1, 9\)"):
        write_showers(
            tmp_path / "x.hdf5", np.ones(2), iter([np.ones((1, 10), np.float32), np.ones((1, 9), np.float32)])
        )
    with pytest.raises(ShowerFileError, match=r"folder does not exist"):
        write_showers(tmp_path / "no" / "x.hdf5", np.ones(3), np.ones((3, 10), np.float32))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(
    good: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    rng = np.random.default_rng(0)
    before = good.read_bytes()
    full = r"good.hdf5: cannot be written: File too large"
    with largest_file(200_000), pytest.raises(ShowerFileError, match=full) as caught:
        write_showers(good, np.ones(200), rng.random((200, 6480), dtype=np.float32))
    assert "\n" not in str(caught.value)
    assert good.read_bytes() == before
    assert [entry.name for entry in good.parent.iterdir()] == ["good.hdf5"]


def test_masked_values_are_not_written(tmp_path: Path) -> None:
    path, energies, showers = tmp_path / "out.hdf5", np.array([1e3, 2e3]), np.ones((2, 10), dtype=np.float32)
    hidden = [True, False]
    with pytest.raises(InvalidInputError, match="incident_energies_mev: a mask hides 1 values; expected: compressed"):
        write_showers(path, np.ma.masked_array(energies, hidden), showers)
    with pytest.raises(InvalidInputError, match="showers_mev: a mask hides 10 values"):
        write_showers(path, energies, np.ma.masked_array(showers, np.broadcast_to(np.array(hidden)[:, None], (2, 10))))
    assert not path.exists()
    write_showers(path, np.ma.masked_array(energies), np.ma.masked_array(showers))
    assert path.exists()


def test_a_connection_that_breaks_while_showers_arrive_is_no_fault_of_the_file(tmp_path: Path) -> None:
    energies, showers = random_showers(4)

    def arriving() -> Iterator[NDArray[np.float32]]:
        yield showers[:2]
        raise ConnectionResetError("the service went away")

    with pytest.raises(ConnectionResetError, match="the service went away"):
        write_showers(tmp_path / "out.hdf5", energies, arriving())
    assert list(tmp_path.iterdir()) == []
