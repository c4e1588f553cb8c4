"""Reading showers in the CaloChallenge's HDF5 layout.

A file holds two datasets, both in MeV and in the same row order: ``incident_energies`` (N, 1) and ``showers``
(N, voxels). Files that this project writes are float32 and gzip-compressed; the challenge's own scripts read them as
they are, and ignore the root attributes that say how the showers came to be. Any numeric type is read, as float32.

Every defect becomes a ``ShowerFileError`` that names the file, the dataset and, where there is one, the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from qshower.model.geometry import Geometry, geometry_of_voxel_count
from qshower.model.geometry_choice import chosen_geometry, described_geometry
from qshower.sampler.closing import Closing
from qshower.sampler.errors import InvalidInputError, ShowerFileError
from qshower.sampler.hdf5_reading import HDF5_ERRORS, find_dataset, one_line, open_hdf5, refuse_missing_values

ENERGIES = "incident_energies"
SHOWERS = "showers"
GEOMETRY = "geometry"
"""Root attribute with the geometry's description as JSON."""
LAYOUT = f"datasets {ENERGIES} and {SHOWERS}, as the CaloChallenge has them"

Chunk = tuple[NDArray[np.float64], NDArray[np.float32]]


class ShowersFile(Closing):
    """A shower file open for reading. Use it as a context manager; ``open_showers`` makes one.

    Attributes:
        path: where it is.
        geometry: the voxel layout its rows must have.
        count: number of showers.
        attributes: the root attributes that are text, such as the generator's provenance; others are nobody's concern.
    """

    def __init__(self, path: Path, geometry: Geometry, *, allow_negative: bool = False) -> None:
        self.path = path
        self.geometry = geometry
        self._allow_negative = allow_negative
        self._file = _opened(path)
        try:
            self._energies, self._showers = _whole(self._file, path, ENERGIES), _whole(self._file, path, SHOWERS)
            self.count = self._checked_count()
            self.attributes = _text_attributes(self._file)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._file.close()

    def energies_mev(self) -> NDArray[np.float64]:
        """(N,) incident energies; ShowerFileError if one is not a finite number > 0."""
        return _energies_of(self.path, self._energies)

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
            showers = _rows_of(self.path, self._showers, (first, last), np.float32)
            self._check_values(showers, first)
            yield energies[first:last], showers

    def _checked_count(self) -> int:
        energies: tuple[int, ...] = self._energies.shape or ()
        showers: tuple[int, ...] = self._showers.shape or ()
        voxels = self.geometry.voxel_count
        if len(energies) != 2 or energies[1] != 1:
            raise _error(self.path, ENERGIES, None, f"shape {energies}", "shape (N, 1)")
        if len(showers) != 2 or showers[1] != voxels:
            raise _error(
                self.path, SHOWERS, None, f"shape {showers}", f"shape (N, {voxels}) of geometry {self.geometry.name}"
            )
        if energies[0] != showers[0]:
            raise _error(self.path, SHOWERS, None, f"{showers[0]} rows", f"{energies[0]} rows, as {ENERGIES} has")
        if energies[0] == 0:
            raise _error(self.path, SHOWERS, None, "0 rows", "at least one shower")
        return int(energies[0])

    def _check_values(self, showers: NDArray[np.float32], first: int) -> None:
        # One pass of sums finds almost every bad chunk at memory speed: NaN and infinity survive a sum.
        finite = bool(np.isfinite(showers.sum(dtype=np.float64)))
        if not finite:
            bad = np.flatnonzero(~np.isfinite(showers).all(axis=1))
            if bad.size:
                row = int(bad[0])
                value = showers[row][~np.isfinite(showers[row])][0]
                raise _error(self.path, SHOWERS, first + row, float(value), "finite voxel energies in MeV")
        if not self._allow_negative and showers.min() < 0:
            row = int(np.flatnonzero((showers < 0).any(axis=1))[0])
            raise _error(self.path, SHOWERS, first + row, float(showers[row].min()), "voxel energies >= 0 in MeV")


def open_showers(path: Path, geometry: Geometry | str | None = None, *, allow_negative: bool = False) -> ShowersFile:
    """Open a shower file for reading.

    Args:
        path: the HDF5 file.
        geometry: its voxel layout, or a name, binning file or bundle as ``chosen_geometry`` takes; None for the one
            that the file holds itself, as generated files do, else the CaloChallenge layout of as many voxels.
        allow_negative: let negative voxel energies through, for code that counts them.

    Raises:
        ShowerFileError: missing, truncated, not HDF5, or of other names or shapes than the layout's.
    """
    if geometry is None:
        geometry = _recognised(path)
    elif isinstance(geometry, str):
        geometry = chosen_geometry(geometry)
    return ShowersFile(path, geometry, allow_negative=allow_negative)


