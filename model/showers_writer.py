"""Writing showers in the CaloChallenge's HDF5 layout, as ``qshower.model.showers_file`` describes it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Literal, Self

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import ArrayLike, NDArray

from qshower.model import shuffled_zstd
from qshower.model.masks import unmasked
from qshower.model.showers_file import ENERGIES, SHOWERS
from qshower.sampler.errors import DefectError, InvalidInputError, ShowerFileError
from qshower.sampler.files import WriteGuard, replacing_hdf5, uninterrupted
from qshower.sampler.hdf5_reading import one_line

Compression = Literal["gzip", "zstd"]

# ISA-L's gzip is eight times as fast as zlib's at level 4, for 2 % more bytes; any zlib reads it.
GZIP_LEVEL = 1
ZSTD_FILTER = 32015
HDF5_CHUNK_BYTES = 1 << 20
# HDF5 keeps an attribute above this size only in the object headers that its format 1.8 introduced.
LARGE_ATTRIBUTE_BYTES = 60_000


def write_showers(
    target: Path | BinaryIO,
    incident_energies_mev: ArrayLike,
    showers_mev: NDArray[np.float32] | Iterable[NDArray[np.float32]],
    *,
    attributes: Mapping[str, str] | Callable[[], Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write showers in the CaloChallenge's layout.

    Args:
        target: a path, which gets the whole file or keeps what it had, or a binary file object.
        incident_energies_mev: (N,) or (N, 1) finite energies > 0.
        showers_mev: (N, voxels), or chunks of rows that together make N; only one chunk is in memory at a time.
        attributes: root attributes, such as ``provenance`` with its JSON, or a function that is asked for them after
            the last chunk.

    Raises:
        InvalidInputError: shapes that do not fit together, or values that no shower has.
        ShowerFileError: the file cannot be written, for example because the disk is full. Nothing is left behind.
        OSError: as ``showers_mev`` raised it, for example because its connection broke.
    """
    energies = np.asarray(unmasked("incident_energies_mev", incident_energies_mev), dtype=np.float64)
    energies = energies[:, 0] if energies.ndim == 2 and energies.shape[1] == 1 else energies
    if energies.ndim != 1 or energies.size == 0:
        raise DefectError("incident_energies_mev", f"shape {energies.shape}", "shape (N,) with N >= 1")
    if not (np.isfinite(energies) & (energies > 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(energies) & (energies > 0)))[0])
        raise InvalidInputError(f"incident_energies_mev[{row}]", float(energies[row]), "finite energies > 0")
    chunks = [showers_mev] if isinstance(showers_mev, np.ndarray) else showers_mev
    if isinstance(target, Path):
        if not target.parent.is_dir():
            raise ShowerFileError(str(target), "its folder does not exist", "a path in an existing folder")
        try:
            with replacing_hdf5(target) as guard:
                _write_hdf5(guard, energies, _told_apart(chunks), attributes, guard.check)
        except _SourceError as failed:
            raise failed.error from failed.error.__cause__
        except OSError as error:
            raise _write_error(str(target), error) from error
    elif target.seekable():
        _write_hdf5(target, energies, chunks, attributes)
    else:
        buffer = io.BytesIO()
        _write_hdf5(buffer, energies, chunks, attributes)
        target.write(buffer.getbuffer())


def _write_hdf5(
    target: BinaryIO | WriteGuard,
    energies: NDArray[np.float64],
    chunks: Iterable[NDArray[np.float32]],
    attributes: Mapping[str, str] | Callable[[], Mapping[str, str]],
    after_chunk: Callable[[], None] = lambda: None,
) -> None:
    known = None if callable(attributes) else attributes
    large = known is None or any(len(value.encode()) > LARGE_ATTRIBUTE_BYTES for value in known.values())
    with ShowersWriter(target, energies, large_attributes=large) as writer:
        for chunk in chunks:
            writer.write(chunk)
            after_chunk()
        writer.finish(attributes() if callable(attributes) else attributes)


