"""Reading and writing showers in the CaloChallenge's HDF5 layout.

A file holds two datasets, both in MeV and in the same row order: ``incident_energies`` (N, 1) and ``showers``
(N, voxels). Files that this project writes are float32 and gzip-compressed; the challenge's own scripts read them as
they are, and ignore the root attributes that say how the showers came to be. Any numeric type is read, as float32.

Every defect becomes a ``ShowerFileError`` that names the file, the dataset and, where there is one, the row.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import ArrayLike, NDArray

from qshower.model.geometry import Geometry, geometry_of_voxel_count, named_geometry
from qshower.sampler.errors import InvalidInputError, ShowerFileError
from qshower.sampler.files import WriteGuard, replacing_hdf5, uninterrupted

ENERGIES = "incident_energies"
SHOWERS = "showers"

# ISA-L's gzip is eight times as fast as zlib's at level 4, for 2 % more bytes; any zlib reads it.
GZIP_LEVEL = 1
HDF5_CHUNK_BYTES = 1 << 20
# HDF5 keeps an attribute above this size only in the object headers that its format 1.8 introduced.
LARGE_ATTRIBUTE_BYTES = 60_000

Chunk = tuple[NDArray[np.float64], NDArray[np.float32]]


class ShowersFile:
    """A shower file open for reading. Use it as a context manager; ``open_showers`` makes one.

    Attributes:
        path: where it is.
        geometry: the voxel layout its rows must have.
        count: number of showers.
        attributes: root attributes as text, such as the generator's provenance.
    """

    def __init__(self, path: Path, geometry: Geometry, *, allow_negative: bool = False) -> None:
        self.path = path
        self.geometry = geometry
        self._allow_negative = allow_negative
        self._file = _open_hdf5(path)
        try:
            self.count = self._checked_count()
            self.attributes: dict[str, str] = {name: str(value) for name, value in self._file.attrs.items()}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()

    def energies_mev(self) -> NDArray[np.float64]:
        """(N,) incident energies; ShowerFileError if one is not a finite number > 0."""
        energies: NDArray[np.float64] = self._rows(ENERGIES, 0, self.count, np.float64)[:, 0]
        bad = np.flatnonzero(~(np.isfinite(energies) & (energies > 0)))
        if bad.size:
            raise self._error(ENERGIES, int(bad[0]), float(energies[bad[0]]), "finite energies > 0 in MeV")
        return energies

    def chunks(self, rows: int = 1000, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Yield (energies (n,) float64, showers (n, voxels) float32) in file order, ``rows`` at a time.

        Args:
            rows: showers per chunk, at least 1; what is in memory at a time is rows × voxels × 4 bytes.
            start: first row.
            stop: one past the last row; None for the end.

        Raises:
            ShowerFileError: a row is unreadable, or holds a value that is not finite, or (unless the file was opened
                with ``allow_negative``) a negative one.
        """
        if rows < 1:
            raise InvalidInputError("rows", rows, "an integer >= 1")
        energies = self.energies_mev()
        end = self.count if stop is None else min(stop, self.count)
        for first in range(start, end, rows):
            last = min(first + rows, end)
            showers = self._rows(SHOWERS, first, last, np.float32)
            self._check_values(showers, first)
            yield energies[first:last], showers

    def _checked_count(self) -> int:
        for name in (ENERGIES, SHOWERS):
            if not isinstance(self._file.get(name), h5py.Dataset):
                found = ", ".join(self._file) or "nothing"
                raise self._error(name, None, f"missing; the file holds {found}", f"datasets {ENERGIES} and {SHOWERS}")
            if self._file[name].dtype.kind not in "fiu":
                raise self._error(name, None, str(self._file[name].dtype), "real numbers")
        energies, showers = self._file[ENERGIES].shape, self._file[SHOWERS].shape
        voxels = self.geometry.voxel_count
        if len(energies) != 2 or energies[1] != 1:
            raise self._error(ENERGIES, None, f"shape {energies}", "shape (N, 1)")
        if len(showers) != 2 or showers[1] != voxels:
            raise self._error(
                SHOWERS, None, f"shape {showers}", f"shape (N, {voxels}) of geometry {self.geometry.name}"
            )
        if energies[0] != showers[0]:
            raise self._error(SHOWERS, None, f"{showers[0]} rows", f"{energies[0]} rows, as {ENERGIES} has")
        if energies[0] == 0:
            raise self._error(SHOWERS, None, "0 rows", "at least one shower")
        return int(energies[0])

    def _rows(self, name: str, first: int, last: int, dtype: type[np.floating]) -> NDArray[Any]:
        """Rows of a dataset; if they cannot be read, the error names the first that cannot."""
        dataset = self._file[name]
        try:
            with np.errstate(over="ignore"):
                rows: NDArray[Any] = dataset.astype(dtype)[first:last]
        except (OSError, RuntimeError) as error:
            row = self._first_unreadable(name, first, last)
            value = f"unreadable ({_one_line(error)})"
            raise self._error(name, row, value, "a complete file; copy or download it again") from error
        return rows

    def _first_unreadable(self, name: str, first: int, last: int) -> int:
        low, high = first, last
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._file[name][low:middle]
            except (OSError, RuntimeError):
                high = middle
            else:
                low = middle
        return low

    def _check_values(self, showers: NDArray[np.float32], first: int) -> None:
        # One pass of sums finds almost every bad chunk at memory speed: NaN and infinity survive a sum.
        finite = bool(np.isfinite(showers.sum(dtype=np.float64)))
        if not finite:
            bad = np.flatnonzero(~np.isfinite(showers).all(axis=1))
            if bad.size:
                row = int(bad[0])
                value = showers[row][~np.isfinite(showers[row])][0]
                raise self._error(SHOWERS, first + row, float(value), "finite voxel energies in MeV")
        if not self._allow_negative and showers.min() < 0:
            row = int(np.flatnonzero((showers < 0).any(axis=1))[0])
            raise self._error(SHOWERS, first + row, float(showers[row].min()), "voxel energies >= 0 in MeV")

    def _error(self, dataset: str, row: int | None, value: object, allowed: str) -> ShowerFileError:
        where = f"{self.path}: dataset {dataset}" + ("" if row is None else f", row {row}")
        return ShowerFileError(where, value, allowed)


