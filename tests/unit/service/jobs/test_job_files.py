"""Jobs on disk: what is written is read, what is half made is removed, one process at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qshower.model.geometry import named_geometry
from qshower.sampler.provenance import Provenance
from qshower.service.engine.work import DrawnRows
from qshower.service.generation.answer_provenance import Origin
from qshower.service.jobs.job_files import JobChunk, JobEnd, JobFiles, JobOrder
from qshower.service.service_errors import StorageError

NAME = "0123456789abcdef" * 2
ORDER = JobOrder(NAME, "ada", {"incident_energies_mev": [1000.0]}, 2**64 - 1, 5, 1e9)
DRAWN = Provenance(sampler="gibbs", sweeps=8, notes=("a note",), elapsed_s={"sample": 0.5})
GEOMETRY = named_geometry("2")


def chunk(start: int, rows: int) -> JobChunk:
    showers = np.random.default_rng(start).random((rows, GEOMETRY.voxel_count)).astype(np.float32)
    origin = Origin("model", 2, "abc", "1.0", 7, 15.15, None, None, ("assumed",))
    parts = (DrawnRows(start, start + rows, 1.0, DRAWN),)
    return JobChunk(start, showers, GEOMETRY, origin, parts, {"queue": 0.25})


@pytest.fixture
def files(tmp_path: Path) -> Iterator[JobFiles]:
    found = JobFiles(tmp_path / "jobs")
    found.open()
    yield found
    found.close()


def test_what_is_written_is_read(files: JobFiles, tmp_path: Path) -> None:
    files.create(ORDER)
    for number, one in enumerate((chunk(0, 3), chunk(3, 2))):
        files.write(NAME, number, one)
        back = files.read(NAME, number)
        assert np.array_equal(back.showers_mev, one.showers_mev)
        assert (back.start, back.geometry, back.origin, back.parts) == (one.start, GEOMETRY, one.origin, one.parts)
        assert files.read(NAME, number, showers=False).showers_mev.shape == (0, GEOMETRY.voxel_count)
    assert list(files.load()) == [(ORDER, 2, None)]
    files.end(NAME, JobEnd(2e9, "why"))
    assert list(files.load()) == [(ORDER, 2, JobEnd(2e9, "why"))]
    files.remove(NAME)
    files.remove(NAME)
    assert list(files.load()) == []
    with pytest.raises(StorageError, match="no such file"):
        files.read(NAME, 0)


def test_what_a_killed_process_leaves(files: JobFiles, tmp_path: Path) -> None:
    files.create(ORDER)
    for number in (0, 2):
        files.write(NAME, number, chunk(number, 1))
    for leftover in ("f" * 32, ".removed-1"):
        (tmp_path / "jobs" / leftover).mkdir()
    (tmp_path / "jobs" / "not a job").mkdir()
    assert list(files.load()) == [(ORDER, 1, None)]
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == [NAME, "lock", "not a job"]


def test_a_folder_is_one_service_s_alone(files: JobFiles, tmp_path: Path) -> None:
    other = JobFiles(tmp_path / "jobs")
    with pytest.raises(StorageError, match="another service"):
        other.open()
    files.close()
    other.open()
    other.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        JobFiles(tmp_path / "file" / "jobs").open()