class ShowersWriter:
    """Writes a file of the CaloChallenge's layout chunk by chunk. A context manager; ``finish`` it at the end.

    Args:
        target: a seekable binary file, or a guard of one.
        energies: (N,) incident energies, checked.
        compression: ``gzip``, which every HDF5 reads, or ``zstd`` of the bytes in shuffled order, which is faster and
            smaller, for readers that have HDF5's filter 32015, such as h5py with hdf5plugin.
        large_attributes: whether attributes may be larger than ``LARGE_ATTRIBUTE_BYTES``.
    """

    def __init__(
        self,
        target: BinaryIO | WriteGuard,
        energies: NDArray[np.float64],
        *,
        compression: Compression = "gzip",
        large_attributes: bool = True,
    ) -> None:
        self._count, self._row, self._compression = energies.shape[0], 0, compression
        self._rows: _CompressedRows | None = None
        self._stack = ExitStack()
        with uninterrupted():
            self._file = h5py.File(target, "w", libver=("v108", "v110") if large_attributes else None)
            self._stack.callback(uninterrupted()(self._file.close))
            self._file.create_dataset(
                ENERGIES, data=energies.astype(np.float32)[:, None], chunks=True, compression="gzip",
                compression_opts=GZIP_LEVEL,
            )  # fmt: skip

    def write(self, chunk: NDArray[np.float32]) -> None:
        """Write further showers (n, voxels). InvalidInputError for values that no shower has."""
        block = np.ascontiguousarray(unmasked("showers_mev", chunk), dtype=np.float32)
        _check_block(block, self._row, self._count, None if self._rows is None else self._rows.voxels)
        with uninterrupted():
            if self._rows is None:
                self._rows = _CompressedRows(self._file, self._count, block.shape[1], self._compression)
            self._rows.write(self._row, block)
        self._row += len(block)

    def finish(self, attributes: Mapping[str, str]) -> None:
        """Write root attributes, and end. InvalidInputError if showers are missing."""
        if self._row != self._count:
            raise DefectError("showers_mev", f"{self._row} rows", f"{self._count} rows, one for each incident energy")
        with uninterrupted():
            self._file.attrs.update(attributes)
            self._file.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stack.close()


class _SourceError(Exception):
    """An OSError of what gives the showers, which says nothing of the file that they are written to."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _told_apart(chunks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    try:
        yield from chunks
    except OSError as error:
        raise _SourceError(error) from error


class _CompressedRows:
    """The showers' dataset, compressed here rather than by HDF5, whose zlib would take longer than the decoder."""

    def __init__(self, file: h5py.File, count: int, voxels: int, compression: Compression) -> None:
        self.voxels = voxels
        self._count = count
        self._rows = min(count, max(1, HDF5_CHUNK_BYTES // (4 * voxels)))
        if compression == "gzip":
            how: dict[str, Any] = {"compression": "gzip", "compression_opts": GZIP_LEVEL}
            self._pack = _gzip
        else:
            self._pack = shuffled_zstd.pack
            how = {"compression": ZSTD_FILTER, "compression_opts": (shuffled_zstd.LEVEL,), "shuffle": True}
            how["allow_unknown_filter"] = True
        self._dataset = file.create_dataset(SHOWERS, (count, voxels), np.float32, chunks=(self._rows, voxels), **how)
        self._pending = np.zeros((self._rows, voxels), dtype=np.float32)

    def write(self, row: int, block: NDArray[np.float32]) -> None:
        """Write ``block`` (n, voxels) from ``row`` on, which is where the last one ended."""
        done = 0
        while done < len(block):
            place = (row + done) % self._rows
            taken = block[done : done + self._rows - place]
            end = row + done + len(taken)
            if len(taken) < self._rows:
                self._pending[place : place + len(taken)] = taken
                self._pending[place + len(taken) :] = 0
            if end % self._rows == 0 or end == self._count:
                whole = taken if len(taken) == self._rows else self._pending
                first = (end - 1) // self._rows * self._rows
                self._dataset.id.write_direct_chunk((first, 0), self._pack(whole))
            done += len(taken)


def _gzip(block: NDArray[np.float32]) -> bytes:
    packed: bytes = isal_zlib.compress(block, GZIP_LEVEL)
    return packed


def _check_block(block: NDArray[np.float32], row: int, count: int, voxels: int | None) -> None:
    if block.ndim != 2 or block.shape[1] == 0 or (voxels is not None and block.shape[1] != voxels):
        raise DefectError("showers_mev", f"a chunk of shape {block.shape}", f"(n, {voxels or 'voxels'})")
    if row + len(block) > count:
        allowed = f"{count} rows, one for each incident energy"
        raise DefectError("showers_mev", f"at least {row + len(block)} rows", allowed)
    if not math.isfinite(float(block.sum(dtype=np.float64))) and not np.isfinite(block).all():
        bad = row + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
        raise DefectError(f"showers_mev[{bad}]", "a value that is not finite", "finite voxel energies in MeV")
    if block.size and block.min() < 0:
        bad = row + int(np.flatnonzero((block < 0).any(axis=1))[0])
        raise InvalidInputError(f"showers_mev[{bad}]", float(block.min()), "voxel energies >= 0 in MeV")


def _write_error(target: str, error: OSError) -> ShowerFileError:
    reason = os.strerror(error.errno) if error.errno else one_line(error)
    return ShowerFileError(target, f"cannot be written: {reason}", "a writable folder with enough free space")