def open_showers(path: Path, geometry: Geometry | str | None = None, *, allow_negative: bool = False) -> ShowersFile:
    """Open a shower file for reading.

    Args:
        path: the HDF5 file.
        geometry: its voxel layout, or its name; None to recognise a CaloChallenge layout by the number of voxels.
        allow_negative: let negative voxel energies through, for code that counts them.

    Raises:
        ShowerFileError: missing, truncated, not HDF5, or of other names or shapes than the layout's.
    """
    if geometry is None:
        geometry = _recognised(path)
    elif isinstance(geometry, str):
        geometry = named_geometry(geometry)
    return ShowersFile(path, geometry, allow_negative=allow_negative)


def read_showers(
    path: Path, geometry: Geometry | str | None = None, limit: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """All showers of a file, or its first ``limit``: energies (N,) and showers (N, voxels), in MeV."""
    if limit is not None and limit < 1:
        raise InvalidInputError("limit", limit, "an integer >= 1")
    with open_showers(path, geometry) as file:
        count = file.count if limit is None else min(limit, file.count)
        showers = np.empty((count, file.geometry.voxel_count), dtype=np.float32)
        energies = file.energies_mev()[:count]
        row = 0
        for _, chunk in file.chunks(stop=count):
            showers[row : row + len(chunk)] = chunk
            row += len(chunk)
    return energies, showers


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
    """
    energies = np.asarray(incident_energies_mev, dtype=np.float64)
    energies = energies[:, 0] if energies.ndim == 2 and energies.shape[1] == 1 else energies
    if energies.ndim != 1 or energies.size == 0:
        raise InvalidInputError("incident_energies_mev", f"shape {energies.shape}", "shape (N,) with N >= 1")
    if not (np.isfinite(energies) & (energies > 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(energies) & (energies > 0)))[0])
        raise InvalidInputError(f"incident_energies_mev[{row}]", float(energies[row]), "finite energies > 0")
    chunks = [showers_mev] if isinstance(showers_mev, np.ndarray) else showers_mev
    if isinstance(target, Path):
        if not target.parent.is_dir():
            raise ShowerFileError(str(target), "its folder does not exist", "a path in an existing folder")
        try:
            with replacing_hdf5(target) as guard:
                _write_hdf5(guard, energies, chunks, attributes, guard.check)
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
    count = energies.shape[0]
    with ExitStack() as stack:
        with uninterrupted():
            file = h5py.File(target, "w", libver=("v108", "v110") if large else None)
            stack.callback(uninterrupted()(file.close))
            file.create_dataset(
                ENERGIES, data=energies.astype(np.float32)[:, None], chunks=True, compression="gzip",
                compression_opts=GZIP_LEVEL,
            )  # fmt: skip
        showers: _CompressedRows | None = None
        row = 0
        for chunk in chunks:
            block = np.ascontiguousarray(chunk, dtype=np.float32)
            _check_block(block, row, count, None if showers is None else showers.voxels)
            with uninterrupted():
                if showers is None:
                    showers = _CompressedRows(file, count, block.shape[1])
                showers.write(row, block)
            after_chunk()
            row += len(block)
        if row != count:
            raise InvalidInputError("showers_mev", f"{row} rows", f"{count} rows, one for each incident energy")
        described = attributes() if callable(attributes) else attributes
        with uninterrupted():
            file.attrs.update(described)
            file.close()


class _CompressedRows:
    """The showers' dataset, compressed here rather than by HDF5, whose zlib would take longer than the decoder."""

    def __init__(self, file: h5py.File, count: int, voxels: int) -> None:
        self.voxels = voxels
        self._count = count
        self._rows = min(count, max(1, HDF5_CHUNK_BYTES // (4 * voxels)))
        self._dataset = file.create_dataset(
            SHOWERS, (count, voxels), np.float32, chunks=(self._rows, voxels), compression="gzip",
            compression_opts=GZIP_LEVEL,
        )  # fmt: skip
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
                self._dataset.id.write_direct_chunk((first, 0), isal_zlib.compress(whole, GZIP_LEVEL))
            done += len(taken)


def _check_block(block: NDArray[np.float32], row: int, count: int, voxels: int | None) -> None:
    if block.ndim != 2 or block.shape[1] == 0 or (voxels is not None and block.shape[1] != voxels):
        raise InvalidInputError("showers_mev", f"a chunk of shape {block.shape}", f"(n, {voxels or 'voxels'})")
    if row + len(block) > count:
        allowed = f"{count} rows, one for each incident energy"
        raise InvalidInputError("showers_mev", f"at least {row + len(block)} rows", allowed)
    if not math.isfinite(float(block.sum(dtype=np.float64))) and not np.isfinite(block).all():
        bad = row + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
        raise InvalidInputError(f"showers_mev[{bad}]", "a value that is not finite", "finite voxel energies in MeV")
    if block.size and block.min() < 0:
        bad = row + int(np.flatnonzero((block < 0).any(axis=1))[0])
        raise InvalidInputError(f"showers_mev[{bad}]", float(block.min()), "voxel energies >= 0 in MeV")


def _write_error(target: str, error: OSError) -> ShowerFileError:
    reason = os.strerror(error.errno) if error.errno else _one_line(error)
    return ShowerFileError(target, f"cannot be written: {reason}", "a writable folder with enough free space")


def _open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        raise ShowerFileError(str(path), "no such file", "an HDF5 file in the CaloChallenge's layout")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        allowed = "a complete HDF5 file; copy or download it again"
        raise ShowerFileError(str(path), f"unreadable ({_one_line(error)})", allowed) from error


def _recognised(path: Path) -> Geometry:
    with _open_hdf5(path) as file:
        dataset = file.get(SHOWERS)
        shape: tuple[int, ...] = dataset.shape if isinstance(dataset, h5py.Dataset) else ()
    if len(shape) != 2:
        found = f"shape {shape}" if shape else "missing"
        raise ShowerFileError(f"{path}: dataset {SHOWERS}", found, "shape (N, voxels)")
    try:
        return geometry_of_voxel_count(int(shape[1]))
    except InvalidInputError as error:
        raise ShowerFileError(f"{path}: dataset {SHOWERS}", f"{shape[1]} voxels", error.allowed) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