def read_energies(path: Path) -> NDArray[np.float64]:
    """(N,) incident energies of a file in MeV, whatever its voxel layout; ShowerFileError as ``open_showers``."""
    with _opened(path) as file:
        dataset = _whole(file, path, ENERGIES)
        shape: tuple[int, ...] = dataset.shape or ()
        if len(shape) != 2 or shape[1] != 1 or shape[0] == 0:
            raise _error(path, ENERGIES, None, f"shape {shape}", "shape (N, 1) with N >= 1")
        return _energies_of(path, dataset)


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


def _opened(path: Path) -> h5py.File:
    return open_hdf5(
        path,
        "an HDF5 file in the CaloChallenge's layout",
        lambda found, allowed: ShowerFileError(str(path), found, allowed),
    )


def _dataset_of(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    return find_dataset(
        file, name, LAYOUT, lambda found, allowed: ShowerFileError(f"{path}: dataset {name}", found, allowed)
    )


def _whole(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """A dataset all of whose values are there."""
    dataset = _dataset_of(file, path, name)
    refuse_missing_values(dataset, lambda found, allowed: _error(path, name, None, found, allowed))
    return dataset


def _energies_of(path: Path, dataset: h5py.Dataset) -> NDArray[np.float64]:
    energies: NDArray[np.float64] = _rows_of(path, dataset, (0, dataset.shape[0]), np.float64)[:, 0]
    bad = np.flatnonzero(~(np.isfinite(energies) & (energies > 0)))
    if bad.size:
        raise _error(path, ENERGIES, int(bad[0]), float(energies[bad[0]]), "finite energies > 0 in MeV")
    return energies


def _rows_of(path: Path, dataset: h5py.Dataset, rows: tuple[int, int], dtype: type[np.floating]) -> NDArray[Any]:
    """Rows of a dataset from the first up to the last; the error names the first that cannot be read."""
    first, last = rows
    try:
        with np.errstate(over="ignore"):
            found: NDArray[Any] = dataset.astype(dtype)[first:last]
    except HDF5_ERRORS as error:
        value, allowed = f"unreadable ({one_line(error)})", "a complete file; copy or download it again"
        raise _error(path, dataset.name.lstrip("/"), _first_unreadable(dataset, first, last), value, allowed) from error
    return found


def _error(path: Path, dataset: str, row: int | None, value: object, allowed: str) -> ShowerFileError:
    where = f"{path}: dataset {dataset}" + ("" if row is None else f", row {row}")
    return ShowerFileError(where, value, allowed)


def _first_unreadable(dataset: h5py.Dataset, first: int, last: int) -> int:
    low, high = first, last
    while high - low > 1:
        middle = (low + high) // 2
        try:
            dataset[low:middle]
        except HDF5_ERRORS:
            high = middle
        else:
            low = middle
    return low


def _text_attributes(file: h5py.File) -> dict[str, str]:
    """The root attributes that are text; what cannot be read as such is left out."""
    found: dict[str, str] = {}
    try:
        names = list(file.attrs)
    except HDF5_ERRORS:
        return found
    for name in names:
        try:
            value = file.attrs[name]
        except HDF5_ERRORS:
            continue
        if isinstance(value, bytes):
            found[name] = value.decode(errors="replace")
        elif isinstance(value, str):
            found[name] = value
    return found


def _recognised(path: Path) -> Geometry:
    with _opened(path) as file:
        shape: tuple[int, ...] = _dataset_of(file, path, SHOWERS).shape or ()
        described = described_geometry(_text_attributes(file).get(GEOMETRY))
    if len(shape) != 2:
        raise _error(path, SHOWERS, None, f"shape {shape}", "shape (N, voxels)")
    if described is not None and described.voxel_count == shape[1]:
        return described
    try:
        return geometry_of_voxel_count(int(shape[1]))
    except InvalidInputError as error:
        allowed = f"{error.allowed}; or a geometry of your own: --geometry FILE.xml, or the folder of its bundle"
        raise _error(path, SHOWERS, None, f"{shape[1]} voxels", allowed) from error
