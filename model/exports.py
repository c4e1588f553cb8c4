"""Showers in the layouts of other programs: ShowerData's point clouds, DDML's shower libraries, tables of voxels.

Each export reads a file chunk by chunk and appears whole or not at all. Lengths are in mm; energies are in the unit of
the program that reads the file. ``advance`` is called with the number of showers that each step has written.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from qshower.model.geometry import Geometry
from qshower.model.showers_file import ShowersFile
from qshower.sampler.errors import InvalidInputError, ShowerFileError
from qshower.sampler.files import replacing_hdf5, uninterrupted, write_file

MEV_PER_GEV = 1000.0
SHOWERDATA_VERSION = "0.7.0"
"""Of the package whose layout ``export_point_clouds`` writes."""
MOST_CELLS = 1 << 20

Advance = Callable[[int], object]


def voxel_layers(geometry: Geometry) -> NDArray[np.int64]:
    """(voxels,) layer of each voxel, counted from 0 in order of depth."""
    return np.repeat(np.arange(geometry.layer_count), [layer.voxel_count for layer in geometry.layers])


def export_point_clouds(showers: ShowersFile, target: Path, advance: Advance = int) -> None:
    """Write the layout of the package showerdata: a point for each hit voxel, at its centre.

    A point is x and y in mm, the layer counted from 0, and the energy in GeV; incident energies are in GeV, along z.

    Raises:
        ShowerFileError: the file cannot be read, or the target not written.
    """
    geometry = showers.geometry
    places = np.stack([geometry.x_mm(), geometry.y_mm(), voxel_layers(geometry)], axis=1).astype(np.float32)
    count, counts = showers.count, np.zeros(showers.count, dtype=np.int32)
    with _written(target) as file:
        clouds = file.create_dataset("showers", shape=(count,), dtype=h5py.vlen_dtype(np.dtype("float32")))
        row = 0
        for _, chunk in showers.chunks(200):
            for shower in chunk:
                hit = np.flatnonzero(shower)
                energies_gev = shower[hit, None] / np.float32(MEV_PER_GEV)
                clouds[row] = np.concatenate([places[hit], energies_gev], axis=1).reshape(-1)
                counts[row] = len(hit)
                row += 1
            advance(len(chunk))
        directions = np.zeros((count, 3), dtype=np.float32)
        directions[:, 2] = 1.0
        incident_gev = (showers.energies_mev() / MEV_PER_GEV).astype(np.float32)
        file.create_dataset("energies", data=incident_gev[:, None])
        file.create_dataset("directions", data=directions)
        file.create_dataset("pdg", data=np.full(count, geometry.pid, dtype=np.int32))
        file.create_dataset("shower_ids", data=np.arange(count, dtype=np.int32))
        file.create_dataset("shape", data=np.array([count, max(1, int(counts.max())), 4]))
        file.create_dataset("num_points", data=counts)
        file.attrs["showerdata_version"] = SHOWERDATA_VERSION
        _describe(file, showers, "x_mm, y_mm, layer, energy_gev")


def export_layers(showers: ShowersFile, target: Path, cell_mm: float, advance: Advance = int) -> tuple[int, int, int]:
    """Write a shower library as DDML replays it: ``layers`` (N, x, y, z), float32, MeV; ``events`` is the same dataset.

    The cells are squares of ``cell_mm`` around the shower's axis, z is the layer. A voxel's energy goes into the cell
    that its centre is in, so that the energy of each layer is kept and positions move by half a cell at most.

    Returns:
        The cells of a shower in x, y and z.

    Raises:
        InvalidInputError: ``cell_mm`` is not a number > 0, or makes too many cells.
        ShowerFileError: the file cannot be read, or the target not written.
    """
    geometry = showers.geometry
    side = cells_across(geometry, cell_mm)
    x, y = (
        np.floor(along / cell_mm + side / 2).astype(np.int64).clip(0, side - 1)
        for along in (geometry.x_mm(), geometry.y_mm())
    )
    shape = (side, side, geometry.layer_count)
    cells = (x * side + y) * geometry.layer_count + voxel_layers(geometry)
    with _written(target) as file:
        options: dict[str, Any] = {"chunks": (1, *shape), "compression": "gzip", "compression_opts": 1}
        layers = file.create_dataset("layers", shape=(showers.count, *shape), dtype=np.float32, **options)
        row = 0
        for _, chunk in showers.chunks(200):
            block = np.stack([np.bincount(cells, shower, math.prod(shape)) for shower in chunk])
            layers[row : row + len(chunk)] = block.astype(np.float32).reshape(len(chunk), *shape)
            row += len(chunk)
            advance(len(chunk))
        file["events"] = layers
        file.create_dataset("incident_energies", data=showers.energies_mev().astype(np.float32)[:, None])
        file.attrs["cell_mm"] = cell_mm
        _describe(file, showers, "MeV by cell: x, y, layer")
    return shape


def usual_cell_mm(geometry: Geometry) -> float:
    """The narrowest radial bin of a regular geometry; of others a 64th of their width, if that is more."""
    narrowest = min(high - low for layer in geometry.layers for low, high in itertools.pairwise(layer.r_edges_mm))
    return float(max(narrowest, max(layer.r_edges_mm[-1] for layer in geometry.layers) / 32))


def cells_across(geometry: Geometry, cell_mm: float) -> int:
    """How many cells of ``cell_mm`` cover the geometry across its axis; InvalidInputError if that cannot be."""
    if not (math.isfinite(cell_mm) and cell_mm > 0):
        raise InvalidInputError("cell_mm", cell_mm, "a number of mm > 0")
    widest_mm = max(layer.r_edges_mm[-1] for layer in geometry.layers)
    side = max(1, math.ceil(2 * widest_mm / cell_mm))
    if side**2 * geometry.layer_count > MOST_CELLS:
        raise InvalidInputError("cell_mm", cell_mm, f"cells that are no more than {MOST_CELLS} in a shower")
    return side


def export_centres(geometry: Geometry, target: Path) -> None:
    """Write a table of the voxels as CSV, layer, its id, r, angle, x and y of each centre; or ShowerFileError."""
    layers = voxel_layers(geometry)
    columns = {
        "voxel": np.arange(geometry.voxel_count),
        "layer": layers,
        "layer_id": np.array([layer.id for layer in geometry.layers])[layers],
        "r_mm": geometry.r_mm(),
        "alpha_rad": np.concatenate([layer.alpha_centres() for layer in geometry.layers]),
        "x_mm": geometry.x_mm(),
        "y_mm": geometry.y_mm(),
    }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    with _told(target):
        write_file(target, text.getvalue())


@contextmanager
def _written(target: Path) -> Iterator[h5py.File]:
    with _told(target), replacing_hdf5(target) as guard:
        with uninterrupted():
            file = h5py.File(guard, "w", libver=("v108", "v110"))
        try:
            yield file
            guard.check()
        finally:
            with uninterrupted():
                file.close()


@contextmanager
def _told(target: Path) -> Iterator[None]:
    if not target.parent.is_dir():
        raise ShowerFileError(str(target), "its folder does not exist", "a path in an existing folder")
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        expected = "a writable folder with enough free space"
        raise ShowerFileError(str(target), f"cannot be written: {reason}", expected) from error


def _describe(file: Any, showers: ShowersFile, columns: str) -> None:
    file.attrs.update(
        {name: showers.attributes[name] for name in ("provenance", "geometry") if name in showers.attributes}
    )
    file.attrs["columns"] = columns
