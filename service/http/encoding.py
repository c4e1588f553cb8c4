"""Answers as bytes, in each of the formats, as the showers come: a head, each chunk, a tail.

Each holds the energies, the showers and the provenance. Of a stream the provenance is final where it comes last; in
Arrow, whose schema comes first, the schema has it as of the first chunk, and an empty batch at the end the final one.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast
from zipfile import ZipFile, ZipInfo

import numpy as np
import orjson
from numpy.typing import NDArray

from qshower.model.geometry import Geometry
from qshower.model.showers_writer import ShowersWriter
from qshower.sampler.files import WriteGuard, why
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.http.negotiation import Format, Wanted
from qshower.service.service_errors import StorageError

# What a voxel takes at most on average: JSON writes "0.0," for an empty one and about 10 bytes for a hit.
BYTES_PER_VOXEL = {Format.JSON: 6.0, Format.HDF5: 4.0, Format.ARROW: 4.0, Format.NPZ: 4.0}
FILE_NAMES = {Format.HDF5: "showers.hdf5", Format.ARROW: "showers.arrows", Format.NPZ: "showers.npz"}
BLOCK_BYTES = 1 << 18
IN_MEMORY_BYTES = 1 << 24
"""HDF5 is written to a temporary file from so many bytes of showers on."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What is known of an answer before its showers: energies (rows,), geometry, and its provenance so far."""

    energies_mev: NDArray[np.float64]
    geometry: Geometry
    provenance: dict[str, Any]


class Encoder(Protocol):
    """Turns an answer into bytes. Used by one thread at a time; ``close`` it whatever becomes of it."""

    def head(self) -> bytes:
        """What comes before the showers."""

    def chunk(self, start: int, showers_mev: NDArray[np.float32]) -> bytes:
        """The showers (n, voxels) from row ``start`` on, which is where the chunk before ended."""

    def tail(self, provenance: dict[str, Any]) -> Iterator[bytes]:
        """What comes after them, with the final provenance."""

    def close(self) -> None:
        """Let go of files. Idempotent."""


def encoder_of(wanted: Wanted, content: Content) -> Encoder:
    """An encoder of ``content`` in the format and compression that are wanted."""
    if wanted.format is Format.JSON:
        return JsonEncoder(content)
    if wanted.format is Format.HDF5:
        return Hdf5Encoder(content, cast(Literal["gzip", "zstd"], wanted.compression))
    if wanted.format is Format.ARROW:
        return ArrowEncoder(content, None if wanted.compression == "none" else wanted.compression)
    return NpzEncoder(content)


