"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qshower.client.client_errors import MissingPackageError

GZIP_LEVEL = 1
CHUNK_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable and writable, that takes the place of ``path`` if the block ends well.

    Raises:
        OSError: the file cannot be written, or is a device or pipe; what stood there before still does.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file; nothing else is replaced", str(path))
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_hdf5(
    path: Path,
    incident_energies_mev: NDArray[np.float64],
    showers_mev: NDArray[np.float32],
    attributes: Mapping[str, str],
) -> None:
    """Showers (N, voxels) of energies (N,), MeV, in the CaloChallenge's layout.

    Raises:
        MissingPackageError: h5py is not installed.
        OSError: the file cannot be written.
    """
    try:
        import h5py
    except ImportError as error:
        needed = "h5py is needed to write HDF5: pip install 'qshower-client[hdf5]'"
        raise MissingPackageError(needed) from error
    rows, voxels = showers_mev.shape
    # Attributes of more than 64 kB need the object headers of HDF5 1.8.
    with replacing(path) as target, h5py.File(target, "w", libver=("v108", "v110")) as file:
        file.create_dataset("incident_energies", data=incident_energies_mev.astype(np.float32)[:, None])
        file.create_dataset(
            "showers",
            data=showers_mev,
            dtype=np.float32,
            chunks=(max(1, min(rows, CHUNK_BYTES // (4 * voxels))), voxels),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
        )
        file.attrs.update(attributes)
