"""Jobs on disk: a folder for each, with what is asked for, a file for each chunk of showers, and how it ended.

Each file appears whole or not at all: a process that is killed leaves a job with fewer chunks, and nothing else.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from qshower.model.geometry import Geometry, geometry_from_dict
from qshower.model.shuffled_zstd import pack, unpack
from qshower.sampler.files import why, write_file
from qshower.sampler.provenance import provenance_from_json, provenance_to_json
from qshower.service.engine.work import DrawnRows
from qshower.service.generation.answer_provenance import Origin
from qshower.service.service_errors import StorageError

ORDER, END = "order.json", "end.json"
_NAME = re.compile(r"[0-9a-f]{32}")
_REMOVED = ".removed-"
_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a job is to draw: the request's ``body``, with the ``seed`` that is used; ``created_at`` UTC, in s."""

    id: str
    account: str
    body: dict[str, Any]
    seed: int
    showers: int
    created_at: float


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How it ended, UTC in s; ``error`` None if it is done."""

    at: float
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JobChunk:
    """Some showers (rows, voxels) of a job from row ``start`` on, and how they came to be."""

    start: int
    showers_mev: NDArray[np.float32]
    geometry: Geometry
    origin: Origin
    parts: tuple[DrawnRows, ...]
    elapsed_s: dict[str, float]


class JobFiles:
    """The folder of all jobs, for one process at a time. Blocks; errors of the disk are StorageErrors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Take the folder; StorageError if another process has it, or it cannot be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self._folder / "lock").open("w")
        except OSError as error:
            raise self._fault(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StorageError("another service uses the folder of jobs") from None
        self._lock = lock

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self) -> Iterator[tuple[JobOrder, int, JobEnd | None]]:
        """Each job: what it is to draw, how many chunks are there, how it ended. What is half made is removed."""
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(_REMOVED) or (_NAME.fullmatch(path.name) and not (path / ORDER).is_file()):
                shutil.rmtree(path, ignore_errors=True)
            elif _NAME.fullmatch(path.name):
                try:
                    order = JobOrder(**orjson.loads((path / ORDER).read_bytes()))
                    ended = path / END
                    end = JobEnd(**orjson.loads(ended.read_bytes())) if ended.is_file() else None
                except (OSError, ValueError, TypeError):
                    continue
                yield order, self._chunks(path), end

    def create(self, order: JobOrder) -> None:
        """Note a new job."""
        try:
            (self._folder / order.id).mkdir(mode=0o700)
            write_file(self._folder / order.id / ORDER, orjson.dumps(asdict(order)))
        except OSError as error:
            shutil.rmtree(self._folder / order.id, ignore_errors=True)
            raise self._fault(error) from None

    def end(self, job: str, end: JobEnd) -> None:
        """Note how a job ended."""
        try:
            write_file(self._folder / job / END, orjson.dumps(asdict(end)))
        except OSError as error:
            raise self._fault(error) from None

    def remove(self, job: str) -> None:
        """Remove a job, at once for whoever looks."""
        gone = self._folder / f"{_REMOVED}{secrets.token_hex(8)}"
        try:
            (self._folder / job).replace(gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._fault(error) from None
        shutil.rmtree(gone, ignore_errors=True)

    def write(self, job: str, number: int, chunk: JobChunk) -> None:
        """Add chunk ``number`` to a job."""
        head = orjson.dumps(
            {
                "start": chunk.start,
                "rows": len(chunk.showers_mev),
                "geometry": chunk.geometry.as_dict(),
                "origin": asdict(chunk.origin),
                "parts": [
                    [part.start, part.stop, part.share, provenance_to_json(part.provenance)] for part in chunk.parts
                ],
                "elapsed_s": chunk.elapsed_s,
            }
        )
        showers = pack(np.ascontiguousarray(chunk.showers_mev))
        try:
            write_file(self._chunk(job, number), len(head).to_bytes(_HEAD_BYTES, "little") + head + showers)
        except OSError as error:
            raise self._fault(error) from None

    def read(self, job: str, number: int, *, showers: bool = True) -> JobChunk:
        """Chunk ``number`` of a job, with or without its showers; StorageError if it is gone or cannot be read."""
        try:
            with self._chunk(job, number).open("rb") as file:
                head = orjson.loads(file.read(int.from_bytes(file.read(_HEAD_BYTES), "little")))
                packed = file.read() if showers else b""
        except OSError as error:
            raise self._fault(error) from None
        geometry = geometry_from_dict(head["geometry"])
        voxels = geometry.voxel_count
        block = unpack(packed, head["rows"], voxels) if showers else np.empty((0, voxels), dtype=np.float32)
        parts = tuple(
            DrawnRows(start, stop, share, provenance_from_json(text)) for start, stop, share, text in head["parts"]
        )
        origin = Origin(**{**head["origin"], "notes": tuple(head["origin"]["notes"])})
        return JobChunk(head["start"], block, geometry, origin, parts, head["elapsed_s"])

    def _chunk(self, job: str, number: int) -> Path:
        return self._folder / job / f"chunk-{number:06d}"

    def _chunks(self, path: Path) -> int:
        """Chunks from the first on without a gap."""
        names = {file.name for file in path.iterdir()}
        return next(number for number in range(len(names) + 1) if f"chunk-{number:06d}" not in names)

    def _fault(self, error: OSError) -> StorageError:
        # Callers see it: no path.
        return StorageError(f"the folder of jobs cannot be used: {why(error)}")