class JsonEncoder:
    """One JSON object."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def head(self) -> bytes:
        """Energies, and the opening of the showers."""
        energies = orjson.dumps(self._content.energies_mev, option=orjson.OPT_SERIALIZE_NUMPY)
        return b'{"incident_energies_mev":' + energies + b',"showers_mev":['

    def chunk(self, start: int, showers_mev: NDArray[np.float32]) -> bytes:
        """Lists of voxels."""
        rows = orjson.dumps(np.ascontiguousarray(showers_mev), option=orjson.OPT_SERIALIZE_NUMPY)
        return (b"," if start else b"") + rows[1:-1]

    def tail(self, provenance: dict[str, Any]) -> Iterator[bytes]:
        """Geometry and provenance."""
        geometry = orjson.dumps(self._content.geometry.as_dict())
        yield b'],"geometry":' + geometry + b',"provenance":' + orjson.dumps(provenance) + b"}"

    def close(self) -> None:
        """Nothing to let go of."""


class _Pipe(io.RawIOBase):
    """What is written to it is taken out at the other end. It cannot be sought in, and says so."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._blocks.append(bytes(data))
        return len(self._blocks[-1])

    def take(self) -> bytes:
        """What was written since the last time."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)


class ArrowEncoder:
    """An Arrow IPC stream with a record batch for each chunk, and an empty one with the final provenance at the end."""

    def __init__(self, content: Content, compression: str | None) -> None:
        import pyarrow as pa  # takes a while to load, and few want it

        voxels = content.geometry.voxel_count
        item = pa.field("item", pa.float32(), nullable=False)
        fields = [
            pa.field("incident_energies_mev", pa.float64(), nullable=False),
            pa.field("showers_mev", pa.list_(item, voxels), nullable=False),
        ]
        metadata = {
            "provenance": _text(content.provenance),
            "geometry": _text(content.geometry.as_dict()),
            "rows": str(len(content.energies_mev)),
        }
        self._pa, self._content, self._pipe = pa, content, _Pipe()
        self._schema = pa.schema(fields, metadata=metadata)
        self._writer = pa.ipc.new_stream(
            self._pipe, self._schema, options=pa.ipc.IpcWriteOptions(compression=compression)
        )

    def head(self) -> bytes:
        """The schema."""
        return self._pipe.take()

    def chunk(self, start: int, showers_mev: NDArray[np.float32]) -> bytes:
        """A record batch."""
        self._writer.write_batch(self._batch(start, showers_mev))
        return self._pipe.take()

    def tail(self, provenance: dict[str, Any]) -> Iterator[bytes]:
        """An empty batch whose custom metadata are ``rows`` and ``provenance``, and the end-of-stream marker."""
        rows = len(self._content.energies_mev)
        nothing = self._batch(rows, np.empty((0, self._content.geometry.voxel_count), dtype=np.float32))
        metadata = {"rows": str(rows), "provenance": _text(provenance)}
        self._writer.write_batch(nothing, custom_metadata=metadata)
        self._writer.close()
        yield self._pipe.take()

    def close(self) -> None:
        """Nothing to let go of."""

    def _batch(self, start: int, showers_mev: NDArray[np.float32]) -> Any:
        values = self._pa.array(np.ascontiguousarray(showers_mev).reshape(-1))
        showers = self._pa.FixedSizeListArray.from_arrays(values, type=self._schema.field("showers_mev").type)
        energies = self._pa.array(self._content.energies_mev[start : start + len(showers_mev)])
        return self._pa.record_batch([energies, showers], schema=self._schema)


class NpzEncoder:
    """A zip file of arrays that are stored as they are, as ``numpy.savez`` writes one."""

    def __init__(self, content: Content) -> None:
        self._content, self._pipe = content, _Pipe()
        self._zip = ZipFile(self._pipe, "w")
        self._showers: IO[bytes] | None = None

    def head(self) -> bytes:
        """Energies, and the head of the showers' array."""
        self._whole("incident_energies_mev", self._content.energies_mev)
        shape = (len(self._content.energies_mev), self._content.geometry.voxel_count)
        large = 4 * shape[0] * shape[1] > 1 << 31
        self._showers = self._zip.open(ZipInfo("showers_mev.npy"), "w", force_zip64=large)
        header: Any = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._showers, header)
        return self._pipe.take()

    def chunk(self, start: int, showers_mev: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - as every encoder
        """Rows of the array."""
        assert self._showers is not None  # noqa: S101 - the head came first
        self._showers.write(np.ascontiguousarray(showers_mev, dtype="<f4").data)
        return self._pipe.take()

    def tail(self, provenance: dict[str, Any]) -> Iterator[bytes]:
        """Provenance, geometry and the zip file's directory."""
        assert self._showers is not None  # noqa: S101 - the head came first
        self._showers.close()
        self._whole("provenance", np.array(_text(provenance)))
        self._whole("geometry", np.array(_text(self._content.geometry.as_dict())))
        self._zip.close()
        yield self._pipe.take()

    def close(self) -> None:
        """Nothing to let go of."""

    def _whole(self, name: str, array: NDArray[Any]) -> None:
        with self._zip.open(ZipInfo(f"{name}.npy"), "w") as member:
            np.lib.format.write_array(member, array, allow_pickle=False)


class Hdf5Encoder:
    """A file of the CaloChallenge's layout. HDF5 has no order of its own: it is written first, and sent from there."""

    def __init__(self, content: Content, compression: Literal["gzip", "zstd"]) -> None:
        self._content = content
        self._stack = ExitStack()
        size = 4 * len(content.energies_mev) * content.geometry.voxel_count
        self._guard: WriteGuard | None = None
        self._file: IO[bytes] = io.BytesIO()
        with self._told():
            if size > IN_MEMORY_BYTES:
                spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by ``close``
                self._file = cast("IO[bytes]", self._stack.enter_context(spool))
                self._guard = WriteGuard(spool, Path(tempfile.gettempdir()))
            target = self._guard or cast("io.BytesIO", self._file)
            writer = ShowersWriter(target, content.energies_mev, compression=compression)
            self._writer = self._stack.enter_context(writer)

    def head(self) -> bytes:
        """Nothing yet."""
        return b""

    def chunk(self, start: int, showers_mev: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - as every encoder
        """Nothing yet. StorageError if there is no room for them."""
        with self._told():
            self._writer.write(showers_mev)
            self._check()
        return b""

    def tail(self, provenance: dict[str, Any]) -> Iterator[bytes]:
        """The file. StorageError if there is no room for it."""
        with self._told():
            geometry = _text(self._content.geometry.as_dict())
            self._writer.finish({"provenance": _text(provenance), "geometry": geometry})
            self._check()
            self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield block

    def close(self) -> None:
        """Remove the file."""
        self._stack.close()

    def _check(self) -> None:
        if self._guard is not None:
            self._guard.check()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._stack.close()
            raise StorageError(f"an answer in HDF5 is written to a temporary file first: {why(error)}") from error


def encode(answer: ShowerAnswer, wanted: Wanted) -> bytes:
    """A whole ``answer`` in the format and compression that are wanted."""
    provenance = answer.provenance()
    encoder = encoder_of(wanted, Content(answer.energies_mev, answer.geometry, provenance))
    try:
        showers = encoder.head() + encoder.chunk(0, answer.showers_mev)
        return showers + b"".join(encoder.tail(provenance))
    finally:
        encoder.close()


def _text(document: dict[str, Any]) -> str:
    return orjson.dumps(document).decode()
