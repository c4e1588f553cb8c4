"""Showers in few bytes: zstd over the bytes of float32 in shuffled order, first all first bytes, then all second ones.

It is what HDF5 does with its shuffle filter and filter 32015; the library is loaded when it is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVEL = 3


def pack(block: NDArray[np.float32]) -> bytes:
    """``block`` (rows, voxels), C-contiguous, in zstd."""
    from pyarrow import Codec

    shuffled = np.ascontiguousarray(block.view(np.uint8).reshape(-1, block.itemsize).T)
    packed: bytes = Codec("zstd", LEVEL).compress(shuffled.data, asbytes=True)
    return packed


def unpack(data: bytes, rows: int, voxels: int) -> NDArray[np.float32]:
    """The block (rows, voxels) that ``pack`` packed; ValueError or OSError if it is not one of that size."""
    from pyarrow import Codec

    plain = Codec("zstd").decompress(data, decompressed_size=4 * rows * voxels, asbytes=True)
    block: NDArray[np.float32] = np.frombuffer(plain, np.uint8).reshape(4, -1).T.copy().view(np.float32)
    return block.reshape(rows, voxels)
